"""Engines with the configured pool and timeouts, and with what the package relies on pinned."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from platform_db.database import driver_errors, forking, liveness, pooling, silence
from platform_db.database.pool import MeasuredPool
from platform_db.database.url import database_url, is_embedded, normalise_url
from platform_db.errors import SECRET_OPTIONS
from platform_db.settings import get_settings
from platform_db.settings.pools import POOLS

if TYPE_CHECKING:
    from platform_db.settings.variables import Settings

# Sent in the startup packet, where it wins over PGCLIENTENCODING and what the role or the database has.
ENCODING = {"client_encoding": "UTF8"}

# The driver writes it into BEGIN, so it costs no statement. The triggers and the guarded statements are made
# for it: under REPEATABLE READ, as a role or a database may have it, concurrent writers fail.
ISOLATION = "READ COMMITTED"

# How each engine was made: from its URL, with the secrets that the engine does not show, and these arguments.
_origins: weakref.WeakKeyDictionary[Engine, tuple[URL, dict[str, Any]]] = weakref.WeakKeyDictionary()


def create_engine(database: URL | str | Engine, settings: Settings | None = None, **options: Any) -> Engine:
    """Return an engine with the configured pool and timeouts, whose errors are platform-db's.

    Statement parameters are never logged, nor shown in errors: they may hold secrets.

    What the URL itself says of the connection counts, and the timeouts are added to its ``options``. Where a
    pooler refuses or drops these, each transaction begins with them. The client's encoding is UTF-8, and
    transactions are READ COMMITTED, whatever the role or the database has.

    :param database: where to connect, or an engine whose connections are to be made the same way.
    :param options: overrides for :func:`sqlalchemy.create_engine`. ``options`` in ``connect_args`` takes the
        place of the timeouts.
    """
    settings = settings or get_settings()
    url, origin = _origin(database)
    options = {
        **origin,
        **options,
        "connect_args": {**origin["connect_args"], **options.get("connect_args", {})},
    }
    # As arguments instead of in the URL, for an engine's representation shows that.
    secrets = {name: values[-1] for name, values in url.normalized_query.items() if name in SECRET_OPTIONS}
    shown = url.difference_update_query(secrets)
    connect_args = {
        **{name: value for name, value in _configured(settings).items() if name not in shown.query},
        **_timeouts(settings),
        **ENCODING,
        **secrets,
        **options["connect_args"],
    }
    if "options" in connect_args and (own := shown.normalized_query.get("options")):
        connect_args["options"] = " ".join([*own, connect_args["options"]]).strip()
    defaults = {**_pool(settings, options), "hide_parameters": True, "isolation_level": ISOLATION}
    engine = sa.create_engine(shown, **{**defaults, **options, "connect_args": connect_args})
    _origins[engine] = url, {name: options[name] for name in options.keys() & {"connect_args", "creator"}}
    event.listen(engine, "handle_error", driver_errors.hide_values)
    forking.watch(engine)
    # Before the next one: of the listeners, the first that makes the connection is the last to be asked.
    silence.watch(engine, settings.network_timeout, settings.connect_timeout)
    pooling.carry_options(engine, send=settings.connection_options)
    if settings.pool_pre_ping:
        liveness.check_before_use(engine)
    return engine


def is_configured(engine: Engine) -> bool:
    """Tell whether an engine was made from the URL of the configured server."""
    settings = get_settings()
    if is_embedded(settings) or (settings.uri is None and settings.host is None):
        return False  # Looking at an embedded database would start it.
    return _origin(engine)[0] == database_url(settings)


def identity_of(engine: Engine) -> Hashable:
    """Return what two engines have in common that connect to the same server in the same way."""
    url, arguments = _origin(engine)
    return url if arguments == {"connect_args": {}} else engine


def _origin(database: URL | str | Engine) -> tuple[URL, dict[str, Any]]:
    if not isinstance(database, Engine):
        return normalise_url(database) if isinstance(database, str) else database, {"connect_args": {}}
    if database in _origins:
        return _origins[database]
    return database.url, {"connect_args": {}, "creator": functools.partial(_connection_of, database)}


def _connection_of(engine: Engine) -> Any:
    """Make a connection as another engine does, with all its options, and keep it."""
    connection = engine.raw_connection()
    connection.detach()
    return connection.dbapi_connection


def _configured(settings: Settings) -> dict[str, Any]:
    """Return the driver's options, which the URL may override."""
    connection = {"application_name": settings.application_name, "connect_timeout": settings.connect_timeout}
    if seconds := settings.network_timeout:
        # Unacknowledged data ends the connection; the kernel probes an idle one.
        connection |= {
            "tcp_user_timeout": seconds * 1000,
            "keepalives_idle": max(1, seconds // 2),
            "keepalives_interval": max(1, seconds // 6),
            "keepalives_count": 3,
        }
    return connection


def _pool(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """Return the pool's arguments: the size and overflow of the preset, or those that are given.

    A preset that keeps no connection keeps one where only an overflow is given.
    """
    if "poolclass" in options:
        return {}
    preset = POOLS[settings.pool]
    size = options.get("pool_size") or settings.pool_size or preset.size
    overflow = options.get("max_overflow", settings.max_overflow)
    if not size and overflow is None:
        return {"poolclass": NullPool}
    return {
        "poolclass": MeasuredPool,
        "pool_size": size or 1,
        "max_overflow": preset.overflow if overflow is None else overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.pool_recycle,
    }


def _timeouts(settings: Settings) -> dict[str, str]:
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    options = " ".join(f"-c {name}={value}" for name, value in timeouts.items() if value)
    return {"options": options} if options else {}
