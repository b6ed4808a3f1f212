"""How the commands reach the database: only one whose schema is the code's.

An older release would write what the newer schema does not expect, and a newer one what the older schema
cannot take. So every command that needs the tables looks first, and changes nothing where they do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.orm import Session


def session_factory(url: URL | None = None) -> Callable[[], Session]:
    """Return what makes sessions, once the schema was found to be current.

    :param url: the database; by default the configured one.
    :raises errors.NeverMigrated: it has no schema yet.
    :raises errors.SchemaBehind: it is older than the code.
    :raises errors.SchemaAhead: it is newer than the code.
    """
    from sqlalchemy import orm

    from platform_db import database, schema

    if url is None:
        engine = database.get_engine()
    else:
        if database.is_embedded():
            database.get_engine()  # This is what gives it a schema at the first use.
        engine = database.create_engine(url)
    with engine.connect() as connection:
        schema.status(connection).require_current()
    return database.session_factory if url is None else orm.sessionmaker(engine)


@contextmanager
def session_scope() -> Iterator[Session]:
    """Give a session on a current schema; commit at the end, roll back on an error."""
    with session_factory()() as session, session.begin():
        yield session
