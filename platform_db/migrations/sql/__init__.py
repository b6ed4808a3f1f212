"""Frozen SQL that revisions run: ``NNNN.up.sql`` and ``NNNN.down.sql``. Released ones never change."""

from __future__ import annotations

from importlib.resources import files

from alembic import op

from platform_db.schema.scripts import read_statements


def run_script(name: str) -> None:
    """Run the script of this name, one statement at a time."""
    for statement in read_statements(files(__name__) / f"{name}.sql"):
        op.execute(statement.replace(":", r"\:"))
