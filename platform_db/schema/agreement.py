"""Whether a database has what the models and the files of SQL say."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import database, errors
from platform_db.schema import compare
from platform_db.schema.status import SchemaState, connect, status
from platform_db.schema.upgrade import Report, alembic_config


def adopt(url: URL | str | None = None, report: Report | None = None) -> None:
    """Mark a schema that has all that today's has, but no revision, as being at the newest revision.

    :raises errors.NeverMigrated: there are no tables to mark.
    :raises errors.Refused: something is missing or differs.
    :raises errors.SchemaBehind: the schema has a revision already, an older one.
    :raises errors.SchemaAhead: the database is newer than the code; nothing is changed.
    """
    from alembic import command

    with connect(url or database.migration_url()) as connection:
        found = status(connection)
        if found.state is not SchemaState.never_migrated:
            found.require_current()
            return
        if not connection.scalar(_HAS_TABLES):
            raise errors.NeverMigrated("there is nothing to mark: the schema platform has no tables")
        differences = compare.differences(connection)
    if differences:
        raise errors.Refused(f"the schema platform is not at revision {found.head}: {'; '.join(differences)}")
    command.stamp(alembic_config(url, report=report), "head")


def require_agreement(url: URL | str | None = None) -> None:
    """Raise an error unless the database is current and has what the models and the files of SQL say.

    :raises errors.SchemaDiffers: names what differs.
    """
    with connect(url or database.migration_url()) as connection:
        status(connection).require_current()
        differences = compare.differences(connection)
    if differences:
        raise errors.SchemaDiffers(f"the models and the database differ: {'; '.join(differences)}")


_HAS_TABLES = sa.text("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'platform')")
