"""Cancelling runs: what waits stops at once; the worker of what is running is asked to stop it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.lifecycle.stopping import Stored, stop_runs
from platform_db.lifecycle.target import Key, RunOrId, RunTarget
from platform_db.lifecycle.transitions import TransitionResult
from platform_db.models import Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota.termination import account_for_ended_runs
from platform_db.states import RunStatus


@takes_session
def cancel(
    session: Session,
    run: RunOrId,
    *,
    reason: str | None = None,
    force: bool = False,
) -> RunStatus:
    """Stop a run that waits, or ask the worker of one that is running; return the status that is stored then.

    *stopped*: its jobs that were alive are stopped, too. *running*: its ``stop_requested_at`` is set. The
    worker's next heartbeat tells it (:class:`platform_db.leases.Held`), and recovery stops what has not
    stopped within its grace time. A run that was stopped or asked before stays so.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :param reason: why, for the history.
    :param force: stop it at once, also where it is running. So its worker says that it did stop.
    :raises errors.InvalidTransition: it finished, failed or was deleted before.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    (result,) = cancel_workflows(session, [run], reason=reason, force=force)
    if result.refusal is not None:
        raise result.refusal
    return RunStatus(result.status)


@takes_session
def cancel_workflows(
    session: Session,
    ids: Iterable[RunOrId],
    *,
    owner: UserOrId | None = None,
    reason: str | None = None,
    force: bool = False,
) -> list[TransitionResult]:
    """Cancel runs as :func:`cancel` does, in one statement, and report on each in their order.

    The jobs of those that stop are stopped in the same transaction, which takes a second for about 7,000 of
    them; their rows are locked until it ends.

    A result of a run that is asked has no refusal, and its status is *running*.

    :param ids: runs, their keys or ids; an id that occurs twice has two equal results.
    :param owner: whose runs may be meant; those of others are not found. Without it, any.
    :raises errors.InvalidIdentifier: one is no id; then nothing is stopped.
    """
    session.flush()
    targets = [RunTarget.of(session, run, Workflow) for run in ids]
    if owner is not None:
        owner_id = user_id_of(owner)
        for target in targets:
            target.owner_id = owner_id
    found = stop_runs(session, _keys_of(session, targets), reason=reason, force=force)
    stopped = [stored for stored in found.values() if stored.former is not stored.status]
    started = [stored.key for stored in stopped if stored.former is RunStatus.running]
    account_for_ended_runs(session, [stored.key for stored in stopped], started)
    return [_result(target, found.get(target.id_)) for target in targets]


def _result(target: RunTarget, stored: Stored | None) -> TransitionResult:
    if stored is None:
        return TransitionResult(target.id_, False, None, None, target.not_found())
    changed, refusal = stored.status != stored.former, None
    if stored.status not in (RunStatus.stopped, RunStatus.running):
        refusal = errors.InvalidTransition(target.table, str(target.id_), stored.status, RunStatus.stopped)
    return TransitionResult(target.id_, changed, stored.status, stored.revision, refusal)


def _keys_of(session: Session, targets: list[RunTarget]) -> list[Key]:
    """Return the keys of the runs that are there; the owners that are not known are looked up together."""
    unknown = [str(target.id_) for target in targets if target.owner_id is None]
    owners: dict[uuid.UUID, uuid.UUID] = {}
    if unknown:
        owners.update((id_, owner) for id_, owner in session.connection().execute(_OWNERS, {"ids": unknown}))
    keys = {(target.owner_id or owners.get(target.id_), target.id_) for target in targets}
    return [(owner_id, id_) for owner_id, id_ in keys if owner_id is not None]


_OWNERS = sa.text("SELECT id_, owner_id FROM platform.workflow WHERE id_ = ANY (CAST(:ids AS uuid[]))")
