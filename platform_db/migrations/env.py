"""Alembic's environment: how migrations reach the database, and that only one process migrates at a time.

The order matters. First the lock, polled for on the very connection that migrates: a wait inside
``pg_advisory_lock`` hangs ``CREATE INDEX CONCURRENTLY``, and ``lock_timeout`` would end the wait. Then
``configure``, on a connection with no transaction open: with one, all revisions would run in one big
transaction. Then the timeouts.
"""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationInfo
from alembic.script import Script

from platform_db import database, schema
from platform_db.identifiers import SCHEMA
from platform_db.models import Base
from platform_db.settings import get_settings

COMPARE: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_name": lambda name, type_, parents: type_ != "schema" or name == SCHEMA,
    "transaction_per_migration": True,
}

# IF NOT EXISTS would ask for the right to create one even where the schema exists.
CREATE_SCHEMA = (
    f"DO $$ BEGIN IF to_regnamespace('{SCHEMA}') IS NULL THEN CREATE SCHEMA {SCHEMA}; END IF; END $$"
)

# A revision runs to its end, however long it takes: an index that is stopped half-way has to begin again.
UNLIMITED = "'statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout'"


def print_sql() -> None:
    """Write the statements out instead of running them (``--sql``)."""
    # The driver's own style of parameters would double every % in the functions.
    context.configure(
        dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, literal_binds=True, **COMPARE
    )
    for statement in (*set_timeouts(), CREATE_SCHEMA):
        context.get_context().impl.static_output(f"{statement};")
    with context.begin_transaction():
        context.run_migrations()


def look() -> None:
    """Compare or show what is stored, without waiting for anybody and without creating anything."""
    with schema.connect(database_url()) as connection:
        schema.refuse_newer(connection)
        connection.commit()
        context.configure(connection=connection, dont_mutate=True, **COMPARE)
        with context.begin_transaction():
            context.run_migrations()


def migrate() -> None:
    """Run the migrations on a connection of their own; where there are none to run, only look."""
    # Without the services' timeouts; what the URL's own options say stays.
    with schema.connect(database_url(), options="") as connection:
        if schema.status(connection).revision == context.get_revision_argument():
            return
        connection.commit()
        schema.lock_for_migration(connection, get_settings().migration_wait)
        database.require_utf8(connection)
        connection.execute(sa.text(CREATE_SCHEMA))
        connection.commit()
        schema.refuse_newer(connection)
        connection.commit()
        context.configure(connection=connection, on_version_apply=report_step, **COMPARE)
        for statement in set_timeouts():
            connection.execute(sa.text(statement))
        connection.commit()
        with context.begin_transaction():
            context.run_migrations()


def set_timeouts() -> list[str]:
    """Return the statements that give migrations their own timeouts, whatever the role or database has."""
    # What the client itself asked for stays, and a server may not know all of them.
    others = f"name IN ({UNLIMITED}) AND source <> 'client'"
    return [
        f"SET lock_timeout = {get_settings().migration_lock_timeout}",
        f"SELECT set_config(name, '0', false) FROM pg_settings WHERE {others}",
    ]


def database_url() -> Any:
    """Return the database that the caller named, or else the configured one, reached directly."""
    return context.config.attributes.get("url") or database.migration_url()


def report_step(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
    """Tell the caller, in one line, about a revision that was run, taken back or stamped."""
    report = context.config.attributes.get("report") or (lambda line: None)
    if step.is_stamp:
        report(f"stamped {', '.join(step.destination_revision_ids) or 'base'}")
    elif step.up_revision is not None:
        done = "ran" if step.is_upgrade else "took back"
        report(f"{done} {step.up_revision.revision}: {cast(Script, step.up_revision).doc}")


if context.is_offline_mode():
    print_sql()
elif context.config.attributes.get("read_only"):
    look()
else:
    migrate()
