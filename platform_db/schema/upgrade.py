"""Bringing a database to another revision."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import URL, Connection, Engine

from platform_db import database, errors
from platform_db.schema.revision_names import require_revision
from platform_db.schema.status import SchemaState, status

if TYPE_CHECKING:
    from alembic.config import Config

# Any number will do, as long as every release takes the same one.
MIGRATION_LOCK = 0x706C6174666F726D  # "platform" in ASCII

LOCK_POLL_SECONDS = 0.1

Report = Callable[[str], None]
"""Is told in one line about each step, such as ``print``."""


def init_db(engine: Engine | None = None, report: Report | None = None) -> None:
    """Bring the database to the newest revision and create the default resources.

    Running it again, or from several processes at once, is fine. On a database that is current it only reads.

    :param engine: the database; by default the configured one.
    :param report: is told of each revision and each resource that was missing.
    """
    from platform_db.models.resource import DEFAULT_RESOURCES, Resource

    # The configured database may have another way in for migrations.
    upgrade(None if engine is None or database.is_configured(engine) else engine, report=report)
    with orm.Session(engine or database.create_engine(database.database_url())) as session, session.begin():
        # A read-only server, or a login that only reads, has nothing to do where all of them exist.
        existing = set(session.scalars(sa.select(Resource.name)))
        missing = {name for name, *_ in DEFAULT_RESOURCES} - existing
        created = Resource.initialise_default_resources(session) if missing else []
    if report is not None:
        for name in created:
            report(f"created the resource {name}")


def upgrade_new(engine: Engine) -> None:
    """Create the schema of an embedded database that is new; one that exists is the operator's to upgrade."""
    with engine.connect() as connection:
        if status(connection).state is not SchemaState.never_migrated:
            return
    init_db(engine)


def upgrade(
    url: URL | str | Engine | None = None, revision: str = "head", report: Report | None = None
) -> None:
    """Run the migrations up to ``revision``.

    :param url: the database, or an engine on it; by default the configured one, reached directly.
    :param report: is told of each revision.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    :raises errors.AlreadyRunning: another process migrates for longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    """
    from alembic import command

    command.upgrade(alembic_config(url, report=report), require_revision(revision))


def downgrade(url: URL | str | None = None, revision: str = "-1", report: Report | None = None) -> None:
    """Take migrations back, down to ``revision``, or by so many steps.

    :param report: is told of each revision.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    command.downgrade(alembic_config(url, report=report), require_revision(revision))


def alembic_config(
    url: URL | str | Engine | None = None,
    *,
    read_only: bool = False,
    report: Report | None = None,
    **options: Any,
) -> Config:
    """Return Alembic's configuration for this package's migrations.

    :param url: the database, or an engine on it; by default the configured one, looked up when it is needed.
    :param read_only: for commands that only look: they wait for no migration and create nothing.
    :param report: is told of each revision that is run, taken back or stamped.
    :param options: further arguments of :class:`alembic.config.Config`.
    """
    from alembic.config import Config

    config = Config(**options)
    config.set_main_option(
        "script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    config.attributes.update(url=url, read_only=read_only, report=report)
    return config


def lock_for_migration(connection: Connection, wait_seconds: float) -> None:
    """Take the migrations' lock for as long as the connection lives, and leave no transaction open.

    :raises errors.AlreadyRunning: another process has held it for ``wait_seconds``.
    """
    give_up_at = time.monotonic() + wait_seconds
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(MIGRATION_LOCK))):
        connection.rollback()
        if time.monotonic() >= give_up_at:
            raise errors.AlreadyRunning(f"another process has been migrating for {wait_seconds:g} s")
        time.sleep(LOCK_POLL_SECONDS)
    connection.commit()
