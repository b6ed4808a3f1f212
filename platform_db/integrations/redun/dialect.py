"""How platform-db is found by its address, in a process of redun's that was not told of it.

redun asks SQLAlchemy for an engine when it loads a backend, and SQLAlchemy looks for the address's scheme
among the entry points of all installed packages. So the backend that asks becomes platform-db's own while it
loads: the address is all the configuration that a sub-scheduler needs in another process or container.
"""

from __future__ import annotations

from typing import Any

from redun.backends import db
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL

from platform_db.integrations.redun import dispatch
from platform_db.integrations.redun.address import is_ours


class PlatformDialect(PGDialect_psycopg2):
    """Makes an engine that nothing connects by: the backend has its own a moment later."""

    supports_statement_cache = True

    @classmethod
    def get_dialect_cls(cls, url: URL) -> type[PlatformDialect]:
        """Have redun make platform-db's backends from here on, and adopt the one that is being loaded."""
        dispatch.install()
        _adopt_by_session()
        return cls


def _adopt_by_session() -> None:
    """Let a backend that redun has made itself become platform-db's as soon as it makes its first session."""
    if hasattr(db.RedunSession, "adopts"):
        return
    init = db.RedunSession.__init__

    def make(session: Any, backend: Any, *args: Any, **options: Any) -> None:
        if type(backend) is db.RedunBackendDb and is_ours(backend.db_uri):
            from platform_db.integrations.redun.backend import PlatformBackend

            PlatformBackend.adopt(backend)
        init(session, backend, *args, **options)

    db.RedunSession.__init__ = make
    db.RedunSession.adopts = True
