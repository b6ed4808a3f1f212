"""Whether Citus distributes the tables of a database over several machines."""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from psycopg2.extras import CompositeCaster
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.orm import Session

# Citus gives each of its tables such a trigger.
IS_DISTRIBUTED = """EXISTS (
    SELECT FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = 'platform' AND relname = 'user_' AND tgisinternal
      AND starts_with(tgname, 'truncate_trigger_'))"""

T = TypeVar("T")

# By what the connections of an engine have in common. It is asked once: services restart after distributing.
_known: WeakKeyDictionary[Dialect, bool] = WeakKeyDictionary()


def is_distributed(connection: Connection) -> bool:
    """Tell whether the database is distributed, so that statements about several owners go owner by owner."""
    known = _known.get(connection.dialect)
    if known is None:
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:  # It is no statement of the caller's.
            cursor.execute(f"SELECT {IS_DISTRIBUTED}")
            known = _known[connection.dialect] = bool(cursor.fetchone()[0])
        if not (connection.in_transaction() or driver.autocommit):
            driver.rollback()
    return known


def by_owner(
    connection: Connection, items: Iterable[T], owner_of: Callable[[T], uuid.UUID | None]
) -> list[list[T]]:
    """Return what one statement each is about: all, or the items of each owner where tables are distributed.

    Owners come in order, so that two transactions lock their rows in the same one.
    """
    items = list(items)
    if not is_distributed(connection):
        return [items] if items else []
    groups: dict[uuid.UUID | None, list[T]] = {}
    for item in items:
        groups.setdefault(owner_of(item), []).append(item)
    return [groups[owner] for owner in sorted(groups, key=str)]


def engine_is_distributed(engine: Engine) -> bool:
    """Tell the same of an engine's database."""
    if (known := _known.get(engine.dialect)) is not None:
        return known
    with engine.connect() as connection:
        return is_distributed(connection)


def execute_together(
    engine: Engine, enter: str, owner: uuid.UUID | str, statements: Iterable[tuple[str, Sequence[Any]]]
) -> list[Any]:
    """Execute statements about one owner's rows in a transaction, and return the last one's rows.

    :param enter: what begins the transaction.
    :param statements: the driver's texts with their values.
    """
    rows: list[Any] = []
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        for statement in filter(None, enter.split(";")):
            connection.exec_driver_sql(statement)
        for text, values in statements:
            result = execute_for(connection, owner, text, tuple(values))
            rows = list(result) if getattr(result, "returns_rows", True) else []
    return rows


def execute_everywhere(
    connection: Connection, statement: sa.TextClause, parameters: Mapping[str, Any] | None = None
) -> list[Any]:
    """Execute a statement about rows of all owners, and return all its rows.

    Where tables are distributed it is executed on the shards of some owners after those of others, always in
    the same order: a limit in it is one for each. The rows are in no order then.
    """
    if not is_distributed(connection):
        return list(connection.execute(statement, parameters or {}).all())
    rows: list[Any] = []
    for owner in _one_of_each(connection):
        rows += execute_for(connection, owner, statement, parameters or {}).all()
    return rows


# An id for each group of shards, in their order: none needs to be a user's.
_groups: WeakKeyDictionary[Dialect, list[uuid.UUID]] = WeakKeyDictionary()


def _one_of_each(connection: Connection) -> list[uuid.UUID]:
    if (known := _groups.get(connection.dialect)) is None:
        known = _groups[connection.dialect] = list(connection.scalars(_ONE_OF_EACH))
    return known


# A hundred for each: that none falls into one of the groups is out of the question.
_ONE_OF_EACH = sa.text("""
    WITH shards AS (
        SELECT count(*) AS number FROM pg_dist_shard WHERE logicalrelid = 'platform.workflow'::regclass
    ),
    ids AS MATERIALIZED (SELECT gen_random_uuid() AS id_ FROM shards, generate_series(1, 100 * number)),
    placed AS MATERIALIZED (
        SELECT id_, get_shard_id_for_distribution_column('platform.workflow', id_) AS shard FROM ids
    )
    SELECT DISTINCT ON (shard) id_ FROM placed ORDER BY shard
    """)


class OnShards:
    """A connection whose statements are about the rows of one group of shards alone."""

    def __init__(self, connection: Connection, owner: uuid.UUID) -> None:
        self._connection = connection
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Any, parameters: Any = None, **options: Any) -> Any:
        return execute_for(self._connection, self._owner, statement, parameters or {})

    def scalar(self, statement: Any, parameters: Any = None) -> Any:
        return self.execute(statement, parameters).scalar()

    def scalars(self, statement: Any, parameters: Any = None) -> Any:
        return self.execute(statement, parameters).scalars()


def factories_of_groups(factory: Callable[[], Session], session: Session) -> list[Callable[[], Session]]:
    """Return the factory; where tables are distributed, one for each group of shards.

    What a session's ``connection()`` executes is about the rows of that group then.

    :param session: on the same database.
    """
    connection = session.connection()
    owners = _one_of_each(connection) if is_distributed(connection) else []
    return [functools.partial(_session_on, factory, owner) for owner in owners] or [factory]


def _session_on(factory: Callable[[], Session], owner: uuid.UUID) -> Session:
    session: Any = factory()
    connect = session.connection
    session.connection = lambda *arguments, **options: OnShards(connect(*arguments, **options), owner)
    return session  # type: ignore[no-any-return]


def execute_for_users(
    connection: Connection,
    statement: sa.TextClause,
    users: Iterable[uuid.UUID],
    parameters: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Execute a statement about the rows of ``:users``, and return all its rows.

    Where tables are distributed it is executed for each of them.
    """
    rows: list[Any] = []
    for some in by_owner(connection, users, lambda user: uuid.UUID(str(user))):
        rows += execute_for(connection, some[0], statement, {**(parameters or {}), "users": some}).all()
    return rows


def execute_by_owner(
    connection: Connection,
    statement: sa.TextClause,
    keys: Iterable[tuple[uuid.UUID, Any]],
    parameters: Mapping[str, Any],
) -> list[Any]:
    """Execute a statement about rows that ``:owners`` and ``:ids`` name, and return all its rows.

    Where tables are distributed it is executed for each owner.
    """
    rows: list[Any] = []
    for some in by_owner(connection, keys, lambda key: key[0]):
        given = {"owners": [str(owner) for owner, _ in some], "ids": [str(id_) for _, id_ in some]}
        rows += execute_for(connection, some[0][0], statement, {**parameters, **given}).all()
    return rows


def execute_for(
    connection: Connection,
    owner: uuid.UUID | str | None,
    statement: sa.TextClause | str,
    parameters: Mapping[str, Any] | Sequence[Any],
) -> Any:
    """Execute a statement that is about the rows of one owner alone, on the node that has them.

    Citus plans no statement that locks, changes and inserts rows of several tables, as one server does. So it
    is handed to the function ``on_shards``, whose rows come back with the types of their columns: the driver
    makes of them what it makes of any row.

    :param owner: None where the caller does not know it: then Citus plans the statement.
    :param statement: a text of the driver's is executed as such.
    :returns: rows, or the number of those that the statement has written, as of any statement.
    """
    if owner is None or not is_distributed(connection):
        if isinstance(statement, str):
            return connection.exec_driver_sql(statement, parameters)
        return connection.execute(statement, parameters)
    text, values = statement, parameters
    if not isinstance(text, str):
        compiled: Any = text.compile(dialect=connection.dialect)
        processors = compiled._bind_processors
        values = {
            name: processors[name](value) if name in processors else value
            for name, value in compiled.construct_params(parameters).items()
        }
        text = str(compiled)
    gives_rows = _gives_rows(text)
    driver: Any = connection.connection.dbapi_connection
    with driver.cursor() as cursor:
        given = values.values() if isinstance(values, Mapping) else values
        asked = {
            "owner": str(owner),
            "template": _template(text, values),
            "literals": [cursor.mogrify("%s", (value,)).decode() for value in given],
            "gives_rows": gives_rows,
        }
        found = [row for row in connection.exec_driver_sql(_ON_SHARDS, asked).scalars() if row is not None]
        columns = json.loads(found[0]) if gives_rows and found else []
        types = [type_ for _, type_ in columns]
        tokenize: Any = CompositeCaster.tokenize
        rows = [tuple(map(cursor.cast, types, tokenize(row))) for row in found[1:]]
    names = [name for name, _ in columns] or ["nothing"]  # A result without columns cannot be asked for rows.
    result: Any = IteratorResult(SimpleResultMetaData(names), iter(rows))
    result.rowcount = len(rows) if gives_rows else int(found[0])
    return result


def _template(statement: str, values: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return a statement of the driver's as PostgreSQL's ``format()`` takes it: a place for each value."""
    places = [f"%{number}$s" for number in range(1, len(values) + 1)]
    named = dict(zip(values, places, strict=True)) if isinstance(values, Mapping) else tuple(places)
    return statement.replace("%%", "%%%%") % named


def _gives_rows(text: str) -> bool:
    """Tell whether a statement returns rows: what stands in parentheses and quotes does not count."""
    depth, outside = 0, list[str]()
    for part in _PARTS.findall(text):
        depth += (part == "(") - (part == ")")
        if not depth and part[0] not in "()'-":
            outside.append(part.upper())
    if ";" in outside:
        return False
    first = next(word for word in outside if word in ("SELECT", "INSERT", "UPDATE", "DELETE"))
    return first == "SELECT" or "RETURNING" in outside


# The lock is taken before the call is planned: moving a shard waits for it, and a plan that is made under it
# knows where the shard is.
_ON_SHARDS = """
    SELECT platform.hold_shards(CAST(%(owner)s AS uuid));
    SELECT platform.on_shards(
        CAST(%(owner)s AS uuid), %(template)s, CAST(%(literals)s AS text[]), %(gives_rows)s, count(*))
    FROM platform.workflow
    WHERE owner_id = CAST(%(owner)s AS uuid) AND id_ = '00000000-0000-0000-0000-000000000000'
"""


# Quoted texts and comments, which are passed over, and then what counts.
_PARTS = re.compile(r"'(?:[^']|'')*'|--[^\n]*|[();]|\w+")
