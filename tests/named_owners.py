"""Reads every statement that the package sends in the tests: does it name the owner of the tenants' rows?

``tests/unnamed_owners.py`` lists what need not. Each text is parsed once in a process.
"""

from __future__ import annotations

import itertools
import re
import sys
import uuid
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import sqlalchemy as sa
import sqlglot
from sqlalchemy import event
from sqlglot import exp

from platform_db.lifecycle.target import Target
from platform_db.schema.objects import tenant_columns
from tests.unnamed_owners import REASONS

# The audit log is a view of two of them.
OWNERS = {**tenant_columns(), "audit_log": "owner_id"}
# A user's own row may be read without naming the user.
USER = "user_"

# Where a statement has such a table, other than to insert rows into it: these get their owner by a column.
_RELEVANT = re.compile(
    r"(?:\b(?:FROM|JOIN|UPDATE|USING|MERGE\s+INTO|ONLY)|[,(])\s*"
    rf"platform\.(?:{'|'.join(OWNERS)})\b(?!\.)"
)
_STATEMENT = re.compile(r"[\s(]*(?:SELECT|WITH|INSERT|UPDATE|DELETE|MERGE)\b")
_SCOPES = (exp.Select, exp.Update, exp.Delete, exp.Merge, exp.Insert)

# Whose frames are between a function and its statement.
_BETWEEN = ("sqlalchemy.", "alembic.", "contextlib", "platform_db.database.", __name__)


class Source(NamedTuple):
    """A table with an owner, as a part of a statement knows it."""

    scope: int
    alias: str
    table: str


def unnamed_tables(statement: str) -> tuple[str, ...]:
    """Return the tenants' tables whose rows a statement reads, changes or deletes without naming their owner.

    It names the owner where ``owner_id`` equals a value, one of several, a column of something that is no
    tenant's table, or the ``owner_id`` of a table whose owner it names.
    """
    if not (_STATEMENT.match(statement) and _RELEVANT.search(statement)):
        return ()
    text = statement.replace("%%", "%").replace("OVERRIDING SYSTEM VALUE", "")
    # Otherwise the parser takes the ON of ON CONFLICT after it for the join's.
    text = text.replace("CROSS JOIN", ",")
    try:
        tree = sqlglot.parse_one(text, dialect="postgres")
    except sqlglot.ParseError as error:
        return (f"what the parser does not take ({error})",)
    sources = list(_sources(tree))
    named: set[Source] = set()
    joined: list[tuple[Source, Source]] = []
    for left, right in (*_equalities(tree), *_using(tree)):
        for column, value in ((left, right), (right, left)):
            source = _source_of(column, sources)
            if source is None or column.name != OWNERS[source.table]:
                continue
            other = _source_of(value, sources)
            if other is None:
                named.add(source)
            elif value.name == OWNERS[other.table]:
                joined.append((source, other))
    while more := {source for source, other in joined if other in named} - named:
        named |= more
    return tuple(sorted({source.table for source in sources if source not in named} - {USER}))


def _sources(tree: exp.Expression) -> Iterator[Source]:
    for table in tree.find_all(exp.Table):
        scope = table.find_ancestor(*_SCOPES)
        if table.db == "platform" and table.name in OWNERS and not isinstance(scope, exp.Insert):
            yield Source(id(scope), table.alias_or_name, table.name)


def _equalities(tree: exp.Expression) -> Iterator[tuple[exp.Expression, exp.Expression]]:
    """Yield both sides of each equality that every row must meet."""
    for node in tree.find_all(exp.EQ, exp.In):
        above = node.parent
        while isinstance(above, exp.And | exp.Paren):
            above = above.parent
        if not isinstance(above, exp.Where | exp.Join | exp.Merge):
            continue
        left, right = node.this, node.args.get("expression") or exp.Null()
        if not isinstance(left, exp.Tuple):
            yield left, right
        else:
            values = right.expressions if isinstance(right, exp.Tuple) else itertools.repeat(right)
            yield from zip(left.expressions, values)  # noqa: B905 # of a subquery, for each column


def _using(tree: exp.Expression) -> Iterator[tuple[exp.Expression, exp.Expression]]:
    """Yield the owners of each two tables that are joined ``USING (owner_id, ...)``."""
    for join in tree.find_all(exp.Join):
        if any(name.name == "owner_id" for name in join.args.get("using") or ()):
            of = join.parent
            joins = of.args["joins"]
            first = of.args["from_"].this if isinstance(of, exp.Select) else of
            before = [first, *(each.this for each in joins[: joins.index(join)])]
            joined, *others = (exp.column("owner_id", each.alias_or_name) for each in (join.this, *before))
            for column in (joined, *others):
                column.parent = join
            yield from ((joined, other) for other in others)


def _source_of(expression: exp.Expression, sources: list[Source]) -> Source | None:
    """Return the table that a column is of; None for a value, and for a column of anything else."""
    if not isinstance(expression, exp.Column):
        return None
    scope = expression.find_ancestor(*_SCOPES)
    while scope is not None:
        for source in sources:
            if source.scope == id(scope) and (
                source.alias == expression.table or (not expression.table and source.table != USER)
            ):
                return source
        scope = scope.find_ancestor(*_SCOPES)
    return None


def who_knows(frame: FrameType | None) -> str | None:
    """Return the function that should have named the owner; None where a test sends, or the list has it.

    A function that was given an id alone does not know the owner, nor does one that hands on the id that it
    was given: then their caller may.
    """
    asking, ids = None, set[str]()
    for each in _frames_of_the_package(frame):
        targets = (value for value in _values(each, each.f_locals) if isinstance(value, Target))
        alone = {str(target.id_) for target in targets if target.owner_id is None}
        ids |= alone
        code = each.f_code
        arguments = _values(each, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        given = {str(value) for value in arguments if isinstance(value, uuid.UUID | str)}
        asking = None if alone or ids & given else asking or each
    if asking is None:
        return None
    function = f"{asking.f_globals['__name__']}.{asking.f_code.co_name}".removeprefix("platform_db.")
    return None if is_listed(function) else function


def _frames_of_the_package(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the functions of the package that are at work, the nearest first, up to a test's or another's."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_BETWEEN) and not frame.f_code.co_name.startswith("<"):
            if not module.startswith("platform_db.") or module.startswith("platform_db.testing."):
                return
            yield frame
        frame = frame.f_back


def _values(frame: FrameType, names: Iterable[str]) -> Iterator[Any]:
    """Yield the values of a function's variables, and what is in those that are lists."""
    for value in map(frame.f_locals.get, names):
        yield from value[:100] if isinstance(value, list) else [value]


def is_listed(function: str) -> bool:
    """Tell whether the list has a function, or its module or room."""
    return any(f"{function}.".startswith(f"{name}.") for names in REASONS.values() for name in names)


unnamed: list[str] = []
"""What was found since a test began."""

_named: set[str] = set()


def watch() -> None:
    """Look at every statement of this process from now on."""
    event.listen(sa.Engine, "before_cursor_execute", _look)


def _look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    # Who sends it first: parsing takes some milliseconds, and tests send very many texts.
    if statement in _named or (function := who_knows(sys._getframe(1))) is None:
        return
    if tables := unnamed_tables(statement):
        unnamed.append(f"{function} names no owner of {', '.join(tables)}:\n{statement}")
    else:
        _named.add(statement)
