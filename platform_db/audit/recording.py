"""Writing audit rows: one plain INSERT each, in the transaction of the act that they record.

What the database can see, triggers record (``schema/sql/audit.sql``).
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.database.transaction_settings import say, saying
from platform_db.identifiers import parse_id
from platform_db.models import AuditLog, AuditLogAction
from platform_db.models.identity import UserOrId, user_id_of

SERVICE = "service"
"""The key in a session's ``info`` of the service that its transactions come from."""


@takes_session
def record_action(
    session: Session,
    user: UserOrId,
    action: AuditLogAction | str,
    details: Mapping[str, Any] | None = None,
    *,
    actor_id: uuid.UUID | str | None = None,
) -> AuditLog:
    """Add an audit row; it is stored with the session's transaction.

    :param user: whom it is about; :data:`~platform_db.models.NOBODY` where it is about no user in particular.
    :param details: what else there is to know, in ids and plain values: no names, no e-mail addresses.
    :param actor_id: the user who did it, where :func:`set_origin` did not say it.
    :raises errors.UnknownAction: the action is not registered.
    :raises errors.TokenInText: a token's value is in the details.
    """
    row = AuditLog(owner_id=user_id_of(user), action=action, details=dict(details) if details else None)
    if actor_id is not None:
        row.actor_id = parse_id(actor_id, "user id")
    session.add(row)
    return row


@takes_session
def set_origin(
    session: Session,
    *,
    actor_id: uuid.UUID | str | None = None,
    request_id: str | None = None,
    address: str | None = None,
    service: str | None = None,
) -> None:
    """Say who acts, and from where, for all audit rows of the rest of this transaction.

    What is None is left as it was. Rows that triggers write have it, too. With
    ``sessionmaker(…, info={SERVICE: "api"})`` every transaction names its service by itself.

    :param address: the network address that the request came from, as a text such as ``192.0.2.7`` or
        ``2001:db8::7``; of a proxy's list the one that the platform trusts.
    :raises errors.InvalidAddress: this is not one address.
    """
    values = {
        "actor_id": None if actor_id is None else str(parse_id(actor_id, "user id")),
        "request_id": request_id,
        "address": None if address is None else _parse_address(address),
        "service": service,
    }
    say(session.connection(), values)


@event.listens_for(Session, "after_begin")
def _set_service(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Say in each transaction from which service it comes, where the session's ``info`` names one."""
    if not transaction.nested:
        say(connection, {"service": session.info.get(SERVICE)})


def _parse_address(address: str) -> str:
    """Return the address as the database takes it: without the zone of a link-local one (``%eth0``)."""
    try:
        return str(ipaddress.ip_address(address)).partition("%")[0]
    except ValueError:
        raise errors.InvalidAddress(f"{address!r} is not one network address") from None


@contextmanager
@takes_session
def recorded_as(
    session: Session, *, actor_id: uuid.UUID | str | None = None, details: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Say who does, and what else there is to know of, what triggers record within this block.

    Where there is something to say the block is a savepoint, so that an error undoes the saying, too.

    :param actor_id: the user who does it, where :func:`set_origin` did not say it.
    :param details: further facts about a user who is created or deleted.
    """
    values = {
        "actor_id": None if actor_id is None else str(parse_id(actor_id, "user id")),
        "details": json.dumps(details) if details else None,
    }
    said = {name: value for name, value in values.items() if value is not None}
    with saying(session, said) if said else nullcontext():
        yield
