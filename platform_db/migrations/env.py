"""Alembic's environment: how migrations reach the database, and that only one process migrates at a time.

The order matters. First the lock, polled for on the very connection that migrates: a wait inside
``pg_advisory_lock`` hangs ``CREATE INDEX CONCURRENTLY``, and ``lock_timeout`` would end the wait. Then
``configure``, on a connection with no transaction open: with one, all revisions would run in one big
transaction.
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


def print_sql() -> None:
    """Write the statements out instead of running them (``--sql``)."""
    # The driver's own style of parameters would double every % in the functions.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        on_version_apply=store_what_is_served,
        **COMPARE,
    )
    for statement in (schema.set_timeouts(local=False), CREATE_SCHEMA):
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
    """Run the migrations on a connection of their own."""
    # Without the services' timeouts; what the URL's own options say stays.
    with schema.connect(database_url(), options="") as connection, schema.migrating(connection):
        database.require_utf8(connection)
        connection.execute(sa.text(CREATE_SCHEMA))
        connection.commit()
        schema.refuse_newer(connection)
        connection.commit()
        schema.retry_while_blocked(connection, lambda: run_revisions(connection))


def run_revisions(connection: sa.Connection) -> None:
    """Run, take back or stamp what Alembic was asked for and is not done yet."""
    context.configure(connection=connection, on_version_apply=store_and_report, **COMPARE)
    with context.begin_transaction():
        context.run_migrations()


def database_url() -> Any:
    """Return the database that the caller named, or else the configured one, reached directly."""
    return context.config.attributes.get("url") or database.migration_url()


def store_what_is_served(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
    """Store, with the revision, which code it serves: an older release knows nothing of a newer revision."""
    for revision in step.destination_revision_ids:
        ctx.impl.execute(sa.text(schema.serves_comment(revision)))


def store_and_report(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
    """Store what is served, and tell the caller about the step."""
    store_what_is_served(ctx, step, heads, run_args)
    report_step(step)


def report_step(step: MigrationInfo) -> None:
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
