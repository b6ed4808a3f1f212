"""Whose figures a run of a quota job is about, and in which portions it goes through their owners."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_seconds
from platform_db.database.session import SessionFactory
from platform_db.quota.batches import read_pages
from platform_db.quota.resources import AnyResource

FIRST_ID = uuid.UUID(int=0)
USERS_PER_PAGE = 1000
# A portion is one transaction, for the length of which its users' figures are locked.
RUNS_PER_PORTION = 20_000


@dataclass(frozen=True)
class Scope:
    """Whose figures to update.

    :param user_id: only this user's.
    :param shard: only those of the users that fall into shard I of N, as ``(I, N)``. Users stay whole. I
        counts from 0 or from 1: shard N of N is shard 0.
    :param stale_after: only those that were measured longer ago than so many seconds, and those that are
        marked as stale.
    """

    user_id: uuid.UUID | None = None
    shard: tuple[int, int] | None = None
    stale_after: float | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and not 0 <= self.shard[0] <= self.shard[1] >= 1:
            raise errors.InvalidArgument(f"there is no shard {self.shard[0]} of {self.shard[1]}")
        if self.stale_after is not None:
            require_seconds(self.stale_after, "age of a figure")

    @property
    def name(self) -> str:
        """The end of the lease's name: the full run, each user and each shard have a lease of their own."""
        if self.user_id is not None:
            return f" user {self.user_id}"
        return "" if self.shard is None else f" shard {self.shard[0] % self.shard[1]}/{self.shard[1]}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The bind parameters of :func:`users_in_scope`, and ``stale_after``."""
        index, count = self.shard or (0, 1)
        return {
            "user": self.user_id,
            "shard": index % count,
            "shards": count,
            "stale_after": self.stale_after,
        }


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``I/N``.

    :raises errors.InvalidArgument: it is something else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if match is None or not int(match[1]) <= int(match[2]) or int(match[2]) < 1:
        raise errors.InvalidArgument(f"not a shard: {text!r} (write I/N; I is from 0 to N-1 or from 1 to N)")
    return int(match[1]), int(match[2])


def users_in_scope(scope: Scope, column: str) -> str:
    """Return the condition that a row's owner, ``column``, is in the scope."""
    # The hash is the server's own for this type, so a shard is the same for every process and connection.
    named = "" if scope.user_id is None else f"{column} = CAST(:user AS uuid) AND "
    return f"{named}(:shards = 1 OR abs(uuid_hash_extended({column}, 0) % :shards) = :shard)"


def _page_of_users(scope: Scope) -> sa.TextClause:
    return sa.text(f"""
        SELECT u.id_ FROM platform.user_ AS u
        WHERE (CAST(:after AS uuid) IS NULL OR u.id_ > CAST(:after AS uuid))
          AND {users_in_scope(scope, "u.id_")}
        ORDER BY u.id_
        LIMIT :look
        """)


# Statements of their own: Citus takes no subquery that is evaluated user by user.
_RUNS = sa.text("""
    SELECT owner_id, count(*) AS runs FROM platform.workflow
    WHERE owner_id = ANY(CAST(:users AS uuid[])) GROUP BY owner_id
    """)

_FRESH = sa.text("""
    SELECT owner_id FROM platform.user_resource
    WHERE owner_id = ANY(CAST(:users AS uuid[])) AND resource_id = CAST(:resource AS uuid)
      AND measured_at >= statement_timestamp() - make_interval(secs => :stale_after)
    """)


def count_users(session: Session, scope: Scope) -> int:
    """Return how many users are in scope, whether what they have is stale or not."""
    count = sa.text(f"SELECT count(*) FROM platform.user_ AS u WHERE {users_in_scope(scope, 'u.id_')}")
    return int(session.connection().scalar(count, scope.parameters) or 0)


def portions(factory: SessionFactory, scope: Scope, resource: AnyResource) -> Iterator[list[uuid.UUID]]:
    """Yield the ids of the scope's users in portions of not too many runs, at least one user each.

    With ``stale_after``, these are the users whose total of the resource was last summed before that time.
    """
    parameters = {**scope.parameters, "resource": resource.id_}
    for page in read_pages(factory, _page_of_users(scope), parameters, USERS_PER_PAGE):
        asked = {**parameters, "users": [user.id_ for user in page]}
        with factory() as session:
            connection = session.connection()
            counts = {row.owner_id: row.runs for row in connection.execute(_RUNS, asked)}
            fresh = set() if scope.stale_after is None else set(connection.scalars(_FRESH, asked))
        portion: list[uuid.UUID] = []
        runs = 0
        for user in page:
            if user.id_ in fresh:
                continue
            if portion and runs + counts.get(user.id_, 0) > RUNS_PER_PORTION:
                yield portion
                portion, runs = [], 0
            portion.append(user.id_)
            runs += counts.get(user.id_, 0)
        if portion:
            yield portion
