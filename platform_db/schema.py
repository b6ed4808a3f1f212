"""The schema's life: bringing a database to the newest revision, and telling which one it is at."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import URL, Connection, Engine

from platform_db import database, errors
from platform_db.models import Resource
from platform_db.types import SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

# Any number will do, as long as every release takes the same one.
MIGRATION_LOCK = 0x706C6174666F726D  # "platform" in ASCII

LOCK_POLL_SECONDS = 0.1


class SchemaState(str, enum.Enum):
    """How a database's schema stands to the code's."""

    current = "current"
    behind = "behind"
    ahead = "ahead"
    never_migrated = "never migrated"


@dataclass(frozen=True)
class SchemaStatus:
    """A schema's state, its revision and the code's newest one."""

    state: SchemaState
    revision: str | None
    head: str

    def require_current(self) -> None:
        """Raise the error that says why the schema cannot be used, unless it is current."""
        if self.state is SchemaState.never_migrated:
            raise errors.NeverMigrated
        if self.state is SchemaState.behind:
            raise errors.SchemaBehind(
                f"the database is at revision {self.revision}, the code needs {self.head}"
            )
        if self.state is SchemaState.ahead:
            raise errors.SchemaAhead(
                f"the database is at revision {self.revision}, which this release does not know; "
                f"it ends at {self.head}"
            )


def init_db(engine: Engine | None = None) -> None:
    """Bring the database to the newest revision and create the default resources.

    Running it again, or from several processes at once, is fine.

    :param engine: the database; by default the configured one.
    """
    upgrade(engine.url if engine else None)
    with orm.Session(engine or database.get_engine()) as session, session.begin():
        Resource.initialise_default_resources(session)


def upgrade(url: URL | str | None = None, revision: str = "head") -> None:
    """Run the migrations up to ``revision``.

    :param url: the database; by default the configured one, reached directly.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    :raises errors.AlreadyRunning: another process migrates for longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    """
    from alembic import command

    command.upgrade(alembic_config(url), revision)


def downgrade(url: URL | str | None = None, revision: str = "-1") -> None:
    """Take migrations back, down to ``revision``, or by so many steps.

    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    command.downgrade(alembic_config(url), revision)


def alembic_config(url: URL | str | None = None, **options: Any) -> Config:
    """Return Alembic's configuration for this package's migrations.

    :param url: the database; by default the configured one, looked up when it is needed.
    :param options: further arguments of :class:`alembic.config.Config`.
    """
    from alembic.config import Config

    config = Config(**options)
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def status(connection: Connection) -> SchemaStatus:
    """Tell which revision the database is at, and how that stands to the code."""
    script = _script()
    head = script.get_current_head() or ""
    revision = _stored_revision(connection)
    if revision is None:
        return SchemaStatus(SchemaState.never_migrated, None, head)
    if revision == head:
        return SchemaStatus(SchemaState.current, revision, head)
    known = {known.revision for known in script.walk_revisions()}
    return SchemaStatus(SchemaState.behind if revision in known else SchemaState.ahead, revision, head)


def refuse_newer(connection: Connection) -> None:
    """Raise :class:`errors.SchemaAhead` where the database is at a revision that the code does not know."""
    found = status(connection)
    if found.state is SchemaState.ahead:
        found.require_current()


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


def _script() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config())


def _stored_revision(connection: Connection) -> str | None:
    table = f"{SCHEMA}.alembic_version"
    if connection.scalar(sa.select(sa.func.to_regclass(table))) is None:
        return None
    revision: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {table}"))
    return revision
