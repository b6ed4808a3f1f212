"""The rules that let Citus distribute the schema, as checks that return what breaks them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from platform_db.schema.placement import COORDINATOR_FUNCTIONS, Placement, cluster_statements

# Those of one column are dropped where tables are distributed: ids and numbers are unique without an index.
DROPPED = {"id_", "number"}

# What these write is the coordinator's alone, or it is the row itself.
_WRITES = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM) platform\.")


def broken_keys(metadata: sa.MetaData, placed: Mapping[str, Placement]) -> Iterator[str]:
    """Yield the keys that Citus would refuse, and those that would not hold on several machines."""
    distributed = [t for t in metadata.tables.values() if placed[t.name] is Placement.distributed]
    for table in distributed:
        if "owner_id" not in table.columns or table.columns["owner_id"].nullable:
            yield f"{table.name} has no owner in each row"
            continue
        if "owner_id" not in table.primary_key.columns:
            yield f"{table.name}: its primary key is without the owner"
        for constraint in table.constraints:
            if isinstance(constraint, sa.UniqueConstraint):
                names = [column.name for column in constraint.columns]
                if "owner_id" not in names and not (len(names) == 1 and names[0] in DROPPED):
                    yield f"{table.name}: {', '.join(names)} is unique without the owner"
        for index in table.indexes:
            if index.unique and "owner_id" not in [column.name for column in index.columns]:
                yield f"{table.name}: the index {index.name} is unique without the owner"
    for table in metadata.tables.values():
        yield from map(f"{table.name}: {{}}".format, _broken_references(table, placed))


def _broken_references(table: sa.Table, placed: Mapping[str, Placement]) -> Iterator[str]:
    here = placed[table.name]
    for key in table.foreign_key_constraints:
        there = placed[key.referred_table.name]
        pairs = [(element.parent.name, element.column.name) for element in key.elements]
        if here is Placement.distributed and there is Placement.distributed:
            if ("owner_id", "owner_id") not in pairs:
                yield f"a foreign key to {key.referred_table.name} is without the owner"
        elif there is Placement.distributed or (there is Placement.local and here is not Placement.local):
            yield f"a foreign key to {key.referred_table.name}, which is {there.value}"
        if here is Placement.distributed and (key.ondelete == "SET NULL" or key.onupdate is not None):
            yield f"a foreign key to {key.referred_table.name} changes the row"


def broken_triggers(catalogue: Mapping[str, str], placed: Mapping[str, Placement]) -> Iterator[str]:
    """Yield the triggers of reference tables that would write something else once on each node."""
    bodies = {name.split(" ")[1].partition("(")[0]: text for name, text in _of_kind(catalogue, "function")}
    for name, definition in _of_kind(catalogue, "trigger"):
        table = name.rpartition(" ")[2]
        function = definition.rpartition("EXECUTE FUNCTION platform.")[2].partition("(")[0]
        writes = any(_WRITES.search(bodies[each]) for each in _called(function, bodies))
        checks = "platform.is_coordinator()" in definition
        if placed.get(table) is Placement.reference and writes and not checks:  # A view has no place.
            yield name


def _called(function: str, bodies: Mapping[str, str]) -> set[str]:
    """Return a function and those that it calls."""
    called, new = set[str](), {function}
    while new:
        called |= new
        found = {name for each in new for name in re.findall(r"platform\.(\w+)\(", bodies[each])}
        new = (found & bodies.keys()) - called
    return called


def broken_functions(catalogue: Mapping[str, str], placed: Mapping[str, Placement]) -> Iterator[str]:
    """Yield the statements of functions that another node could not run, or would run on its own terms."""
    others = {*COORDINATOR_FUNCTIONS, *re.findall(r"FUNCTION platform\.(\w+)", "".join(cluster_statements()))}
    for name, definition in _of_kind(catalogue, "function"):
        if name.split(" ")[1].partition("(")[0] in others:
            continue
        body = re.sub(r"--[^\n]*", "", definition.partition("AS $function$")[2])
        declared = body.partition("BEGIN")[0]
        if "DECLARE" in declared and re.search(r"platform\.\w+(%\w+)?\s*(:=|;)", declared):
            yield f"{name} has a variable of a table's type, and comes before its tables"
        yield from map(f"{name}: {{}}".format, _broken_statements(body, placed))


def _broken_statements(body: str, placed: Mapping[str, Placement]) -> Iterator[str]:
    distributed = "|".join(table for table, where in placed.items() if where is Placement.distributed)
    read = re.compile(rf"\b(FROM|JOIN|UPDATE|DELETE FROM) platform\.({distributed})\b")
    for statement in body.split(";"):
        if "nextval(" in statement:
            yield "a sequence of its own on each node: call next_number()"
        if re.match(r"\s*(\w+\s+)*?UPDATE platform\.", statement) and "clock_timestamp()" in statement:
            yield "a volatile function in an UPDATE"
        found = read.search(statement)
        if found is not None and "owner_id" not in statement[found.start() :]:
            yield f"no owner in: {' '.join(statement.split())[:80]}"


def _of_kind(catalogue: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    return [(name, text) for name, text in catalogue.items() if name.startswith(f"{kind} ")]
