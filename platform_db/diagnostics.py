"""The log of a process: one JSON object a line, with the request and the tenant that a line is about.

A service sets :data:`request_id` at the beginning of a request, and may set :data:`tenant`; a tenant's
session sets that for its transactions. Both belong to the thread or the asynchronous task.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TextIO

from platform_db.errors import hide_secrets_in
from platform_db.settings import get_settings

request_id: ContextVar[str | None] = ContextVar("platform_db_request_id", default=None)
"""The request that this thread or task works on."""

tenant: ContextVar[str | None] = ContextVar("platform_db_tenant", default=None)
"""The id of the user whose rows this thread or task works on."""

TEXT_FORMAT = "%(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object, in one line.

    What it has: ``time`` in ISO 8601 (UTC), ``level``, ``logger``, ``message``, and where there are any
    ``request_id``, ``tenant`` and ``exception`` (the traceback). Other attributes of a record are left out:
    they could hold anything. Values of tokens and passwords in URLs are hidden.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide_secrets_in(record.getMessage()),
            "request_id": request_id.get(),
            "tenant": tenant.get(),
            "exception": hide_secrets_in(self.formatException(record.exc_info)) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None})


def configure_logging(level: int = logging.WARNING, stream: TextIO | None = None) -> None:
    """Let the log of this process go to a stream, in the configured format (``PLATFORM_DB_LOG_FORMAT``).

    Where the root logger has a handler already, nothing changes.

    :param level: the least level that is written.
    :param stream: by default standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    is_json = get_settings().log_format == "json"
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def logs_json() -> bool:
    """Tell whether the log of this process is JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)
