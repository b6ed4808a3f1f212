"""Waiting for a database, and for its schema."""

from __future__ import annotations

import math
import time

from sqlalchemy.engine import URL

from platform_db import database, errors
from platform_db.bounds import require_seconds
from platform_db.schema.status import SchemaStatus, connect, status
from platform_db.schema.upgrade import upgrade_new
from platform_db.settings import get_settings

READY_POLL_SECONDS = 0.5


def wait_until_ready(url: URL | str | None = None, *, timeout: float, migrated: bool = False) -> SchemaStatus:
    """Wait for the database, and return the status of its schema.

    An embedded one without a schema gets it, where that is waited for.

    :param timeout: seconds after which to give up.
    :param migrated: wait until the schema is current, too.
    :raises errors.Unreachable: it could not be reached within that time.
    :raises errors.NeverMigrated: it was not migrated within that time.
    :raises errors.SchemaBehind: it was not migrated within that time.
    :raises errors.SchemaAhead: at once, since waiting does not help.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    give_up_at = time.monotonic() + require_seconds(timeout, "timeout")
    longest = get_settings().connect_timeout

    def attempt() -> SchemaStatus:
        if migrated and url is None and database.is_embedded():
            upgrade_new(database.create_engine(database.database_url()))
        remaining = math.ceil(give_up_at - time.monotonic())
        with connect(url, connect_timeout=max(1, min(longest, remaining))) as connection:
            found = status(connection)
        if migrated:
            found.require_usable()
        return found

    retrying = Retrying(
        retry=retry_if_exception_type((errors.Unreachable, errors.NeverMigrated, errors.SchemaBehind)),
        stop=stop_after_delay(timeout),
        wait=wait_fixed(READY_POLL_SECONDS),
        reraise=True,
    )
    return retrying(attempt)
