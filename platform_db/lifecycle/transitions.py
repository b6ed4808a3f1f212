"""Changing statuses: one compare-and-set statement, never a read followed by a write.

Which status may follow which is in :mod:`platform_db.states`; the database guards it for every writer. The
functions here put the condition *into* the statement, so a refusal leaves the transaction usable.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from platform_db import errors
from platform_db.crypto.token_format import require_no_token
from platform_db.database.distribution import by_owner, is_distributed
from platform_db.database.session import takes_session
from platform_db.database.transaction_settings import say, saying
from platform_db.lifecycle import statements
from platform_db.lifecycle.target import GuardedTarget, RowOrId
from platform_db.models import InteractiveSession, Job, Service, UserToken, Workflow, WorkspaceRetentionRule
from platform_db.models.base import Base, identity_of
from platform_db.models.expiry import expire_on_rollback, expire_row, expire_rows, held_keys
from platform_db.states import MACHINES, Status

Guarded = Workflow | Job | InteractiveSession | Service | UserToken | WorkspaceRetentionRule
"""A row that has a guarded status."""

Statuses = Status | str | Collection[Status | str]
"""One status, or several."""

# How often to try where others keep changing the row between two statements.
ATTEMPTS = 10


class TransitionResult(NamedTuple):
    """The result for one row.

    :param changed: whether the row's status was changed.
    :param status: the status that the row has now; None where there is no such row.
    :param revision: the revision that the row has now.
    :param refusal: why it was not changed, where it was refused: what :func:`transition` would have raised.
    """

    id_: uuid.UUID
    changed: bool
    status: str | None
    revision: int | None
    refusal: errors.PlatformDBError | None = None


@takes_session
def transition(
    session: Session,
    row_or_id: RowOrId,
    status: Status | str,
    *,
    model: type[Guarded] | None = None,
    reason: str | None = None,
    expected_status: Statuses | None = None,
    unexpected_statuses: Statuses | None = None,
    expected_revision: int | None = None,
    on_conflict: Literal["raise", "report"] = "raise",
) -> Status:
    """Set a row's status where that is allowed and expected, and return the status that is stored then.

    The status that the row already has changes nothing and is no error. A refusal leaves the transaction
    usable, but for one: of an extra transition that is forbidden while this waits for the row. Of two writers
    that race, one changes the row, and the other sees what it stored.

    :param row_or_id: the row, or, with ``model``, its key ``(owner_id, id_)`` or its id alone.
    :param model: what an id is the id of, as in ``session.get(model, id)``.
    :param reason: why, for the history.
    :param expected_status: change it only from this status, or from one of these; never, if none is given.
    :param unexpected_statuses: do not change it from this status, or from any of these.
    :param expected_revision: change it only at this revision.
    :param on_conflict: ``report`` returns the stored status where ``raise`` would raise.
    :raises errors.InvalidTransition: the stored status does not allow it.
    :raises errors.Conflict: the row is not as expected.
    :raises errors.NotFound: there is no such row.
    """
    session.flush()
    target = _Target.of(session, row_or_id, model)
    wanted = target.status(status)
    expected = _Expected.of(target, expected_status, unexpected_statuses)
    parameters = {
        "id": str(target.id_),
        "owner": None if target.owner_id is None else str(target.owner_id),
        "reason": reason,
        "expected_revision": expected_revision,
    }
    connection = session.connection()
    row = target.held(session)
    if is_distributed(connection):
        parameters["reason"] = None  # It is given otherwise.
    conditions = statements.Conditions.of(parameters, *expected)
    permitted = False
    for _ in range(ATTEMPTS):
        update = statements.update(
            target.table, wanted, conditions, returning=row is not None, permitted=permitted
        )
        with statements.giving_reason(connection, reason):
            result = connection.exec_driver_sql(update, parameters)
        if result.rowcount:
            if row is not None:
                target.take_over(session, row, wanted, result.one())
            target.forget_followers(session)
            return wanted
        read = statements.read(target.table, conditions)
        stored = connection.exec_driver_sql(read, parameters).one_or_none()
        if stored is None:
            raise target.not_found()
        stored_status, revision = target.status_type(stored.status), stored.revision
        refusal = target.refusal(stored_status, revision, wanted, expected, expected_revision)
        if isinstance(refusal, errors.InvalidTransition) and not permitted:
            asked = {"entity": target.table, "stored_status": stored_status.value, "status": wanted.value}
            permitted = connection.exec_driver_sql(statements.PERMITS, asked).scalar_one()
            if permitted:  # An override, or an extra transition.
                parameters["stored_status"] = stored_status.value
                continue
        permitted = False
        if row is not None:
            target.forget(session, identity_of(row))
        if refusal is None and stored_status != wanted:
            continue  # Another writer changed the row between the two statements, and it is allowed now.
        if refusal is None or on_conflict == "report":
            return stored_status
        raise refusal
    raise errors.Conflict(target.table, str(target.id_), "status", "to hold still", stored_status, revision)


@takes_session
def transition_many(
    session: Session,
    rows_or_ids: Iterable[RowOrId],
    status: Status | str,
    *,
    model: type[Guarded] | None = None,
    reason: str | None = None,
    expected_status: Statuses | None = None,
    unexpected_statuses: Statuses | None = None,
    expected_revision: int | Mapping[uuid.UUID, int] | None = None,
) -> list[TransitionResult]:
    """Set the status of many rows in one statement, where allowed and expected; report on each.

    Rows are locked in key order, so that two callers with overlapping sets cannot wait for each other.
    The results come in the order of the arguments; see :func:`transition` for the other parameters.

    :param expected_revision: change rows only at this revision; or a revision for each id. A row whose id is
        not among them may have any.
    """
    session.flush()
    targets = [_Target.of(session, row_or_id, model) for row_or_id in rows_or_ids]
    if not targets:
        return []
    first = targets[0]
    if any(target.model is not first.model for target in targets):
        raise errors.PlatformDBError("transition_many takes rows of one kind")
    wanted = first.status(status)
    expected = _Expected.of(first, expected_status, unexpected_statuses)
    revisions = [
        expected_revision.get(target.id_) if isinstance(expected_revision, Mapping) else expected_revision
        for target in targets
    ]
    found: dict[str, list[Any]] = {}
    for some in _together(session, list(zip(targets, revisions, strict=True))):
        found |= _update_many(session, some, wanted, expected, reason)
    held = {key[-1]: key for key in held_keys(session, first.model)}
    results = []
    for target, expected_one in zip(targets, revisions, strict=True):
        changed, stored, revision = found.get(str(target.id_), (False, None, None))
        refusal: errors.PlatformDBError | None = None
        if stored is None or revision is None:
            refusal = target.not_found()
        elif not changed:
            refusal = target.refusal(target.status_type(stored), revision, wanted, expected, expected_one)
        results.append(TransitionResult(target.id_, changed, stored, revision, refusal))
        if target.id_ in held:
            target.forget(session, held[target.id_])
    first.forget_followers(session)
    return results


def _together(
    session: Session, targets: list[tuple[_Target, int | None]]
) -> Iterable[list[tuple[_Target, int | None]]]:
    """Return what one statement is about: all, or where tables are distributed those of one owner each."""
    connection = session.connection()
    if is_distributed(connection):  # Of what has no owner, none was found: there is no row.
        targets = [(target, revision) for target, revision in targets if target.owner_id is not None]
    return by_owner(connection, targets, lambda one: one[0].owner_id)


def _update_many(
    session: Session,
    some: list[tuple[_Target, int | None]],
    wanted: Status,
    expected: _Expected,
    reason: str | None,
) -> dict[str, list[Any]]:
    """Return whether each row was changed, and the status and revision that it has then."""
    first, connection = some[0][0], session.connection()
    owners = [target.owner_id for target, _ in some]
    revisions = [revision for _, revision in some]
    known = None not in owners
    one = known and len(set(owners)) == 1
    parameters: dict[str, Any] = {
        "ids": _array(str(target.id_) for target, _ in some),
        "owner": str(first.owner_id) if one else None,
        "owners": _array(map(str, owners)) if known and not one else None,
        "reason": None if is_distributed(connection) else reason,
        "expected_revision": None if all(revision is None for revision in revisions) else revisions,
    }
    statement = statements.update_many(first.table, wanted, statements.Conditions.of(parameters, *expected))
    with statements.giving_reason(connection, reason):
        rows = connection.exec_driver_sql(statement, parameters)
    return {id_: values for id_, *values in rows}


def _array(ids: Iterable[str]) -> str:
    """Return the literal of an array: the driver and the server would look at each element of a list."""
    return f"{{{','.join(ids)}}}"


@contextmanager
@takes_session
def override_guard(session: Session, *, reason: str) -> Iterator[None]:
    """Let an operator write any status within this block; each change is marked in the history.

    The block is a savepoint: an error undoes what it did. Nothing outside the block is affected, neither
    later in the transaction nor in any other.

    :param reason: why, for the history and the audit log.
    :raises errors.InvalidArgument: the reason is empty.
    :raises errors.TokenInText: a token's value is in the reason.
    """
    if not reason.strip():
        raise errors.InvalidArgument("an override needs a reason")
    require_no_token(reason)
    session.flush()
    transaction = session.connection().execute(_TRANSACTION_MARK).scalar_one()
    with saying(session, {"guard": f"override {transaction}", "reason": reason}):
        yield


@takes_session
def set_actor(session: Session, actor: str, reason: str | None = None) -> None:
    """Say who acts, and why, in the rest of this transaction; the history notes it with every change."""
    say(session.connection(), {"actor": actor, "reason": reason})


# It has an id from then on.
_TRANSACTION_MARK = sa.text("SELECT platform.transaction_mark() FROM pg_current_xact_id()")


class _Expected(NamedTuple):
    """Which statuses the caller expects, and which not; None sets no condition.

    An empty list of expected statuses differs from None: it matches no row.
    """

    statuses: tuple[Status, ...] | None
    unexpected: tuple[Status, ...] | None

    @classmethod
    def of(cls, target: _Target, expected: Statuses | None, unexpected: Statuses | None) -> _Expected:
        return cls(target.statuses(expected), target.statuses(unexpected))


class _Target(GuardedTarget):
    @property
    def status_type(self) -> type[Status]:
        statuses: type[Status] = MACHINES[self.table].statuses
        return statuses

    def status(self, name: Status | str) -> Status:
        status: Status = MACHINES[self.table].status(name)
        return status

    def statuses(self, given: Statuses | None) -> tuple[Status, ...] | None:
        if given is None:
            return None
        names = [given] if isinstance(given, str) else given
        return tuple(self.status(name) for name in names)

    def refusal(
        self,
        stored_status: Status,
        revision: int,
        wanted: Status,
        expected: _Expected,
        expected_revision: int | None,
    ) -> errors.Refused | None:
        """Say why the stored row may not be changed, or None if it may."""

        def conflict(condition: str, wish: object) -> errors.Conflict:
            return errors.Conflict(
                self.table, str(self.id_), condition, str(wish), stored_status.value, revision
            )

        if expected.statuses is not None and stored_status not in expected.statuses:
            return conflict("status", " or ".join(map(str, expected.statuses)) or "of an empty list")
        if expected.unexpected is not None and stored_status in expected.unexpected:
            return conflict("status", f"not {' or '.join(map(str, expected.unexpected))}")
        if expected_revision is not None and expected_revision != revision:
            return conflict("revision", expected_revision)
        if not MACHINES[self.table].allows(stored_status, wanted):
            return errors.InvalidTransition(self.table, str(self.id_), stored_status.value, wanted.value)
        return None

    def held(self, session: Session) -> Base | None:
        """Return the session's object of this row, if it holds one."""
        key: tuple[uuid.UUID, ...] = (self.owner_id, self.id_) if self.owner_id is not None else ()
        key = key or next((key for key in held_keys(session, self.model) if key[-1] == self.id_), ())
        row: Base | None = session.identity_map.get((self.model, key, None))
        return row

    def take_over(self, session: Session, row: Base, status: Status, written: Any) -> None:
        """Give the session's object what the statement wrote, without another query."""
        set_committed_value(row, "status", status)
        for name in ("revision", *MACHINES[self.table].times):
            set_committed_value(row, name, getattr(written, name))
        session.expire(row, ["updated"])
        expire_on_rollback(session, row)

    def forget(self, session: Session, key: tuple[uuid.UUID, ...]) -> None:
        """Let the session's object read its status again when it is next asked."""
        expire_row(session, self.model, key, ["status", "revision", "updated", *MACHINES[self.table].times])

    def forget_followers(self, session: Session) -> None:
        """Let the session's retention rules be read again: they may follow a run."""
        if self.model is Workflow:
            expire_rows(session, WorkspaceRetentionRule)
