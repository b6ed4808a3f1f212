"""What to do about an object that a database lacks, or has otherwise than the release."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from platform_db.schema.compare import CATALOGUE
from platform_db.schema.objects import (
    AFTER_TABLES,
    BEFORE_TABLES,
    TENANT_POLICY,
    policy_statement,
    tenant_columns,
)

_RESTORE = "restore the backup again, and heed the errors of pg_restore"


def mend(difference: str) -> str:
    """Return what puts a difference right that :func:`platform_db.schema.compare.differences` has found.

    It is SQL for the tables' owner in one line, where one statement does it.
    """
    found, kind, name = difference.split(" ", 2)
    object_, _, table = name.partition(" on ")
    if found == "unknown":
        return "drop it, or rename it: a release may come to use its name"
    expected: str = json.loads(files(__package__).joinpath(CATALOGUE).read_text(encoding="utf-8"))[
        f"{kind} {name}"
    ]
    statement = " ".join(expected.split())
    on = f"ON platform.{table}"
    match kind:
        case "trigger" if found == "missing":
            return statement
        case "trigger":
            return f"DROP TRIGGER {object_} {on}; {statement}"
        case "index" if found == "missing":
            return statement
        case "index":
            return f"DROP INDEX platform.{object_}; {statement}"
        case "constraint" if found == "missing":
            return f"ALTER TABLE platform.{table} ADD CONSTRAINT {object_} {statement}"
        case "policy" if object_ == TENANT_POLICY:
            drop = "" if found == "missing" else f"DROP POLICY {object_} {on}; "
            return drop + " ".join(policy_statement(table, tenant_columns()[table]).split())
        case "table" if found == "altered" and "policies" in expected:
            return f"ALTER TABLE platform.{name} ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
        case "function" if file := _file_of(object_.partition("(")[0]):
            return f"run the statement that creates it, in platform_db/schema/sql/{file}.sql"
    return _RESTORE


def _file_of(function: str) -> str | None:
    """Return which file of SQL creates a function; it is not shown in one line, for it has comments."""
    creates = re.compile(rf"FUNCTION platform\.{re.escape(function)}\(")
    folder = files(__package__) / "sql"
    for name in (*BEFORE_TABLES, *AFTER_TABLES):
        if creates.search((folder / f"{name}.sql").read_text(encoding="utf-8")):
            return name
    return None
