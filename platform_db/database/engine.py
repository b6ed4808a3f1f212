"""Engines with the configured pool and timeouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from platform_db.database import driver_errors, forking, liveness
from platform_db.database.url import SECRET_OPTIONS, normalise_url
from platform_db.settings import get_settings

if TYPE_CHECKING:
    from platform_db.settings.variables import Settings


def create_engine(url: URL | str, settings: Settings | None = None, **options: Any) -> Engine:
    """Return an engine with the configured pool and timeouts, whose errors are platform-db's.

    Statement parameters are never logged, nor shown in errors: they may hold secrets.

    What the URL itself says of the connection counts, and the timeouts are added to its ``options``.

    :param options: overrides for :func:`sqlalchemy.create_engine`. ``options`` in ``connect_args`` takes the
        place of the timeouts.
    """
    settings = settings or get_settings()
    url = normalise_url(url) if isinstance(url, str) else url
    # As arguments instead of in the URL, for an engine's representation shows that.
    secrets = {name: values[-1] for name, values in url.normalized_query.items() if name in SECRET_OPTIONS}
    url = url.difference_update_query(secrets)
    connect_args: dict[str, Any] = {
        name: value
        for name, value in (
            ("application_name", settings.application_name),
            ("connect_timeout", settings.connect_timeout),
        )
        if name not in url.query
    }
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    set_timeouts = " ".join(f"-c {name}={value}" for name, value in timeouts.items() if value)
    if settings.connection_options and set_timeouts:
        connect_args["options"] = set_timeouts
    pool = {
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.pool_recycle,
    }
    if "poolclass" in options:
        pool = {}
    connect_args |= {**secrets, **options.pop("connect_args", {})}
    if "options" in connect_args and (own := url.normalized_query.get("options")):
        connect_args["options"] = " ".join([*own, connect_args["options"]]).strip()
    engine = sa.create_engine(
        url,
        **{**pool, "connect_args": connect_args, "hide_parameters": True, **options},
    )
    event.listen(engine, "handle_error", driver_errors.hide_values)
    forking.watch(engine)
    if settings.pool_pre_ping:
        liveness.check_before_use(engine)
    return engine
