"""Which class redun makes of a database's address: ours for ours, and its own for any other.

redun makes its backends itself, by the name of its class, in its schedulers, its command line and the
processes of its sub-schedulers. So that class is asked to make an instance of the right one.
"""

from __future__ import annotations

from typing import Any

from redun.backends.db import RedunBackendDb

from platform_db.integrations.redun.address import is_ours


def install() -> None:
    """Let redun make platform-db's backend for platform-db's addresses, in this process."""
    RedunBackendDb.__new__ = staticmethod(_make)


def _make(cls: type[Any], db_uri: str | None = None, config: Any = None, *_: Any, **__: Any) -> Any:
    if cls is RedunBackendDb and is_ours(db_uri or (config or {}).get("db_uri")):
        from platform_db.integrations.redun.backend import PlatformBackend

        cls = PlatformBackend
    return object.__new__(cls)
