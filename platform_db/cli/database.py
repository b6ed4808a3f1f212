"""How the commands reach the database: only one whose schema is the code's.

An older release would write what the newer schema does not expect, and a newer one what the older schema
cannot take. So every command that needs the tables looks first, and changes nothing where they do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from platform_db.database.session import SessionFactory

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.orm import Session

SERVICE = "platform-db"
"""What the audit log calls the command line."""


def session_factory(url: URL | None = None) -> SessionFactory:
    """Return what makes sessions on a database, by default the configured one, whose schema is current."""
    from sqlalchemy import orm

    from platform_db import audit, database, schema, sessions

    if url is None or database.is_embedded():
        engine = sessions.get_engine()  # This is what gives an embedded one a schema at the first use.
    if url is not None:
        engine = database.create_engine(url)
    with engine.connect() as connection:
        schema.status(connection).require_usable()
    bind = None if url is None else engine  # The configured one is looked up again, as in a forked child.
    return orm.sessionmaker(bind, class_=sessions.session_factory.class_, info={audit.SERVICE: SERVICE})


@contextmanager
def session_scope(url: URL | None = None) -> Iterator[Session]:
    """Give a session for what is done once; commit at the end, roll back on an error.

    Its connection is the only one, and is closed at the end.
    """
    from sqlalchemy import orm
    from sqlalchemy.pool import NullPool

    from platform_db import audit, database, schema, sessions

    if url is None or database.is_embedded():
        sessions.get_engine()  # This is what gives an embedded one a schema at the first use.
    engine = database.create_engine(url or database.database_url(), poolclass=NullPool)
    make = orm.sessionmaker(engine, class_=sessions.session_factory.class_, info={audit.SERVICE: SERVICE})
    with make() as session, session.begin():
        schema.status(session.connection()).require_usable()
        yield session
