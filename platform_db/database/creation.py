"""Making a database that can hold the schema, and refusing one that cannot."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.database.driver_errors import own_connection_errors
from platform_db.database.url import migration_url, normalise_url

ENCODING = "UTF8"

# Another process was quicker; the second is what the catalogue's index says.
_CREATED_MEANWHILE = (sqlstates.DUPLICATE_DATABASE, sqlstates.UNIQUE_VIOLATION)


def create_database(url: URL | str | None = None) -> bool:
    """Create the database on its server, in UTF-8, and tell whether it was missing.

    :param url: the database; by default the configured one, reached as migrations reach it.
    :raises errors.Unreachable: the server cannot be reached, or refuses the login.
    """
    import sqlalchemy_utils

    url = normalise_url(url) if isinstance(url, str) else url or migration_url()
    with own_connection_errors():
        if sqlalchemy_utils.database_exists(url):
            return False
        try:
            # From template0: the encoding of template1 is what the server was made with.
            sqlalchemy_utils.create_database(url, encoding=ENCODING, template="template0")
        except sa.exc.DBAPIError as error:
            if sqlstates.sqlstate_of(error) not in _CREATED_MEANWHILE:
                raise
            return False
    return True


def require_utf8(connection: Connection) -> None:
    """Refuse a database that cannot hold every text.

    :raises errors.Refused: its encoding is not UTF-8.
    """
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != ENCODING:
        raise errors.Refused(
            f"the database's encoding is {encoding}, which cannot hold every text",
            hint="an encoding cannot be changed: name another database, and make it with: "
            "platform-db db create",
        )
