"""All that belongs to a table's rows: found from the foreign keys, so that no new table is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from platform_db.models import Base
from platform_db.states import MACHINES
from platform_db.types import SCHEMA

# These speak of any row by its id, without a foreign key.
SPEAKING_OF_ANY = ("lease", "note", "status_change")

OF_ANY_KIND = {*MACHINES}


@dataclass(frozen=True)
class Member:
    """A table with rows that belong to others.

    :param condition: which rows of it, as SQL over ``:ids``.
    :param cascades: whether they are deleted with their parent by a foreign key.
    """

    table: str
    condition: str
    cascades: bool


@dataclass(frozen=True)
class Family:
    """A table's rows and all that belongs to them."""

    table: str
    members: tuple[Member, ...]

    @staticmethod
    @cache
    def of(table: str) -> Family:
        """Return the family of a table with a column ``id_``."""
        members: list[Member] = []
        _collect(Base.metadata.tables[f"{SCHEMA}.{table}"], "id_ = ANY(CAST(:ids AS uuid[]))", members, [])
        return Family(table, tuple(members))

    def rows(self, connection: sa.Connection, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield each row of the family as its table and its JSON text, parents first."""
        statement = f"SELECT * FROM {SCHEMA}.{self.table} WHERE id_ = ANY(CAST(:ids AS uuid[]))"
        for table, query in ((self.table, statement), *((m.table, _select(m)) for m in self.members)):
            rows = connection.execute(
                sa.text(f"SELECT row_to_json(archived)::text FROM ({query}) AS archived"), {"ids": ids}
            )
            yield from ((table, text) for text in rows.scalars())

    def delete(self, connection: sa.Connection, ids: Sequence[str]) -> Counter[str]:
        """Delete the family, and return how many rows of which table went."""
        gone: Counter[str] = Counter()
        if not ids:
            return gone
        for member in self.members:
            statement = (
                f"SELECT count(*) FROM {SCHEMA}.{member.table} WHERE {member.condition}"
                if member.cascades
                else f"DELETE FROM {SCHEMA}.{member.table} WHERE {member.condition}"
            )
            result = connection.execute(sa.text(statement), {"ids": ids})
            gone[member.table] += result.scalar() or 0 if member.cascades else result.rowcount
        statement = f"DELETE FROM {SCHEMA}.{self.table} WHERE id_ = ANY(CAST(:ids AS uuid[]))"
        gone[self.table] += connection.execute(sa.text(statement), {"ids": ids}).rowcount
        return gone


def _select(member: Member) -> str:
    return f"SELECT * FROM {SCHEMA}.{member.table} WHERE {member.condition}"


def _collect(table: sa.Table, condition: str, members: list[Member], above: list[Any]) -> None:
    """Add what belongs to the rows of ``table`` that meet the condition, and so on downwards."""
    owner = next(iter(table.primary_key.columns)).name
    if table.name in OF_ANY_KIND:
        keys = f"SELECT {owner}, id_ FROM {SCHEMA}.{table.name} WHERE {condition}"
        members += [
            Member(name, f"(owner_id, entity_id) IN ({keys})", cascades=False) for name in SPEAKING_OF_ANY
        ]
    found: list[tuple[sa.Table, str]] = []
    for child in Base.metadata.sorted_tables:
        if child in above or child is table:
            continue
        for key in child.foreign_key_constraints:
            if key.referred_table is not table or key.ondelete != "CASCADE":
                continue
            columns = ", ".join(key.column_keys)
            referred = ", ".join(element.column.name for element in key.elements)
            of_parent = f"({columns}) IN (SELECT {referred} FROM {SCHEMA}.{table.name} WHERE {condition})"
            if _is_second_path(child, members):
                continue
            members.append(Member(child.name, of_parent, cascades=True))
            found.append((child, of_parent))
    # Only then what belongs to the children: what has a key to the parent itself is found by that one.
    for child, of_parent in found:
        _collect(child, of_parent, members, [*above, table])


def _is_second_path(child: sa.Table, members: list[Member]) -> bool:
    """Tell whether the child's rows are in the family already by another of its keys.

    A job's log is also its run's: counted once, under the run.
    """
    return any(member.cascades and member.table == child.name for member in members)
