"""The tables of the schema in the order of their references, and the pages in which their rows are copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from platform_db.models import Base


@dataclass(frozen=True)
class Copied:
    """A table whose rows are copied as they are.

    :param key: the columns that decide which page a row is on. They sort alike on every server.
    """

    table: sa.Table
    key: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.table.name

    @cached_property
    def primary_key(self) -> list[str]:
        """The columns that tell a row."""
        return [column.name for column in self.table.primary_key.columns]

    @cached_property
    def columns(self) -> list[str]:
        """The columns that are stored, and not computed."""
        return [column.name for column in self.table.columns if column.computed is None]


@dataclass(frozen=True)
class Group:
    """Tables whose rows refer to each other both ways: each transaction brings a page of all of them."""

    tables: tuple[Copied, ...]


@dataclass(frozen=True)
class Page:
    """Keys from one on, and up to another that is not in it; None is without a bound."""

    start: Sequence[str] | None = None
    until: Sequence[str] | None = None

    def condition(self, key: Sequence[str]) -> tuple[str, list[str]]:
        """Return the condition that a row is on the page, and its values."""
        conditions: list[str] = ["true"]
        values: list[str] = []
        for sign, bound in ((">=", self.start), ("<", self.until)):
            if bound is not None:
                marks = ", ".join(["%s"] * len(key))
                conditions.append(f"({', '.join(key)}) {sign} ({marks})")
                values += bound
        return " AND ".join(conditions), values


def groups() -> Iterator[Group]:
    """Yield all tables in an order in which each finds what it refers to."""
    tables = Base.metadata.sorted_tables
    place = {table: number for number, table in enumerate(tables)}
    waiting: dict[sa.Table, sa.Table] = {}
    for table in tables:
        later = [key.column.table for key in table.foreign_keys if place[key.column.table] > place[table]]
        if later:
            waiting[later[0]] = table
        elif table in waiting:
            first = waiting[table]
            (reference,) = (key for key in table.foreign_key_constraints if key.referred_table is first)
            pages = {element.column.name: element.parent.name for element in reference.elements}
            key = page_key(first)
            yield Group((Copied(first, key), Copied(table, tuple(pages[column] for column in key))))
        else:
            yield Group((Copied(table, page_key(table)),))


def page_key(table: sa.Table) -> tuple[str, ...]:
    """Return the first columns of the primary key, up to one whose order depends on the server."""
    names: list[str] = []
    for column in table.primary_key.columns:
        if not sorts_alike(column.type):
            break
        names.append(column.name)
    return tuple(names)


def sorts_alike(type_: Any) -> bool:
    """Tell whether every server has the values of a type in the same order."""
    return not isinstance(type_, sa.String) or type_.collation == "C"
