"""URLs of databases: the configured one, and what of one may be shown."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL

from platform_db import embedded, errors
from platform_db.errors import SECRET_OPTIONS
from platform_db.settings import get_settings

if TYPE_CHECKING:
    from platform_db.settings.variables import Settings

logger = logging.getLogger(__name__)

DRIVER = "postgresql+psycopg2"

_ESCAPED = (
    "in a user or a password write % as %25, @ as %40, / as %2F, : as %3A, # as %23, ? as %3F, "
    "or give it unescaped as PLATFORM_DB_PASSWORD, with PLATFORM_DB_HOST in place of the URI"
)
_USERINFO = re.compile(r"[\w+]+://([^@]*)@")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def normalise_url(uri: str) -> URL:
    """Return ``uri`` as a URL of the psycopg2 driver.

    :raises errors.InvalidSetting: it is no PostgreSQL URL. The message holds no part of it.
    """
    try:
        url = sa.make_url(uri)
    except (sa.exc.ArgumentError, ValueError):
        raise errors.InvalidSetting(
            "the database URI is not a URL such as postgresql://user@host/name", hint=_ESCAPED
        ) from None
    backend = url.drivername.partition("+")[0]
    if backend not in ("postgresql", "postgres"):
        raise errors.InvalidSetting(
            f"the database URI starts with {backend}:, not with postgresql: or embedded:"
        )
    if "@" in f"{url.host}{url.database}":
        # Read on, the rest of the password would be taken for the server's name, and shown as such.
        raise errors.InvalidSetting("the database URI has more than one @", hint=_ESCAPED)
    userinfo = _USERINFO.match(uri)
    if userinfo and (_LONE_PERCENT.search(userinfo[1]) or "\ufffd" in f"{url.username}{url.password}"):
        raise errors.InvalidSetting(
            "the database URI has a % in its user or password that begins no character's code", hint=_ESCAPED
        )
    if password := url.normalized_query.get("password"):
        # As an option it would be shown with the URL.
        url = url.set(password=password[-1]).difference_update_query(["password"])
    url = url.set(drivername=DRIVER)
    try:
        url.get_dialect()().create_connect_args(url)
    except sa.exc.ArgumentError:
        raise errors.InvalidSetting(
            "the database URI has a host or a port among its options that cannot be used"
        ) from None
    return url


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
        return resolve_url(settings.uri.get_secret_value())
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
        return resolve_url(settings.migration_uri.get_secret_value())
    return database_url(settings)


def resolve_url(uri: str) -> URL:
    """Return the URL of a database, an embedded one too, which is started by this.

    :raises errors.InvalidSetting: it is no such URL. The message holds no part of it.
    """
    directory = embedded.parse_uri(uri)
    if directory is None:
        return normalise_url(uri)
    if not embedded.exists(directory):
        # At the first use; but where there was one, its data are gone, and the user has to know.
        logger.warning("there is no database in %s: a new one is made", directory)
    return normalise_url(embedded.ensure_running(directory))


def is_embedded(settings: Settings | None = None) -> bool:
    """Tell whether the configured database is an embedded one."""
    return embedded_directory(settings) is not None


def embedded_directory(settings: Settings | None = None) -> Path | None:
    """Return the directory of the configured database; None where it is no embedded one."""
    settings = settings or get_settings()
    return None if settings.uri is None else embedded.parse_uri(settings.uri.get_secret_value())
