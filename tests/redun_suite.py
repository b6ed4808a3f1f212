"""redun's own tests on platform-db: a plugin for pytest that replaces each backend on SQLite.

Each SQLite file, and each database in memory, becomes a tenant of the one database that
``PLATFORM_DB_URI`` names. The file then holds who that is. Processes that a test starts do the same, where
``sitecustomize`` on their ``PYTHONPATH`` imports this module.
"""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platform_db.errors import PlatformDBError

MEMORY = ":memory:"

VARIABLE = "REDUN_SUITE_BACKEND"
BACKENDS = ("stock", "beside", "ours")
"""redun's own; redun's own in a process that has platform-db's backend, too; platform-db's."""


def pytest_configure(config: Any) -> None:
    """Import all before any test, since some have Python forget what they imported."""
    if _backend == "ours":
        _backend_class()


def pytest_runtest_teardown(item: Any) -> None:
    """Give connections back: there is a tenant for each backend of each test."""
    if _backend == "ours":
        from sqlalchemy.orm import close_all_sessions

        from platform_db.provenance import recorder

        close_all_sessions()
        for each in list(recorder._recorders.values()):
            with suppress(PlatformDBError):  # What cannot be stored was a test's subject.
                each.close()
        recorder._recorders.clear()


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "redun.backends.db":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_replace(module: Any) -> None:
            load(module)
            _prepare()

        spec.loader.exec_module = load_and_replace
        return spec


def _prepare() -> None:
    if _backend == "beside":
        from sqlalchemy.engine import make_url

        make_url("platformdb://configured").get_dialect()
    else:
        _replace()


def _replace() -> None:
    from redun.backends.db import RedunBackendDb

    def make(cls: Any, db_uri: str | None = None, config: Any = None, *_: Any, **__: Any) -> Any:
        uri = db_uri or (config or {}).get("db_uri") or "sqlite:///.redun/redun.db"
        if cls is RedunBackendDb and uri.startswith("sqlite:"):
            cls = _backend_class()
        return object.__new__(cls)

    RedunBackendDb.__new__ = staticmethod(make)


def _backend_class() -> Any:
    from sqlalchemy.orm import Session

    from platform_db import sessions, users
    from platform_db.integrations.redun import address
    from platform_db.integrations.redun.backend import PlatformBackend

    class Replacement(PlatformBackend):
        def _begin(self, config: Any) -> None:
            uri, self.db_uri = self.db_uri, f"{address.CONFIGURED}?owner=later"
            super()._begin(config)
            self.db_uri = uri

        def create_engine(self) -> Any:
            if not self._has_engine:
                self.address = address.parse(f"{address.CONFIGURED}?owner={self._tenant()}", {})
            return super().create_engine()

        def _tenant(self) -> str:
            name = f"{uuid.uuid4()}@example.org"
            path = self.db_uri.removeprefix("sqlite:///")
            if path != MEMORY:
                file = Path(path)
                if file.exists() and (kept := file.read_text()):
                    return kept
                file.write_text(name)
            with Session(sessions.get_engine()) as session:
                users.create_user(session, name)
                session.commit()
            return name

    global _backend_class
    _backend_class = lambda: Replacement  # noqa: E731
    return Replacement


_backend = os.environ.get(VARIABLE, "ours")
if _backend == "stock":
    pass
elif "redun.backends.db" in sys.modules:
    _prepare()
else:
    sys.meta_path.insert(0, _Finder())
