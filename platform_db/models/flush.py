"""What the models do at flush: owners are locked and given to children, users get limits, logs are counted.

Each does its work for the whole flush in one statement, whatever the number of rows.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, UOWTransaction

from platform_db import errors
from platform_db.database.distribution import is_distributed
from platform_db.models.audit import AuditLog, AuditLogAction
from platform_db.models.base import Base, Identified, OnWorkflows
from platform_db.models.expiry import expire_row, expire_rows
from platform_db.models.log import store_assigned_logs
from platform_db.models.log_chunk import Appended, LogChunk, LogSize
from platform_db.models.log_sizes import Sizes
from platform_db.models.resource import Resource, UserResource
from platform_db.models.retention import WorkspaceRetentionRule
from platform_db.models.session import InteractiveSession
from platform_db.models.token import UserToken, UserTokenType
from platform_db.models.user import User
from platform_db.models.workflow import Workflow
from platform_db.states import UserTokenStatus


@event.listens_for(Session, "before_flush")
def complete_new_rows(session: Session, context: UOWTransaction, instances: Any) -> None:
    """Fill in what new rows need before they are written."""
    new, changed = list(session.new), list(session.dirty)
    for row in new:
        if isinstance(row, Workflow):
            row.take_defaults_from_owner()
        elif isinstance(row, OnWorkflows):
            row.take_owner_from_workflow()
    _give_owners(session, new)
    _lock_owners(session, new, changed)
    _claim_secrets(session, [*new, *changed])


def _lock_owners(session: Session, new: list[Any], changed: list[Any]) -> None:
    """Lock those whose runs or tokens are about to be written, in key order: one at a time might deadlock.

    The owner of new runs, where there is only one, is locked when the first is given its number. An active
    access token ends the one whose time is over: it stands in the way.
    """
    owners = {row.owner_id for row in new if isinstance(row, Workflow)}
    tokens = [row for row in (*new, *changed) if isinstance(row, UserToken)]
    if tokens or len(owners) > 1:
        owners |= {row.owner_id for row in tokens}
        locked = sorted(str(owner) for owner in owners if owner is not None)
        session.connection().execute(_LOCK_OWNERS, {"ids": locked})
    if granted := {str(row.owner_id) for row in tokens if _is_granted(row)}:
        _end_expired(session, granted, written={row.id_ for row in tokens})


def _claim_secrets(session: Session, rows: list[Any]) -> None:
    """Claim the digests of sessions' secrets where tables are distributed: no trigger there reaches them."""
    for row in rows:
        if isinstance(row, InteractiveSession) and sa.inspect(row).attrs.secret_digest.history.has_changes():
            connection = session.connection()
            if is_distributed(connection):
                digests = [*(row.other_secret_digests or ()), row.secret_digest]
                connection.execute(_CLAIM, {"id": str(row.id_), "digests": digests})


_CLAIM = sa.text(
    "SELECT platform.claim_digests('interactive_session', CAST(:id AS uuid), CAST(:digests AS bytea[]))"
)


def _is_granted(token: UserToken) -> bool:
    """Tell whether this flush makes it an active access token, rather than extends one."""
    is_access = (token.type_, token.status) == (UserTokenType.access, UserTokenStatus.active)
    return is_access and token.owner_id is not None and sa.inspect(token).attrs.status.history.has_changes()


def _end_expired(session: Session, owners: set[str], *, written: set[uuid.UUID]) -> None:
    parameters = {"owners": sorted(owners), "written": sorted(str(id_) for id_ in written)}
    ended = session.connection().execute(_END_EXPIRED, parameters).all()
    for token_id, owner_id in ended:
        details = {"token_id": str(token_id), "reason": "expired"}
        session.add(AuditLog(owner_id=owner_id, action=AuditLogAction.revoke_token, details=details))
        expire_row(session, UserToken, (owner_id, token_id))


_LOCK_OWNERS = sa.text(
    "SELECT platform.lock_owner(id_) FROM unnest(CAST(:ids AS uuid[])) AS owner (id_) ORDER BY id_"
)

_END_EXPIRED = sa.text("""
    WITH why AS MATERIALIZED (
        SELECT set_config('platform.statement_reason', statement_timestamp()::text || ' expired', true)
    )
    UPDATE platform.user_token SET status = 'revoked' FROM why
    WHERE owner_id = ANY(CAST(:owners AS uuid[])) AND type_ = 'access' AND status = 'active'
      AND expires_at <= statement_timestamp() AND NOT id_ = ANY(CAST(:written AS uuid[]))
    RETURNING id_, owner_id
    """)


@event.listens_for(Session, "after_flush")
def follow_written_rows(session: Session, context: UOWTransaction) -> None:
    """Write what follows from the rows that were written, and expire what the database changed with them."""
    if new := list(session.new):
        _give_users_their_limits(session, new)
        _count_new_logs(session, new)
    _expire_rules_that_follow(session)
    store_assigned_logs(session)


def _give_users_their_limits(session: Session, new: list[Any]) -> None:
    """Give each new user the default limit of every resource, and every user that of a new resource."""
    users = [row.id_ for row in new if isinstance(row, User)]
    if any(isinstance(row, Resource) for row in new):
        UserResource.create_defaults(session)
    elif users:
        UserResource.create_defaults(session, users)


def _expire_rules_that_follow(session: Session) -> None:
    """Let retention rules be read again: the database changes them with the statuses of their runs."""
    runs = (row for row in session.dirty if isinstance(row, Workflow))
    if any(sa.inspect(run).attrs.status.history.has_changes() for run in runs):
        expire_rows(session, WorkspaceRetentionRule)


def _count_new_logs(session: Session, new_rows: list[Any]) -> None:
    """Count the logs that new rows come with; what is appended to stored ones counts itself."""
    new = {row.id_ for row in new_rows if isinstance(row, Workflow)}
    appended: dict[uuid.UUID, Appended] = {}
    for row in new_rows:
        if not isinstance(row, LogChunk):
            continue
        if row.workflow_id not in new:
            Sizes.of(session).add(row.job_id or row.workflow_id, row, len(row.data))
        else:  # No other transaction waits for its size.
            part = Appended(row.owner_id, len(row.data), row.number, row.number)
            known = appended.get(row.workflow_id)
            appended[row.workflow_id] = known + part if known else part
    if appended:
        LogSize.add(session, appended)


def _give_owners(session: Session, new_rows: list[Any]) -> None:
    """Set ``owner_id`` of the children that were given only their parent, or their parent's id.

    :raises errors.NotFound: there is no such parent.
    """
    new = {row.id_: row for row in new_rows if isinstance(row, Identified)}
    children: list[Any] = [row for row in new_rows if isinstance(row, Base) and row.owner_from]
    found = [(child, _ancestor(child, new)) for child in children if child.owner_id is None]
    unknown: dict[str, set[uuid.UUID]] = defaultdict(set)
    for _, ancestor in found:
        if isinstance(ancestor, tuple):
            unknown[ancestor[0]].add(ancestor[1])
    stored = {id_: owner for model, ids in unknown.items() for id_, owner in _owners(session, model, ids)}
    for child, ancestor in found:
        if isinstance(ancestor, tuple):
            model, parent_id = ancestor
            if parent_id not in stored:
                raise errors.NotFound(f"there is no {model} {parent_id} for a new {type(child).__name__}")
            child.owner_id = stored[parent_id]
        elif ancestor is not None:
            child.owner_id = ancestor.owner_id


def _ancestor(child: Any, new: dict[uuid.UUID, Any]) -> Any:
    """Return the nearest ancestor whose owner is known; or its model and id, where it is not in the session.

    None where a relationship will say so during the flush.
    """
    row = child
    while row is not None and row.owner_id is None:
        if row.owner_from is None:
            return None  # Its owner comes from a relationship to the user.
        attribute, model = row.owner_from
        parent_id = getattr(row, attribute)
        row = row.__dict__.get(attribute.removesuffix("_id"))
        if row is None and parent_id is not None:
            if parent_id not in new:
                return model, parent_id
            row = new[parent_id]
    return row


def _owners(session: Session, model_name: str, ids: set[uuid.UUID]) -> Iterable[tuple[uuid.UUID, uuid.UUID]]:
    model = next(mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__name__ == model_name)
    wanted = sa.bindparam("ids", sorted(ids), ARRAY(sa.Uuid))
    statement = sa.select(model.id_, model.owner_id).where(model.id_ == sa.any_(wanted))
    return [(id_, owner_id) for id_, owner_id in session.execute(statement)]
