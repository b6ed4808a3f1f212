"""Deleting runs, as a user does: they are marked, and pruned later."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from platform_db.database.session import takes_session
from platform_db.lifecycle import TransitionResult, transition_many
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.states import RunStatus


@takes_session
def delete_workflows(
    session: Session,
    ids: Iterable[RunOrId],
    *,
    owner: UserOrId | None = None,
    reason: str | None = None,
) -> list[TransitionResult]:
    """Mark runs as deleted where their status allows it, in one statement, and report on each in their order.

    A run that is running has to end before. One that is deleted already is left as it is, and is no refusal.

    :param ids: runs, their keys or ids; an id that occurs twice has two equal results.
    :param owner: whose runs may be meant; those of others are not found. Without it, any.
    :param reason: why, for the history.
    :raises errors.InvalidIdentifier: one is no id; then nothing is deleted.
    """
    runs: list[RunOrId] = list(ids)
    if owner is not None:
        owner_id = user_id_of(owner)
        runs = [(owner_id, RunTarget.of(session, run, Workflow).id_) for run in runs]
    return transition_many(session, runs, RunStatus.deleted, model=Workflow, reason=reason)
