"""Restarts: what a run that has ended was asked to do is queued again, as a run of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount, require_seconds
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.target import Key, RunOrId, RunTarget
from platform_db.models import Workflow, WorkspaceRetentionRule
from platform_db.models.expiry import expire_rows
from platform_db.states import WORKFLOW, RunStatus

# A run that kills its workers would otherwise be started for ever, and at once.
MOST_RESTARTS = 3
DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(hours=1)

LARGEST_NUMBER = 2**31 - 1  # of a column of integers


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
    seconds = require_seconds(delay, "delay")
    return _restart(session, run, reason, seconds, seconds, most_restarts)


def restart_if_possible(
    session: Session,
    run: Key,
    *,
    reason: str,
    delay: timedelta | float = DELAY,
    longest_delay: timedelta | float = LONGEST_DELAY,
    most_restarts: int = MOST_RESTARTS,
) -> Workflow | None:
    """Queue a restart, which waits twice as long as the last, or return None; a note then says why.

    What is wrong with one run must not keep others from going on.
    """
    first, longest = require_seconds(delay, "delay"), require_seconds(longest_delay, "longest delay")
    try:
        with session.begin_nested():
            return _restart(session, run, reason, first, longest, most_restarts)
    except (errors.Refused, sa.exc.IntegrityError, sa.exc.DataError) as error:
        message = f"could not be restarted: {getattr(error, 'orig', error)}"
        add_note(session, session.get_one(Workflow, run), "restart", message)
        return None


def _restart(
    session: Session,
    run: RunOrId,
    reason: str | None,
    first: float,
    longest: float,
    most_restarts: int | None,
) -> Workflow:
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    owner_id, id_ = target.key(session)
    parameters = {
        "owner": str(owner_id),
        "id": str(id_),
        "new_id": str(new_id()),
        "reason": reason,
        "first": first,
        "longest": longest,
        "most": None if most_restarts is None else require_restarts(most_restarts),
    }
    new = execute_for(session.connection(), owner_id, _RESTART, parameters).scalar_one_or_none()
    if new is None:
        _refuse(session, target, parameters)
    expire_rows(session, WorkspaceRetentionRule, {owner_id})
    return session.get_one(Workflow, (owner_id, new))


def require_restarts(number: int) -> int:
    """Return how many restarts are allowed.

    :raises errors.InvalidArgument: it is negative, or more than an ``integer`` column holds.
    """
    return require_amount(number, "number of restarts", largest=LARGEST_NUMBER)


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


def next_start(attempts: str) -> str:
    """Return when the queue may hand out what failed so often before: it waits twice as long each time.

    It waits ``:first`` seconds at first, and ``:longest`` at most.
    """
    return f"""CASE WHEN :first > 0 THEN clock_timestamp() + make_interval(
        secs => least(:longest, :first * power(CAST(2 AS double precision), least({attempts}, 64)))) END"""


# Before the row: a creator has this lock, and may write the row then.
LOCK_OWNER = "SELECT platform.lock_owner(CAST(:owner AS uuid))"

_RESTART = sa.text(f"""
    WITH held AS MATERIALIZED ({LOCK_OWNER}),
    former AS MATERIALIZED (
        SELECT {_TAKEN_OVER}, id_, {_NUMBER} AS number, run_number_minor FROM platform.workflow, held
        WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid) AND status IN ({_ENDED})
          AND (CAST(:most AS integer) IS NULL OR run_number_minor < :most)
        FOR NO KEY UPDATE OF workflow
    ),
    restarted AS (
        INSERT INTO platform.workflow ({_TAKEN_OVER}, id_, restart, status, start_after)
        SELECT {_TAKEN_OVER}, CAST(:new_id AS uuid), true, 'queued',
               {next_start("run_number_minor")}
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
