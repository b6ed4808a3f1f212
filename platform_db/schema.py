"""The schema's life: bringing a database to the newest revision, and telling which one it is at.

The models and Alembic's commands are imported where they are needed: whoever only asks for the revision, as a
health check does every few seconds, does not pay for them.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from platform_db import database, driver_errors, errors
from platform_db.config import get_settings
from platform_db.types import SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config

# Any number will do, as long as every release takes the same one.
MIGRATION_LOCK = 0x706C6174666F726D  # "platform" in ASCII

LOCK_POLL_SECONDS = 0.1

READY_POLL_SECONDS = 0.5

Report = Callable[[str], None]
"""Is told in one line about each step, such as ``print``."""


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


def init_db(engine: Engine | None = None, report: Report | None = None) -> None:
    """Bring the database to the newest revision and create the default resources.

    Running it again, or from several processes at once, is fine.

    :param engine: the database; by default the configured one.
    :param report: is told of each revision and each resource that was missing.
    """
    from platform_db.models import Resource

    upgrade(engine.url if engine else None, report=report)
    with orm.Session(engine or database.get_engine()) as session, session.begin():
        created = Resource.initialise_default_resources(session)
    for name in created if report else ():
        report(f"created the resource {name}")  # type: ignore[misc]


def upgrade(url: URL | str | None = None, revision: str = "head", report: Report | None = None) -> None:
    """Run the migrations up to ``revision``.

    :param url: the database; by default the configured one, reached directly.
    :param report: is told of each revision.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    :raises errors.AlreadyRunning: another process migrates for longer than ``PLATFORM_DB_MIGRATION_WAIT``.
    """
    from alembic import command

    command.upgrade(alembic_config(url, report=report), revision)


def downgrade(url: URL | str | None = None, revision: str = "-1", report: Report | None = None) -> None:
    """Take migrations back, down to ``revision``, or by so many steps.

    :param report: is told of each revision.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    command.downgrade(alembic_config(url, report=report), revision)


def adopt(url: URL | str | None = None, report: Report | None = None) -> None:
    """Mark a schema that has all that today's has, but no revision, as being at the newest revision.

    Looked at are the tables by name, and the functions, triggers and policies.

    :raises errors.NeverMigrated: there are no tables to mark.
    :raises errors.Refused: something is missing, or is another.
    :raises errors.SchemaBehind: the schema has a revision already, an older one.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    from platform_db import catalogue
    from platform_db.models import Base

    with connect(url or database.migration_url()) as connection:
        found = status(connection)
        if found.state is not SchemaState.never_migrated:
            found.require_current()
            return
        existing = set(sa.inspect(connection).get_table_names(schema=SCHEMA))
        other = catalogue.differences(connection)
    missing = sorted({table.name for table in Base.metadata.sorted_tables} - existing)
    if len(missing) == len(Base.metadata.tables):
        raise errors.NeverMigrated(f"there is nothing to mark: the schema {SCHEMA} has none of its tables")
    if missing:
        raise errors.Refused(
            f"the schema {SCHEMA} is not at revision {found.head}: it lacks {', '.join(missing)}"
        )
    if other:
        raise errors.Refused(f"the schema {SCHEMA} is not at revision {found.head}: {'; '.join(other)}")
    command.stamp(alembic_config(url, report=report), "head")


def require_agreement(url: URL | str | None = None) -> None:
    """Raise an error unless the database is current and has what the models have.

    Alembic compares tables, columns and indexes, but not CHECK bodies; :mod:`platform_db.catalogue` compares
    functions, triggers and policies.

    :raises errors.SchemaDiffers: names what differs.
    """
    from alembic import command, util

    from platform_db import catalogue

    with connect(url or database.migration_url()) as connection:
        status(connection).require_current()
        found = catalogue.differences(connection)
    try:
        with StringIO() as ignored:
            command.check(alembic_config(url, read_only=True, stdout=ignored))
    except util.AutogenerateDiffsDetected as error:
        found = [*map(_describe_difference, error.diffs), *found]
    if found:
        raise errors.SchemaDiffers(f"the models and the database differ: {'; '.join(found)}")


def next_revision() -> str:
    """Return the identifier of the revision that follows the newest one: ``0002`` after ``0001``."""
    return f"{int(revisions()[-1]) + 1:04d}"


def revisions() -> list[str]:
    """Return the identifiers of all revisions, the oldest first.

    They are what the files' names begin with, so that no other module is imported to tell the schema's state.
    """
    folder = files("platform_db.migrations.versions")
    return sorted(name[:4] for name in (path.name for path in folder.iterdir()) if name[:4].isdigit())


def alembic_config(
    url: URL | str | None = None,
    *,
    read_only: bool = False,
    report: Report | None = None,
    **options: Any,
) -> Config:
    """Return Alembic's configuration for this package's migrations.

    :param url: the database; by default the configured one, looked up when it is needed.
    :param read_only: for commands that only look: they wait for no migration and create nothing.
    :param report: is told of each revision that is run, taken back or stamped.
    :param options: further arguments of :class:`alembic.config.Config`.
    """
    from alembic.config import Config

    config = Config(**options)
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(url=url, read_only=read_only, report=report)
    return config


@contextmanager
def connect(url: URL | str | None = None, **connect_args: Any) -> Iterator[Connection]:
    """Give a connection of its own, outside any pool.

    :param url: the database; by default the configured one.
    :raises errors.Unreachable: says why.
    """
    engine = database.create_engine(
        url or database.database_url(), poolclass=NullPool, connect_args=connect_args
    )
    with driver_errors.own_connection_errors(), engine.connect() as connection:
        yield connection


def wait_until_ready(url: URL | str | None = None, *, timeout: float, migrated: bool = False) -> SchemaStatus:
    """Wait for the database, and return how its schema stands to the code's.

    An embedded one without a schema gets it, where that is waited for.

    :param timeout: seconds after which to give up.
    :param migrated: wait until the schema is current, too.
    :raises errors.Unreachable: it could not be reached for so long.
    :raises errors.NeverMigrated: nobody migrated it for so long.
    :raises errors.SchemaBehind: nobody migrated it for so long.
    :raises errors.SchemaAhead: at once, since waiting does not help.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    give_up_at = time.monotonic() + timeout
    longest = get_settings().connect_timeout

    def attempt() -> SchemaStatus:
        if migrated and url is None and database.is_embedded():
            database.get_engine()  # Nobody else is there to migrate it.
        remaining = math.ceil(give_up_at - time.monotonic())
        with connect(url, connect_timeout=max(1, min(longest, remaining))) as connection:
            found = status(connection)
        if migrated:
            found.require_current()
        return found

    retrying = Retrying(
        retry=retry_if_exception_type((errors.Unreachable, errors.NeverMigrated, errors.SchemaBehind)),
        stop=stop_after_delay(timeout),
        wait=wait_fixed(READY_POLL_SECONDS),
        reraise=True,
    )
    return retrying(attempt)


def status(connection: Connection) -> SchemaStatus:
    """Tell which revision the database is at, and how that stands to the code."""
    known = revisions()
    head = known[-1]
    revision = _stored_revision(connection)
    if revision is None:
        return SchemaStatus(SchemaState.never_migrated, None, head)
    if revision == head:
        return SchemaStatus(SchemaState.current, revision, head)
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


def _describe_difference(difference: Any) -> str:
    """Return one of Alembic's differences as ``add_column workflow.name``."""
    if isinstance(difference, list):
        return ", ".join(map(_describe_difference, difference))
    operation, *facts = difference
    if operation.startswith("modify_"):
        return f"{operation} {facts[1]}.{facts[2]}"
    if operation in ("add_column", "remove_column"):
        return f"{operation} {facts[1]}.{facts[2].name}"
    return f"{operation} {facts[0].name}"


def _stored_revision(connection: Connection) -> str | None:
    table = f"{SCHEMA}.alembic_version"
    if connection.scalar(sa.select(sa.func.to_regclass(table))) is None:
        return None
    revision: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {table}"))
    return revision
