"""One owner's tables: rows come into a temporary table, are compared there, and stored by one statement."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.driver_errors import reason_of
from platform_db.database.sqlstates import is_refused_value
from platform_db.integrations.redun_import.reading import Row, digest
from platform_db.integrations.redun_import.tables import OPTIONAL, Table
from platform_db.transfer.snapshot import TARGET_SETTINGS

_STAGED = {
    "text": 'text COLLATE "C"',
    "time": "timestamptz",
    "flag": "boolean",
    "number": "bigint",
    "json": "text",
    "bytes": "bytea",
}
_BESIDE = {
    "place": "bigint",
    "row_id": "text",
    "row_size": "bigint",
    "fixed_digest": "text",
    "changing_digest": "text",
    "bytes_compared": "text",
}
"""What comes beside a row: its place, its name, its digests, and what its bytes are compared by."""
_DIGESTED = {
    "text": "stored.{0}",
    "number": "stored.{0}::text",
    "flag": "stored.{0}::text",
    "time": "to_char(stored.{0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
}


class NotArrived(errors.Refused):
    """What arrived is not what was sent."""


class Target:
    """An owner's tables, in a transaction.

    :param trial: store the rows in temporary copies of the tables, which have the same checks and indexes,
        but no references.
    :raises errors.UserNotFound: the owner was deleted meanwhile.
    """

    def __init__(self, session: Session, owner_id: uuid.UUID, *, trial: bool = False) -> None:
        self.session, self.owner, self.trial = session, str(owner_id), trial
        for setting in TARGET_SETTINGS:
            self._run(f"SET LOCAL {setting}")
        if self._run(_KEEP_OWNER, (self.owner,)).first() is None:
            raise errors.UserNotFound("the owner was deleted")
        self.staged: dict[str, int] = {}

    def bring(self, table: Table, rows: Iterable[Row]) -> None:
        """Bring rows beside a table, after those that are there already."""
        if table.name not in self.staged:
            columns = [f"{name} {type_}" for name, type_ in _BESIDE.items()]
            columns += [f"{column} {_STAGED[_kind(type_)]}" for column, type_ in table.columns.items()]
            self._run(f"CREATE TEMP TABLE brought_{table.target} ({', '.join(columns)}) ON COMMIT DROP")
            if self.trial:
                like = f"LIKE platform.{table.target} INCLUDING ALL"
                self._run(f"CREATE TEMP TABLE {table.target} ({like}) ON COMMIT DROP")
            self.staged[table.name] = 0
        lines = [_line(table, number, row) for number, row in enumerate(rows, self.staged[table.name] + 1)]
        self.staged[table.name] += len(lines)
        names = ", ".join([*_BESIDE, *table.columns])
        with self._cursor() as cursor:
            cursor.copy_expert(
                f"COPY brought_{table.target} ({names}) FROM STDIN", io.BytesIO("".join(lines).encode())
            )

    def drop_doubles(self, table: Table) -> list[str]:
        """Drop those of the rows that were brought whose key another one before has, and return their ids."""
        key = ", ".join(table.key)
        return list(
            self._run(
                f"""DELETE FROM brought_{table.target} WHERE place IN (
                    SELECT place FROM (
                        SELECT place, row_number() OVER (PARTITION BY {key} ORDER BY place) AS number
                        FROM brought_{table.target}
                    ) AS numbered WHERE number > 1
                ) RETURNING row_id"""
            ).scalars()
        )

    def drop_stored(self, table: Table, *, by_length: bool = False) -> list[str]:
        """Drop those of the rows that were brought whose key is stored, but for what changes of them.

        :param by_length: compare bytes by their number alone.
        :returns: the ids of those that are stored with something else that never changes.
        """
        same = _is_same(table, _BY_LENGTH if by_length else _BY_DIGEST)
        rows = f"DELETE FROM brought_{table.target} AS brought WHERE"
        differing = self._run(
            f"{rows} {self._compared(table, same)} IS FALSE RETURNING row_id", (self.owner,)
        ).all()
        self._run(f"{rows} {self._compared(table, f'{same} AND {_is_unchanged(table)}')}", (self.owner,))
        return [id_ for (id_,) in differing]

    def brought(self, table: Table) -> list[str]:
        """Return the ids of the rows that were brought and not dropped."""
        return [id_ for (id_,) in self._run(f"SELECT row_id FROM brought_{table.target} ORDER BY place")]

    def outdated(self, table: Table) -> list[str]:
        """Return the ids of rows that were brought, where what is stored has changed since.

        :raises NotArrived: a row is not stored as it was brought.
        """
        same = self._compared(table, _is_same(table, _ARRIVED))
        stored = self._compared(table, f"{_is_same(table, _ARRIVED)} AND {_is_unchanged(table)}")
        found = self._run(
            f"SELECT row_id, {same} FROM brought_{table.target} AS brought WHERE {stored} IS NOT TRUE",
            (self.owner, self.owner),
        ).all()
        if not all(is_same for _, is_same in found):
            raise NotArrived(f"what arrived in {table.target} is not what was sent")
        return [id_ for id_, _ in found]

    def _compared(self, table: Table, condition: str) -> str:
        """Return the SQL of a condition on the stored row of a key; NULL where there is none.

        A scalar query goes by the key for each row, also before the planner knows the table. And of an owner
        that its statistics lack it would expect one row, which any index finds, had it the owner's id itself.
        """
        return f"""(SELECT {condition} FROM platform.{table.target} AS stored
            WHERE stored.owner_id = (SELECT %s::uuid) AND {_same_key(table)} LIMIT 1)"""

    def keep_values(self) -> None:
        """Say that the values that were brought were seen now, so that no pruning deletes them."""
        self._run(
            "SELECT platform.keep_values(%s, ARRAY(SELECT value_hash FROM brought_value))", (self.owner,)
        )

    def set_sizes(self, sizes: dict[str, int]) -> None:
        """Set the sizes of values whose bytes lie in the value store."""
        self._run(
            """UPDATE platform.value AS stored SET size = given.size
            FROM unnest(%s::text[], %s::bigint[]) AS given (value_hash, size)
            WHERE stored.owner_id = %s AND stored.value_hash = given.value_hash
              AND stored.size <> given.size AND octet_length(stored.value) = 0""",
            (list(sizes), list(sizes.values()), self.owner),
        )

    def store(self, table: Table) -> int:
        """Store the rows that were brought, and return how many were written."""
        rows: int = self._run(*self._insert(table)).rowcount
        return rows

    def culprits(self, table: Table) -> dict[str, str]:
        """Return why each row is refused that the database does not take."""
        return self._culprits(table, 1, self.staged[table.name])

    def _culprits(self, table: Table, low: int, high: int) -> dict[str, str]:
        try:
            with self.session.begin_nested() as savepoint:
                self._run(*self._insert(table, (low, high)))
                savepoint.rollback()
            return {}
        except (errors.Refused, sa.exc.DBAPIError) as error:
            if not is_refused(error):
                raise
            reason = reason_of(error)
        if low < high:
            middle = (low + high) // 2
            return {**self._culprits(table, low, middle), **self._culprits(table, middle + 1, high)}
        query = f"SELECT row_id FROM brought_{table.target} WHERE place = %s"
        return {id_: reason for (id_,) in self._run(query, (low,))}

    def _insert(self, table: Table, part: tuple[int, int] | None = None) -> tuple[str, tuple[Any, ...]]:
        taken = {
            column: f"{column}::jsonb" if _kind(type_) == "json" else column
            for column, type_ in table.columns.items()
        }
        if table.name == "value":
            taken["size"] = "row_size"
        if part:  # A part of the rows is stored: the parent may be in another part.
            taken.update((name, "NULL") for name, of in table.references.items() if of == table.name)
        where = "WHERE place BETWEEN %s AND %s" if part else ""
        # Two writers that meet wait for each other in one direction.
        order = ", ".join(table.key) if table.sorted_by_key else "place"
        changes = ", ".join(f"{name} = excluded.{name}" for name in table.changing)
        conflict = f"UPDATE SET {changes} WHERE {table.later}" if changes else "NOTHING"
        target = f"{'pg_temp' if self.trial else 'platform'}.{table.target}"
        return (
            f"""INSERT INTO {target} AS stored (owner_id, {", ".join(taken)})
            SELECT %s::uuid, {", ".join(taken.values())} FROM brought_{table.target} {where} ORDER BY {order}
            ON CONFLICT (owner_id, {", ".join(table.key)}) DO {conflict}""",
            (self.owner, *(part or ())),
        )

    def check_references(self) -> None:
        """Check the references that are checked at a transaction's end otherwise."""
        self._run("SET CONSTRAINTS ALL IMMEDIATE")

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        return self.session.connection().exec_driver_sql(statement, values)

    def _cursor(self) -> Any:
        dbapi: Any = self.session.connection().connection.dbapi_connection
        return dbapi.cursor()


def is_refused(error: Exception) -> bool:
    """Tell whether rows are at fault; what is beyond the owner's quota is no row's fault."""
    if isinstance(error, errors.QuotaExceeded | errors.UserNotFound):
        return False
    return isinstance(error, errors.Refused) or is_refused_value(error)


_KEEP_OWNER = "SELECT true FROM platform.user_ WHERE id_ = %s FOR KEY SHARE"


def _kind(type_: str) -> str:
    return type_.removesuffix(OPTIONAL)


def _digested(table: Table, columns: Iterable[str]) -> list[str]:
    return [column for column in columns if _kind(table.columns[column]) in _DIGESTED]


def _digest_of(table: Table, columns: Iterable[str]) -> str:
    """Return the SQL of the digest that :func:`~.reading.digest` makes."""
    parts = []
    for column in _digested(table, columns):
        value = _DIGESTED[_kind(table.columns[column])].format(column)
        parts += [f"length({value})", "':'", value]
    return f"md5(concat({', '.join(parts) or repr('')}))"


def _is_same(table: Table, bytes_: str) -> str:
    """Return the SQL of whether a stored row is the one that was brought, in what never changes."""
    same = [f"{_digest_of(table, table.fixed)} = brought.fixed_digest"]
    for column, type_ in table.columns.items():
        if _kind(type_) == "json":
            same.append(f"stored.{column} = brought.{column}::jsonb")
        if _kind(type_) == "bytes":
            same.append(bytes_.format(column))
    return " AND ".join(same)


# Of two copies of a value one may be in a value store, and its row is empty.
_BY_LENGTH = (
    "(octet_length(stored.{0})::text IN ('0', brought.bytes_compared) OR brought.bytes_compared = '0')"
)
_BY_DIGEST = "(md5(stored.{0}) IN (md5(''), brought.bytes_compared) OR brought.bytes_compared = md5(''))"
_ARRIVED = "md5(stored.{0}) = brought.bytes_compared"


def _is_unchanged(table: Table) -> str:
    return f"{_digest_of(table, table.changing)} = brought.changing_digest"


def _same_key(table: Table) -> str:
    return " AND ".join(f"stored.{column} = brought.{column}" for column in table.key)


def _line(table: Table, number: int, row: Row) -> str:
    fixed, changing = (
        digest(row.values[column] for column in _digested(table, columns))
        for columns in (table.fixed, table.changing)
    )
    fields = [str(number), _escaped(row.id), str(row.size), fixed, changing, row.compared]
    for column, type_ in table.columns.items():
        value = row.values[column]
        if _kind(type_) == "bytes":
            fields.append("\\N" if row.data is None else f"\\\\x{row.data.hex()}")
        else:
            fields.append("\\N" if value is None else _escaped(value))
    return "\t".join(fields) + "\n"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
