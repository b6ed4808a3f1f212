"""Restarts: what a run that has ended was asked to do is queued again, as a run of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount, require_seconds
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.target import Key, RunOrId, RunTarget
from platform_db.models import Workflow, WorkspaceRetentionRule
from platform_db.models.expiry import expire_rows
from platform_db.states import WORKFLOW, RunStatus

# A run that kills its workers would otherwise be started for ever.
MOST_RESTARTS = 3


@takes_session
def restart(
    session: Session,
    run: RunOrId,
    *,
    reason: str | None = None,
    delay: timedelta | float = 0,
    most_restarts: int | None = None,
) -> Workflow:
    """Queue a restart of a run that has ended, in the same workspace, and return it.

    The run keeps its status, and its restart has the next number. A note in the history of each names the
    other; its topic is ``restart``.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :param reason: why, for the history.
    :param delay: how long the queue holds the restart back, in seconds where it is a number.
    :param most_restarts: how many restarts may follow one another; by default any number.
    :raises errors.WorkflowNotFound: there is no such run.
    :raises errors.Refused: it is alive, or deleted, or such a restart already.
    :raises errors.RunNumberError: no run of its name has had its number.
    """
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    owner_id, id_ = target.key(session)
    parameters = {
        "owner": str(owner_id),
        "id": str(id_),
        "new_id": str(new_id()),
        "reason": reason,
        "seconds": require_seconds(delay, "delay"),
        "most": None if most_restarts is None else require_amount(most_restarts, "number of restarts"),
    }
    new = session.connection().execute(_RESTART, parameters).scalar_one_or_none()
    if new is None:
        _refuse(session, target, parameters)
    expire_rows(session, WorkspaceRetentionRule, {owner_id})
    return session.get_one(Workflow, (owner_id, new))


def restart_if_possible(
    session: Session,
    run: Key,
    *,
    reason: str,
    delay: timedelta | float = 0,
    most_restarts: int = MOST_RESTARTS,
) -> Workflow | None:
    """Queue a restart as :func:`restart` does, or return None; a note in the run's history then says why.

    What is wrong with one run must not keep others from going on.
    """
    try:
        with session.begin_nested():
            return restart(session, run, reason=reason, delay=delay, most_restarts=most_restarts)
    except (errors.Refused, sa.exc.IntegrityError, sa.exc.DataError) as error:
        message = f"could not be restarted: {getattr(error, 'orig', error)}"
        add_note(session, session.get_one(Workflow, run), "restart", message)
        return None


def _refuse(session: Session, target: RunTarget, parameters: dict[str, Any]) -> NoReturn:
    stored = session.connection().execute(_READ, parameters).one_or_none()
    if stored is None:
        raise target.not_found()
    if stored.status in RESTARTED:
        raise errors.Refused(f"it was restarted as often as allowed ({parameters['most']})")
    expected = " or ".join(RESTARTED)
    raise errors.Conflict(target.table, str(target.id_), "status", expected, stored.status, stored.revision)


# The files of a deleted run may be gone.
RESTARTED = [status for status in WORKFLOW.statuses if status in WORKFLOW.ended - {RunStatus.deleted}]

_ENDED = ", ".join(f"'{status}'" for status in RESTARTED)

_TAKEN_OVER = """
    owner_id, name, specification, type_, input_parameters, operational_options, engine_specific, complexity,
    priority, workspace_path, git_ref, git_repo, git_provider, labels, run_number_major
"""

_NUMBER = "run_number_major || CASE WHEN run_number_minor > 0 THEN '.' || run_number_minor ELSE '' END"

_RESTART = sa.text(f"""
    WITH former AS MATERIALIZED (
        SELECT {_TAKEN_OVER}, id_, {_NUMBER} AS number FROM platform.workflow
        WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid) AND status IN ({_ENDED})
          AND (CAST(:most AS integer) IS NULL OR run_number_minor < :most)
        FOR NO KEY UPDATE
    ),
    restarted AS (
        INSERT INTO platform.workflow ({_TAKEN_OVER}, id_, restart, status, start_after)
        SELECT {_TAKEN_OVER}, CAST(:new_id AS uuid), true, 'queued',
               CASE WHEN :seconds > 0 THEN clock_timestamp() + make_interval(secs => :seconds) END
        FROM former
        RETURNING owner_id, id_, {_NUMBER} AS number
    ),
    noted AS (
        INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
        SELECT gen_random_uuid(), former.owner_id, 'workflow', note.id_, 'restart', note.message, note.details
        FROM former CROSS JOIN restarted CROSS JOIN LATERAL (VALUES
            (former.id_, 'restarted as ' || restarted.number, jsonb_build_object('restart', restarted.id_)),
            (restarted.id_, 'restarts ' || former.number || coalesce(': ' || :reason, ''),
             jsonb_build_object('run', former.id_))
        ) AS note (id_, message, details)
    )
    SELECT id_ FROM restarted
    """)

_READ = sa.text("""
    SELECT status, revision, run_number_minor FROM platform.workflow
    WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
    """)
