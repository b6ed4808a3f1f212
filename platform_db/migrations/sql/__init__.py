"""Plain SQL that revisions run, one folder per revision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from alembic import op


def run_scripts(revision: str) -> None:
    """Run the revision's scripts in the order of their names, one statement at a time."""
    for statement in read_statements(revision):
        op.execute(statement.replace(":", r"\:"))


def drop_created(revision: str) -> None:
    """Drop the tables, functions and types that the revision's scripts create.

    A table takes its triggers with it and the functions that read it; what the tables need goes after them.
    """
    created = [
        match.groups()
        for statement in read_statements(revision)
        if (match := re.match(r"CREATE (TABLE|FUNCTION|TYPE) ([a-z_.]+)", statement))
    ]
    for kind in ("TABLE", "FUNCTION", "TYPE"):
        for _, name in (found for found in reversed(created) if found[0] == kind):
            op.execute(f"DROP {kind} IF EXISTS {name}{' CASCADE' if kind == 'TABLE' else ''}")


def read_statements(revision: str) -> Iterator[str]:
    """Yield the statements of the revision's scripts: each ends with a semicolon and an empty line."""
    scripts = (path for path in files(__name__).joinpath(revision).iterdir() if path.name.endswith(".sql"))
    for script in sorted(scripts, key=lambda path: path.name):
        for statement in script.read_text(encoding="utf-8").split(";\n\n"):
            yield statement.strip().removesuffix(";")
