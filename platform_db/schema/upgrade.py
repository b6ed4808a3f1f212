"""Bringing a database to another revision."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import URL, Engine

from platform_db import database
from platform_db.schema.pending import absolute, pending_scripts
from platform_db.schema.revision_names import require_revision
from platform_db.schema.status import FOLDERS, SchemaState, connect, status

if TYPE_CHECKING:
    from alembic.config import Config

Report = Callable[[str], None]
"""Is told in one line about each step, such as ``print``."""


def init_db(engine: Engine | None = None, report: Report | None = None, *, phase: str | None = None) -> None:
    """Bring the database to the newest revision and create the default resources.

    Running it again, or from several processes at once, is fine. On a database that is current it only reads.

    :param engine: the database; by default the configured one.
    :param report: is told of each revision and each resource that was missing.
    :param phase: run only the revisions of this one, as :func:`upgrade` does.
    """
    from platform_db.models.resource import DEFAULT_RESOURCES, Resource

    # The configured database may have another way in for migrations.
    upgrade(None if engine is None or database.is_configured(engine) else engine, report=report, phase=phase)
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
    url: URL | str | Engine | None = None,
    revision: str = "head",
    report: Report | None = None,
    *,
    phase: str | None = None,
    tag: str | None = None,
) -> None:
    """Run the migrations up to ``revision``; where there is none to run, look over one connection, unlocked.

    :param url: the database, or an engine on it; by default the configured one, reached directly.
    :param report: is told of each revision.
    :param phase: only ``pre`` revisions, after which the release before still runs, or only ``post`` ones.
    :param tag: a word for the migrations' environment.
    :raises errors.Refused: a revision of the other phase comes first.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    :raises errors.NotDirect: there is something to do, and a pooler stands between; nothing is changed.
    :raises errors.AlreadyRunning: another process migrates for longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    :raises errors.MigrationBlocked: sessions hold a table for longer than that. What ran before stays.
    """
    from alembic import command

    require_revision(revision)
    with connect(url or database.migration_url(), options="") as connection:
        found = status(connection)
    config = alembic_config(url, report=report)
    scripts = pending_scripts(found, config, revision, phase)
    if scripts:
        command.upgrade(config, scripts[-1].revision, tag=tag)


def downgrade(
    url: URL | str | Engine | None = None,
    revision: str = "-1",
    report: Report | None = None,
    *,
    tag: str | None = None,
) -> None:
    """Take migrations back, down to ``revision``, or by so many steps.

    :param report: is told of each revision.
    :param tag: a word for the migrations' environment.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    require_revision(revision)
    with connect(url or database.migration_url(), options="") as connection:
        found = status(connection)
    command.downgrade(alembic_config(url, report=report), absolute(found, revision), tag=tag)


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
    config.set_main_option("version_locations", os.pathsep.join(map(str, FOLDERS)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(url=url, read_only=read_only, report=report)
    return config
