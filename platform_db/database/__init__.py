"""Reaching a database: URLs, engines, the pool, and the driver's errors."""

from platform_db.database.engine import create_engine
from platform_db.database.url import (
    database_url,
    hide_secrets,
    is_embedded,
    migration_url,
    normalise_url,
)

__all__ = ["create_engine", "database_url", "hide_secrets", "is_embedded", "migration_url", "normalise_url"]
