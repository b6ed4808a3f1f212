"""Users as a whole: creating, finding and forgetting them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import recorded_as
from platform_db.cursors import Page, read_all
from platform_db.database.session import takes_session
from platform_db.models import (
    Base,
    CallArgumentSource,
    CallEdge,
    CallExecution,
    CallNode,
    CallTask,
    EntityTag,
    Evaluation,
    Handle,
    InteractiveSession,
    Service,
    Subvalue,
    User,
    UserResource,
    Value,
    Workflow,
)
from platform_db.models.types import is_text
from platform_db.query.find import find

USERS_PER_PAGE = 1000

WORK: tuple[type[Workflow | InteractiveSession | Service], ...] = (Workflow, InteractiveSession, Service)
"""The work of a user: rows that are deleted with the user only where the caller says so."""

# What was recorded of a user's calls, in an order in which nothing refers to what goes; the rest goes along.
_RECORDED: tuple[type[Base], ...] = (
    CallExecution,
    CallEdge,
    CallArgumentSource,
    CallNode,
    Evaluation,
    CallTask,
    Handle,
    EntityTag,
    Subvalue,
    Value,
)

_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")


@takes_session
def create_user(
    session: Session, /, email: str, *, actor_id: uuid.UUID | None = None, **values: str | None
) -> User:
    """Store a user, with the default quota limits.

    :param actor_id: the user who does this, for the audit log.
    :param values: further columns of the user, such as ``full_name``.
    :raises errors.UserExists: the e-mail address or the identity is another user's.
    :raises errors.InvalidArgument: this is no e-mail address, or one of ``idp_issuer`` and ``idp_subject`` is
        given without the other.
    """
    if (values.get("idp_issuer") is None) != (values.get("idp_subject") is None):
        raise errors.InvalidArgument("an identity needs both, its issuer and its subject")
    if not (_EMAIL.fullmatch(email) and email.isprintable()):
        raise errors.InvalidArgument(f"{email!r} is not an e-mail address such as ada@example.org")
    user = User(email=email, **values)
    with session.begin_nested(), recorded_as(session, actor_id=actor_id):
        session.add(user)
        session.flush()
    return user


@takes_session
def find_user(session: Session, id_or_email: uuid.UUID | str) -> User:
    """Return the user with this id, or with this e-mail address in upper or lower case.

    :raises errors.UserNotFound: there is none.
    """
    try:
        criterion = User.id_ == uuid.UUID(str(id_or_email))
    except ValueError:
        # Only the database changes the case. With locale C it does so for fewer letters than Python, and what
        # both have changed may be the address of another user.
        criterion = sa.func.lower(User.email) == sa.func.lower(id_or_email)
    storable = is_text(str(id_or_email))
    user = session.scalars(sa.select(User).where(criterion)).one_or_none() if storable else None
    if user is None:
        raise errors.UserNotFound(f"there is no user {str(id_or_email)!r}")
    return user


@takes_session
def list_users(session: Session, *, limit: int = 100, cursor: str | None = None) -> Page[User]:
    """Return a page of all users, the oldest first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    return find(session, User, sort="created", limit=limit, cursor=cursor)


@takes_session
def iterate_users(session: Session) -> Iterator[User]:
    """Yield all users in the order of :func:`list_users`; the session forgets them, to save memory."""
    for user in read_all(lambda cursor: list_users(session, limit=USERS_PER_PAGE, cursor=cursor)):
        yield user
        session.expunge(user)


@takes_session
def count_work(session: Session, user: User) -> dict[str, int]:
    """Return how many runs, interactive sessions and services a user has, those with none left out."""
    counts = {
        model.__tablename__: session.scalar(
            sa.select(sa.func.count()).select_from(model).where(model.owner_id == user.id_)
        )
        for model in WORK
    }
    return {table: count for table, count in counts.items() if count}


@takes_session
def delete_user(
    session: Session,
    user: User,
    *,
    delete_work: bool = False,
    at_most: Mapping[str, int] | None = None,
    actor_id: uuid.UUID | None = None,
) -> None:
    """Forget a user: the row goes, with tokens, limits, shares and history, tasks, calls and values.

    The audit log stays; it has ids only. A transaction that has written of the user and then creates a run
    can deadlock with this one: :func:`~platform_db.sessions.run_transaction` runs either again.

    :param delete_work: also delete the user's runs, with jobs and logs, interactive sessions and services.
        Nothing on any disk or cluster is touched: stop what runs first.
    :param at_most: delete no more work than this, which :func:`count_work` returned before the confirmation.
    :param actor_id: the user who does this, for the audit log.
    :raises errors.UserHasWork: there is work, and ``delete_work`` is not set, or more than ``at_most``;
        nothing is changed.
    """
    session.flush()
    # A transaction that starts a run now waits for this one, and then finds no owner; one that did before is
    # waited for, with its row locks: so the lock that creators take comes first.
    session.connection().execute(_LOCK_OWNER, {"id": str(user.id_)})
    locked = sa.select(User.id_).where(User.id_ == user.id_).with_for_update()
    if session.connection().execute(locked).one_or_none() is None:
        raise errors.UserNotFound(f"there is no user {user.id_}")
    # A job that counts holds these while it writes figures of the runs that go below.
    limits = sa.select(UserResource.resource_id).where(UserResource.owner_id == user.id_)
    session.connection().execute(limits.order_by(UserResource.resource_id).with_for_update())
    work = count_work(session, user)
    more = at_most is not None and any(count > at_most.get(table, 0) for table, count in work.items())
    if more or (work and not delete_work):
        raise errors.UserHasWork(user.id_, work)
    for model in (*WORK, *_RECORDED):
        session.execute(sa.delete(model).where(model.owned_by(user.id_)))
    details = {"deleted": work} if work else None
    with recorded_as(session, actor_id=actor_id, details=details):
        session.delete(user)
        session.flush()


_LOCK_OWNER = sa.text("SELECT platform.lock_owner(CAST(:id AS uuid))")
