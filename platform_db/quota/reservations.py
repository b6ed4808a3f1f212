"""Reservations: room within a limit, held for something that is about to use it.

The check and the increment are one statement, so that of any number of callers only so many succeed as there
is room for.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import LARGEST_AMOUNT, require_amount, require_seconds
from platform_db.database.distribution import execute_for, execute_for_users
from platform_db.database.session import SessionFactory, takes_session
from platform_db.identifiers import new_id, parse_id
from platform_db.models import QuotaReservation, Resource, ResourceType, UserResource
from platform_db.models.base import identity_of
from platform_db.models.expiry import expire_row, expire_rows
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.quota.batches import run_each
from platform_db.quota.figures import MOST_BYTES
from platform_db.quota.resources import LOCK_USERS, get_resource, lock_users, locking, resource_name

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 3600.0
EXPIRED_PER_BATCH = 1000


@dataclass(frozen=True)
class Reservation:
    """Room that is held for a user.

    :param amount: how much of the resource, in its unit.
    :param expires_at: when the room may be given to others.
    """

    id_: uuid.UUID
    owner_id: uuid.UUID
    resource_id: uuid.UUID
    amount: int
    expires_at: datetime


AnyReservation: TypeAlias = "Reservation | QuotaReservation | uuid.UUID | str"

_RESERVE = sa.text(f"""
    WITH locked AS MATERIALIZED ({locking("= CAST(:user AS uuid)")}),
    guarded AS (
        UPDATE platform.user_resource AS total
        SET quota_reserved = total.quota_reserved + greatest(:amount, 0)
        FROM locked JOIN platform.resource AS r ON r.id_ = locked.resource_id
        WHERE total.owner_id = locked.owner_id AND total.resource_id = locked.resource_id
          AND r.name = :resource
          -- Numeric, since a sum of what is allowed may be more than a bigint holds.
          AND (:amount <= 0 OR CAST(total.quota_used AS numeric) + total.quota_reserved + :amount
                               <= coalesce(total.quota_limit, {LARGEST_AMOUNT}))
        RETURNING total.owner_id, total.resource_id
    )
    INSERT INTO platform.quota_reservation (id_, owner_id, resource_id, amount, expires_at)
    SELECT CAST(:id AS uuid), owner_id, resource_id, :amount,
           clock_timestamp() + make_interval(secs => :seconds)
    FROM guarded
    RETURNING id_, owner_id, resource_id, amount, expires_at
    """)


@takes_session
def reserve(
    session: Session,
    user: UserOrId,
    resource: Resource | ResourceType | str,
    amount: int,
    *,
    ttl: float = DEFAULT_SECONDS,
) -> Reservation:
    """Hold room for ``amount`` more, inside the user's limit.

    A change that does not worsen an overage is allowed: zero or less always succeeds, and holds nothing.

    :param resource: a resource, its name, or a type for the default one of that type.
    :param amount: in the resource's unit.
    :param ttl: seconds after which it expires, unless it was committed or released.
    :raises errors.QuotaExceeded: there is not so much left.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.ResourceNotFound: there is no such resource.
    :raises errors.InvalidArgument: the amount is beyond a ``bigint`` column, or ``ttl`` is no time.
    """
    require_amount(amount, smallest=-LARGEST_AMOUNT)
    require_seconds(ttl, "time to live")
    session.flush()
    user_id = user_id_of(user)
    wanted = {"user": user_id, "resource": resource_name(resource), "amount": amount, "seconds": ttl}
    # Refused, it is tried once more: the user's rows may be missing, or expired reservations be in the way.
    for _ in range(2):
        values = {**wanted, "id": new_id()}
        row = execute_for(session.connection(), user_id, _RESERVE, values).one_or_none()
        if row is not None:
            expire_rows(session, UserResource, {user_id})
            return Reservation(*row)
        found = get_resource(session, resource)
        lock_users(session, [user_id], found)
        _release_expired(session, [user_id])
    total = session.get_one(UserResource, (user_id, found.id_), populate_existing=True)
    limit = LARGEST_AMOUNT if total.quota_limit is None else total.quota_limit
    used, reserved = total.quota_used, total.quota_reserved
    raise errors.QuotaExceeded(str(user_id), found.name, amount, used, reserved, limit)


# Locks the user's rows before the reservation, as every writer does. Where the reservation was ended
# meanwhile, the DELETE finds nothing, and nothing happens.
_END = sa.text(f"""
    WITH locked AS MATERIALIZED ({locking("= CAST(:owner AS uuid)")}),
    ended AS (
        DELETE FROM platform.quota_reservation AS r USING locked
        WHERE r.owner_id = CAST(:owner AS uuid) AND r.id_ = CAST(:id AS uuid)
          AND r.owner_id = locked.owner_id AND r.resource_id = locked.resource_id
        RETURNING r.owner_id, r.resource_id, r.amount
    )
    UPDATE platform.user_resource AS total
    SET quota_reserved = greatest(0, total.quota_reserved - greatest(ended.amount, 0)),
        quota_used = least({MOST_BYTES}, greatest(
            0, CAST(total.quota_used AS numeric) + coalesce(CAST(:amount AS bigint), ended.amount)))
    FROM ended
    WHERE total.owner_id = ended.owner_id AND total.resource_id = ended.resource_id
    RETURNING total.owner_id, total.resource_id
    """)


@takes_session
def commit_reservation(session: Session, reservation: AnyReservation, amount: int | None = None) -> None:
    """Turn a reservation into use.

    :param amount: how much was used in fact, in the resource's unit; by default what was reserved.
    :raises errors.ReservationNotFound: it was committed or released, or it expired and was released.
    :raises errors.InvalidArgument: the amount is beyond a ``bigint`` column.
    """
    if amount is not None:
        require_amount(amount, smallest=-LARGEST_AMOUNT)
    _end(session, reservation, amount)


@takes_session
def release(session: Session, reservation: AnyReservation) -> None:
    """Give up a reservation without using it.

    :raises errors.ReservationNotFound: it was committed or released, or it expired and was released.
    """
    _end(session, reservation, amount=0)


def _end(session: Session, reservation: AnyReservation, amount: int | None) -> None:
    """End a reservation, and count its own amount, or the given one, as used."""
    session.flush()
    owner_id, id_ = _key_of(session, reservation)
    parameters = {"owner": owner_id, "id": id_, "amount": amount}
    total = None
    if owner_id is not None:
        total = execute_for(session.connection(), owner_id, _END, parameters).one_or_none()
    if total is None:
        raise errors.ReservationNotFound(
            f"there is no reservation {id_}: it was committed, released or expired"
        )
    expire_row(session, QuotaReservation, (total.owner_id, id_))
    expire_row(session, UserResource, (total.owner_id, total.resource_id))


def _key_of(session: Session, reservation: AnyReservation) -> tuple[uuid.UUID | None, uuid.UUID]:
    """Return the owner's id, which is looked up where only the reservation's own is given, and the latter."""
    if isinstance(reservation, Reservation):
        return reservation.owner_id, reservation.id_
    if isinstance(reservation, QuotaReservation):
        return identity_of(reservation)
    id_ = parse_id(reservation, "reservation id")
    return session.scalar(sa.select(QuotaReservation.owner_id).where(QuotaReservation.id_ == id_)), id_


_EXPIRED_USERS = sa.text("""
    SELECT DISTINCT owner_id FROM (
        SELECT owner_id FROM platform.quota_reservation
        WHERE expires_at <= clock_timestamp() AND NOT owner_id = ANY(CAST(:left AS uuid[]))
        ORDER BY expires_at LIMIT :limit
    ) AS expired
    """)

_RELEASE_EXPIRED = sa.text("""
    WITH ended AS (
        DELETE FROM platform.quota_reservation
        WHERE owner_id = ANY(CAST(:users AS uuid[])) AND expires_at <= clock_timestamp()
        RETURNING owner_id, resource_id, amount
    ),
    sums AS (
        SELECT owner_id, resource_id, sum(greatest(amount, 0)) AS amount, count(*) AS reservations
        FROM ended GROUP BY owner_id, resource_id
    )
    UPDATE platform.user_resource AS total
    SET quota_reserved = greatest(0, total.quota_reserved - sums.amount)
    FROM sums
    WHERE total.owner_id = sums.owner_id AND total.resource_id = sums.resource_id
    RETURNING total.owner_id, total.resource_id, sums.reservations
    """)


def release_expired_reservations(factory: SessionFactory) -> int:
    """Release all reservations that have expired, in batches of their own transactions; return how many.

    Those of a user whose totals others hold locked are left to the next run.
    """
    released, left = 0, list[uuid.UUID]()

    def leave(user_id: uuid.UUID, reason: str) -> None:
        left.append(user_id)
        logger.warning("the expired reservations of user %s are left: %s", user_id, reason)

    def release_of(session: Session, users: Sequence[uuid.UUID]) -> int:
        execute_for_users(session.connection(), LOCK_USERS, users)
        return _release_expired(session, users)

    while True:
        with factory() as session:
            parameters = {"limit": EXPIRED_PER_BATCH, "left": left}
            users = list(session.connection().scalars(_EXPIRED_USERS, parameters))
        if not users:
            return released
        released += sum(run_each(factory, users, release_of, leave))


def _release_expired(session: Session, users: Sequence[uuid.UUID]) -> int:
    rows = execute_for_users(session.connection(), _RELEASE_EXPIRED, users)
    for row in rows:
        expire_row(session, UserResource, (row.owner_id, row.resource_id))
    return sum(row.reservations for row in rows)
