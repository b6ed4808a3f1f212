"""Users as a whole: creating, finding and forgetting them."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import recorded_as
from platform_db.cursors import Page
from platform_db.database.paging import read_page
from platform_db.database.session import takes_session
from platform_db.models import InteractiveSession, Service, User, Workflow

WORK: tuple[type[Workflow | InteractiveSession | Service], ...] = (Workflow, InteractiveSession, Service)
"""What a user may have that is not simply forgotten with the user."""


@takes_session
def create_user(
    session: Session, /, email: str, *, actor_id: uuid.UUID | None = None, **values: str | None
) -> User:
    """Store a user, with the default quota limits.

    :param actor_id: the user who does this, for the audit log.
    :param values: further columns of the user, such as ``full_name``.
    :raises errors.UserExists: the e-mail address or the identity is another user's.
    """
    user = User(email=email, **values)
    with session.begin_nested(), recorded_as(session, actor_id=actor_id):
        session.add(user)
        session.flush()
    return user


@takes_session
def find_user(session: Session, id_or_email: uuid.UUID | str) -> User:
    """Return the user with this id, or with this e-mail address in whatever case.

    :raises errors.UserNotFound: there is none.
    """
    try:
        criterion = User.id_ == uuid.UUID(str(id_or_email))
    except ValueError:
        criterion = sa.func.lower(User.email) == sa.func.lower(id_or_email)
    user = session.scalars(sa.select(User).where(criterion)).one_or_none()
    if user is None:
        raise errors.UserNotFound(f"there is no user {id_or_email}")
    return user


@takes_session
def list_users(session: Session, *, limit: int = 100, cursor: str | None = None) -> Page[User]:
    """Return a page of all users, the oldest first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    """
    return read_page(
        session,
        sa.select(User),
        (User.created, User.id_),
        query=("users",),
        limit=limit,
        cursor=cursor,
        descending=False,
    )


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
    session: Session, user: User, *, delete_work: bool = False, actor_id: uuid.UUID | None = None
) -> None:
    """Forget a user: the row goes, with tokens, limits, shares and history.

    The audit log stays; it has ids only.

    :param delete_work: also delete the user's runs, with jobs and logs, interactive sessions and services.
        Nothing on any disk or cluster is touched: stop what runs first.
    :param actor_id: the user who does this, for the audit log.
    :raises errors.UserHasWork: there is some, and nobody said what to do with it; nothing is changed.
    """
    session.flush()
    # Whoever starts a run now waits for this to end, and then finds no owner; who did before is waited for.
    locked = sa.select(User.id_).where(User.id_ == user.id_).with_for_update()
    if session.connection().execute(locked).one_or_none() is None:
        raise errors.UserNotFound(f"there is no user {user.id_}")
    work = count_work(session, user)
    if work and not delete_work:
        raise errors.UserHasWork(user.id_, work)
    for model in WORK:
        session.execute(sa.delete(model).where(model.owner_id == user.id_))
    details = {"deleted": work} if work else None
    with recorded_as(session, actor_id=actor_id, details=details):
        session.delete(user)
        session.flush()
