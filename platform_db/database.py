"""Reaching the database: one lazy engine per process, sessions, and retries.

Nothing here connects before it is asked to. A forked child makes an engine of its own: connections must not
be shared between processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.engine import URL, Engine
from sqlalchemy.engine.interfaces import ExceptionContext

from platform_db import errors, liveness
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

# What a violated constraint means, for those that a caller is expected to meet.
CONSTRAINT_ERRORS: dict[str, Callable[[], errors.PlatformDBError]] = {
    "uq_user_token_active_access": lambda: errors.TokenError("the user has already an active access token"),
    "uq_user_token_requested_access": lambda: errors.TokenError(
        "the user has already requested an access token"
    ),
    "uq_user_token_personal_name": lambda: errors.TokenError(
        "the user has already an active personal token of this name"
    ),
    "uq_user_token_token_digest": lambda: errors.TokenError("this value is in use already"),
    "uq_user__email": errors.UserExists,
    "uq_user__idp_issuer_idp_subject": errors.UserExists,
    "uq_interactive_session_secret_digest": lambda: errors.TokenError("this value is in use already"),
}


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
    event.listen(engine, "handle_error", raise_own_error)
    if settings.pool_pre_ping:
        liveness.check_before_use(engine)
    return engine


def raise_own_error(context: ExceptionContext) -> None:
    """Turn what the database refuses for platform-db's own reasons into platform-db's own errors."""
    original = context.original_exception
    diagnostics = getattr(original, "diag", None)
    if diagnostics is None:
        return
    _strip_values(context)
    if diagnostics.sqlstate == "PD001":
        entity_id, stored_status, status = diagnostics.message_detail.split(" ")
        raise errors.InvalidTransition(diagnostics.table_name, entity_id, stored_status, status)
    if diagnostics.constraint_name in CONSTRAINT_ERRORS:
        raise CONSTRAINT_ERRORS[diagnostics.constraint_name]()


def _strip_values(context: ExceptionContext) -> None:
    """Leave the server's message without what follows it: the row's and the statement's values."""
    original, wrapper = context.original_exception, context.sqlalchemy_exception
    message = original.diag.message_primary  # type: ignore[attr-defined]
    if message is None:  # the client's own, of a connection that failed
        return
    original.args = (message,)
    if wrapper is not None:
        kind = type(original)
        wrapper.args = (f"({kind.__module__}.{kind.__name__}) {message}",)


@contextmanager
def own_connection_errors() -> Iterator[None]:
    """Turn a failure to connect, or a connection that was lost, into an error that says why.

    :raises errors.Unreachable: mostly.
    :raises errors.InvalidSetting: the URL has an option that the driver does not know.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        own = as_connection_error(error)
        if own is None:
            raise
        raise own from None


def as_connection_error(error: sa.exc.DBAPIError) -> errors.PlatformDBError | None:
    """Return the error that says why there is no connection, or None when ``error`` has another reason.

    Servers, databases and logins are named, but nothing of it comes from the password.
    """
    if str(error.orig).startswith(("invalid dsn", "invalid connection option")):
        return errors.InvalidSetting("the database URI has an option that the driver does not know")
    sqlstate = getattr(error.orig, "pgcode", None)
    if not isinstance(error, sa.exc.OperationalError) or (
        # Without a SQLSTATE the driver itself gave up; class 08 is a connection exception, 57P a shutdown.
        sqlstate is not None and not sqlstate.startswith(("08", "57P"))
    ):
        return None
    # With several addresses each has its line; the last one is what the driver ended with.
    lines = [line for line in str(error.orig).splitlines() if line and not line.startswith("\t")]
    text = lines[-1] if lines else "no reason was given"
    server = _SERVER.search(text)
    where = f"the server at {':'.join(filter(None, server.groups()))}" if server else "the server"
    for pattern, meaning in _CONNECTION_FAILURES:
        if found := re.search(pattern, text):
            return errors.Unreachable(meaning.format(*found.groups(), where=where))
    reason = text.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
    return errors.Unreachable(f"{where} cannot be used: {reason}")


_SERVER = re.compile(r'connection to server (?:at|on socket) "([^"]+)"(?: \([^)]*\))?(?:, port (\d+))?')

_CONNECTION_FAILURES = (
    (r'could not translate host name "([^"]*)"', 'the host name "{0}" cannot be resolved'),
    (r'password authentication failed for user "([^"]*)"', '{where} refuses the password of "{0}"'),
    (r"no password supplied", "{where} asks for a password, and none is configured"),
    (r'database "([^"]*)" does not exist', '{where} has no database "{0}"'),
    (r'role "([^"]*)" does not exist', '{where} has no login "{0}"'),
    (r"[Cc]onnection refused|No such file or directory", "{where} is not running: nothing listens there"),
    (r"timeout expired|timed out", "{where} did not answer in time"),
    (
        r"(?:closed the connection|terminating connection|connection already closed)",
        "{where} ended the connection",
    ),
)

_engine: Engine | None = None
_engine_pid: int | None = None


def get_engine() -> Engine:
    """Return this process's engine, made at the first call from the settings."""
    global _engine, _engine_pid
    if _engine is None or _engine_pid != os.getpid():
        if _engine is not None:
            # The parent's connections are the parent's: forget them without closing them.
            _engine.dispose(close=False)
        _engine, _engine_pid = create_engine(database_url()), os.getpid()
        if is_embedded():
            _migrate_on_first_use(_engine)
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
    global _engine, _engine_pid
    Session.remove()
    if _engine is not None:
        _engine.dispose(close=_engine_pid == os.getpid())
    _engine = _engine_pid = None


class _Session(orm.Session):
    """A session on this process's engine."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | sa.Connection:
        return self.bind if self.bind is not None else get_engine()


session_factory = orm.sessionmaker(class_=_Session)

Session = orm.scoped_session(session_factory)
"""The session of this thread, on this process's engine."""


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
