"""Reaching the database: one lazy engine per process, sessions, and retries.

Nothing here connects before it is asked to. A forked child makes an engine of its own: connections must not
be shared between processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.engine import URL, Engine

from platform_db import driver_errors, errors, forking, liveness
from platform_db.config import get_settings

if TYPE_CHECKING:
    from platform_db.settings import Settings

T = TypeVar("T")

DRIVER = "postgresql+psycopg2"

# SQLSTATEs after which the same transaction, tried again, may succeed: serialization_failure and
# deadlock_detected (https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
RETRYABLE = frozenset({"40001", "40P01"})

# What libpq takes as an option of the URL and nobody should see (``passfile`` and ``sslkey`` are paths).
SECRET_OPTIONS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")


def normalise_url(uri: str) -> URL:
    """Return ``uri`` as a URL of the psycopg2 driver.

    :raises errors.InvalidSetting: it is no PostgreSQL URL. The message holds no part of it.
    """
    try:
        url = sa.make_url(uri)
    except (sa.exc.ArgumentError, ValueError):
        raise errors.InvalidSetting(
            "the database URI is not a URL such as postgresql://user@host/name"
        ) from None
    backend = url.drivername.partition("+")[0]
    if backend not in ("postgresql", "postgres"):
        raise errors.InvalidSetting(
            f"the database URI starts with {backend}:, not with postgresql: or embedded:"
        )
    if "@" in (url.host or ""):
        # Read on, the rest of the password would be taken for the server's name, and shown as such.
        raise errors.InvalidSetting("the database URI has an @ in its password: write it as %40")
    if password := url.normalized_query.get("password"):
        # As an option it would be shown with the URL.
        url = url.set(password=password[-1]).difference_update_query(["password"])
    return url.set(drivername=DRIVER)


def hide_secrets(url: URL) -> str:
    """Return the URL as text that may be shown."""
    hidden = {name: "..." for name in SECRET_OPTIONS if name in url.query}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def database_url(settings: Settings | None = None) -> URL:
    """Return the URL of the configured database; an embedded one is started by this.

    :raises errors.NotConfigured: no URI and no host is set.
    """
    settings = settings or get_settings()
    if settings.uri is not None:
        return _resolve(settings.uri.get_secret_value())
    if settings.host is None:
        raise errors.NotConfigured
    return URL.create(
        DRIVER,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        host=settings.host,
        port=settings.port,
        database=settings.name,
    )


def migration_url(settings: Settings | None = None) -> URL:
    """Return the URL to migrate by: a direct one, where the other goes through a pooler."""
    settings = settings or get_settings()
    if settings.migration_uri is not None:
        return _resolve(settings.migration_uri.get_secret_value())
    return database_url(settings)


def _resolve(uri: str) -> URL:
    from platform_db import embedded

    directory = embedded.parse_uri(uri)
    return normalise_url(uri if directory is None else embedded.ensure_running(directory))


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


_engine: Engine | None = None
_lock = threading.RLock()


def get_engine() -> Engine:
    """Return this process's engine, made at the first call from the settings."""
    global _engine
    if _engine is None:
        with _lock:
            if _engine is None:
                engine = create_engine(database_url())
                if is_embedded():
                    _migrate_on_first_use(engine)
                _engine = engine  # Only now: no thread may meet a database without its schema.
    return _engine


def is_embedded(settings: Settings | None = None) -> bool:
    """Tell whether the configured database is an embedded one."""
    from platform_db import embedded

    settings = settings or get_settings()
    return settings.uri is not None and embedded.parse_uri(settings.uri.get_secret_value()) is not None


def _migrate_on_first_use(engine: Engine) -> None:
    """Create the schema of an embedded database that is new; one that exists is the operator's to upgrade."""
    from platform_db import schema

    with engine.connect() as connection:
        if schema.status(connection).state is not schema.SchemaState.never_migrated:
            return
    schema.init_db(engine)


def reset_engine() -> None:
    """Close this process's engine, so that the next :func:`get_engine` makes a new one."""
    global _engine
    Session.remove()
    if _engine is not None:
        _engine.dispose()
    _engine = None


class _Session(orm.Session):
    """A session on this process's engine."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | sa.Connection:
        return self.bind if self.bind is not None else get_engine()


session_factory = orm.sessionmaker(class_=_Session)

Session = orm.scoped_session(session_factory)
"""The session of this thread, on this process's engine."""


def _start_anew_in_child() -> None:
    """Let a forked child make an engine and sessions of its own.

    Its copies of the parent's connections lead nowhere by now (:mod:`platform_db.forking`), so that what is
    left of the parent's sessions can go without a trace.
    """
    global _engine, _lock
    _lock = threading.RLock()  # A thread that is not here any more may have held it.
    Session.registry.clear()
    if _engine is not None:
        _engine.dispose(close=False)
    _engine = None


os.register_at_fork(after_in_child=_start_anew_in_child)


@contextmanager
def session_scope() -> Iterator[orm.Session]:
    """Give a new session; commit at the end, roll back on an error, close in any case."""
    with session_factory() as session, session.begin():
        yield session


def run_transaction(
    work: Callable[[orm.Session], T],
    *,
    factory: Callable[[], orm.Session] = session_factory,
    attempts: int = 5,
) -> T:
    """Run ``work`` in a transaction of its own and return what it returns.

    A serialization failure or a deadlock runs it again, in a new session, after a short random wait. So
    ``work`` must not change anything outside the database that a second run would change twice.

    :param attempts: how often to try in all.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        reraise=True,
    )

    def attempt() -> T:
        with factory() as session, session.begin():
            return work(session)

    return retrying(attempt)


def is_retryable(error: BaseException) -> bool:
    """Tell whether a transaction that ended with ``error`` may succeed when it is run again."""
    return isinstance(error, sa.exc.DBAPIError) and getattr(error.orig, "pgcode", None) in RETRYABLE
