"""All that belongs to a table's rows: found from the foreign keys, so that no new table is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import sqlalchemy as sa

from platform_db.lifecycle.target import Key
from platform_db.models import Base
from platform_db.quota.pruning import FIGURES, these
from platform_db.states import MACHINES

# What needs no lock: rows that are written once and never changed, which services could not lock anyway;
# figures, since a transaction that writes one has locked its owner's totals before, as pruning does; and
# progress, since a transaction that changes it has locked a job or the run.
NEVER_LOCKED = {
    "log_chunk",
    "service_log",
    "status_change",
    "note",
    "workspace_retention_audit_log",
    "workflow_progress",
    *FIGURES,
}

# What speaks of any row by its id, without a foreign key; the database forgets it with the row.
SPEAKING_OF_ANY = ("lease", "note", "status_change")

# Rows that are fetched at once: chunks of logs can be large.
FETCHED = 20

_THESE = "root.owner_id = ANY(CAST(:owners AS uuid[])) AND root.id_ = ANY(CAST(:ids AS uuid[]))"


class Member(NamedTuple):
    """A table with rows that belong to others.

    :param source: the family's own table, ``root``, joined downwards to this one, ``alias``, as SQL.
    :param key: the columns to lock its rows in the order of.
    """

    table: str
    alias: str
    source: str
    key: tuple[str, ...]

    def lock(self) -> sa.TextClause:
        """Return the statement that locks the rows that are free, and tells whose are not."""
        order = ", ".join(f"{self.alias}.{column}" for column in self.key)
        return sa.text(f"""
            WITH locked AS MATERIALIZED (
                SELECT {self.alias}.ctid AS place FROM {self.source} WHERE {_THESE}
                ORDER BY {order} FOR UPDATE OF {self.alias} SKIP LOCKED
            )
            SELECT DISTINCT root.owner_id, root.id_ FROM {self.source}
            WHERE {_THESE} AND NOT EXISTS (SELECT FROM locked WHERE place = {self.alias}.ctid)
            """)

    def select(self) -> sa.TextClause:
        rows = f"SELECT {self.alias}.* FROM {self.source} WHERE {_THESE}"
        return sa.text(f"SELECT row_to_json(archived)::text FROM ({rows}) AS archived")

    def delete(self) -> sa.TextClause:
        """Return the statement that deletes the rows, once they are locked."""
        places = f"SELECT {self.alias}.ctid FROM {self.source} WHERE {_THESE}"
        return sa.text(f"""
            DELETE FROM platform.{self.table}
            WHERE owner_id = ANY(CAST(:owners AS uuid[])) AND ctid = ANY(ARRAY({places}))
            """)


class Family(NamedTuple):
    """A table's rows and all that belongs to them, parents first."""

    root: Member
    members: tuple[Member, ...]

    @staticmethod
    @cache
    def of(table: str) -> Family:
        found = Base.metadata.tables[f"platform.{table}"]
        root = Member(table, "root", f"platform.{table} AS root", _key(found))
        members: list[Member] = []
        _collect(found, root, members)
        return Family(root, tuple(members))

    def lock(self, connection: sa.Connection, keys: Sequence[Key]) -> list[Key]:
        """Lock what belongs to locked rows; return the keys of those whose family no other session locks.

        It waits for no lock.
        """
        free = list(keys)
        for member in self.members:
            if free and member.table not in NEVER_LOCKED:
                busy = {(row.owner_id, row.id_) for row in connection.execute(member.lock(), these(free))}
                free = [key for key in free if key not in busy]
        return free

    def rows(self, connection: sa.Connection, keys: Sequence[Key]) -> Iterator[tuple[str, str]]:
        """Yield each row of the family as its table and its JSON text, a few at a time."""
        for member in (self.root, *self.members):
            rows = connection.execute(member.select(), these(keys), execution_options={"yield_per": FETCHED})
            yield from ((member.table, text) for text in rows.scalars())

    def delete(self, connection: sa.Connection, keys: Sequence[Key]) -> Counter[str]:
        """Delete the family of locked rows, and return how many rows of which table went."""
        gone: Counter[str] = Counter()
        if not keys:
            return gone
        counts = [f"SELECT '{m.table}', count(*) FROM {m.source} WHERE {_THESE}" for m in self.members]
        if counts:
            for table, count in connection.execute(sa.text(" UNION ALL ".join(counts)), these(keys)):
                gone[table] += count
        # Foreign keys and triggers delete the rest. What has a history is deleted all at once before: a
        # cascade would forget the histories parent by parent.
        for member in reversed(self.members):
            if member.table in MACHINES:
                connection.execute(member.delete(), these(keys))
        gone[self.root.table] += connection.execute(self.root.delete(), these(keys)).rowcount
        return gone


def _key(table: sa.Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key.columns)


def _collect(table: sa.Table, parent: Member, members: list[Member], *above: sa.Table) -> None:
    """Add what belongs to the rows of ``table``, and so on downwards."""

    def add(child: sa.Table, values: dict[str, str]) -> Member:
        alias = f"member_{len(members)}"
        on = " AND ".join(f"{alias}.{column} = {value}" for column, value in values.items())
        source = f"{parent.source} JOIN platform.{child.name} AS {alias} ON {on}"
        members.append(Member(child.name, alias, source, _key(child)))
        return members[-1]

    if table.name in MACHINES:
        row = {"owner_id": f"{parent.alias}.{parent.key[0]}", "entity_id": f"{parent.alias}.id_"}
        for name in SPEAKING_OF_ANY:
            add(Base.metadata.tables[f"platform.{name}"], {**row, "entity": f"'{table.name}'"})
    found: list[tuple[sa.Table, Member]] = []
    for child in Base.metadata.sorted_tables:
        if child in (table, *above) or any(member.table == child.name for member in members):
            continue  # What is in it by another key, such as a job's log by its run, is there once.
        for key in child.foreign_key_constraints:
            if key.referred_table is table and key.ondelete == "CASCADE":
                values = {e.parent.name: f"{parent.alias}.{e.column.name}" for e in key.elements}
                found.append((child, add(child, values)))
                break
    # Only then what belongs to the children: what has a key to the parent itself is found by that one.
    for child, member in found:
        _collect(child, member, members, table, *above)
