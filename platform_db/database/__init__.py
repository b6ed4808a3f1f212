"""Reaching a database: URLs, engines, the pool, and the driver's errors."""

from platform_db.database.creation import create_database, require_utf8
from platform_db.database.engine import create_engine, is_configured
from platform_db.database.interruption import interruptible
from platform_db.database.url import (
    database_url,
    embedded_directory,
    hide_secrets,
    is_embedded,
    migration_url,
    normalise_url,
    resolve_url,
)

__all__ = [
    "create_database",
    "create_engine",
    "database_url",
    "embedded_directory",
    "hide_secrets",
    "interruptible",
    "is_configured",
    "is_embedded",
    "migration_url",
    "normalise_url",
    "require_utf8",
    "resolve_url",
]
