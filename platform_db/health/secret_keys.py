"""Whether every secret key that is needed is there: a few look-ups by index, and no model is imported.

So it can be asked as often as a health check. How much each key encrypts is told by
:func:`platform_db.tokens.report_keys`.
"""

from __future__ import annotations

import sqlalchemy as sa

from platform_db import crypto, errors
from platform_db.database.distribution import execute_everywhere

SECRETS = {"interactive_session": "secret", "user_token": "token"}
"""The column of secrets, by table; the models say the same (:mod:`platform_db.tokens.keys`)."""


def require_secret_keys(connection: sa.Connection) -> None:
    """Raise an error where secrets are stored that the configured keys cannot read.

    Where no key is configured, nothing that needs one is done there, and none is asked for.

    :raises errors.SecretKeyError: names the ids of the missing keys.
    """
    if not crypto.configured_keys():
        return
    if missing := missing_keys(connection):
        raise errors.SecretKeyMissing(
            f"stored secrets need the secret key with id {', '.join(missing)}, which is not configured"
        )


def missing_keys(connection: sa.Connection) -> list[str]:
    """Return the ids of the keys that stored secrets need and that are not configured here."""
    configured = {key.id_.hex() for key in crypto.configured_keys()}
    queries = (sa.text(_used(table, column)) for table, column in SECRETS.items())
    used = {row[0] for query in queries for row in execute_everywhere(connection, query)}
    return sorted(used - configured)


def _used(table: str, column: str) -> str:
    """Return the query for the ids of the keys: one look-up for each, however many rows it encrypts."""
    key_id = f"substring({column} FROM 2 FOR {crypto.KEY_ID_BYTES})"
    return f"""
        WITH RECURSIVE used (key_id) AS (
            SELECT CAST('' AS bytea)
            UNION ALL
            SELECT (
                SELECT {key_id} FROM platform.{table} WHERE {key_id} > used.key_id ORDER BY {key_id} LIMIT 1
            ) FROM used WHERE used.key_id IS NOT NULL
        )
        SELECT encode(key_id, 'hex') AS key_id FROM used WHERE key_id <> ''
    """
