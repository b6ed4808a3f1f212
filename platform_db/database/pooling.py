"""What a pooler between this process and the server changes: connection options are refused, or get lost.

A pooler in transaction mode gives each transaction another connection of the server. So what connection
options say, timeouts above all, is said by each transaction, with SET LOCAL, where there is such a pooler.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL

from platform_db import errors

# PgBouncer: "unsupported startup parameter: options", since 1.20 also "… in options: …". Amazon's RDS Proxy:
# "currently doesn't support command-line options".
_REFUSED = re.compile(r"unsupported startup parameter|command-line options")

ASK_AGAIN = 60.0  # seconds after which a connection tells again whether a pooler stands before its server

# Whether one does, and when that was found.
_pooled: dict[URL, tuple[bool, float]] = {}

# What each transaction of an engine begins with, by its dialect, which its variants with other options share.
_settings: weakref.WeakKeyDictionary[sa.Dialect, str] = weakref.WeakKeyDictionary()


def settings_of(engine: sa.Engine) -> str:
    """Return the statements that begin each transaction of an engine, which its first connection tells."""
    return _settings.get(engine.dialect, "")


def is_pooled(connection: Any) -> bool:
    """Tell whether there is a pooler before the server, of a connection of the driver outside a transaction.

    A pooler gives its clients numbers of processes that it makes up: what works by them goes through it.
    """
    before, connection.autocommit = connection.autocommit, True
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return bool(cursor.fetchone()[0] != connection.info.backend_pid)
    finally:
        connection.autocommit = before


def carry_options(engine: sa.Engine, *, send: bool) -> None:
    """Send an engine's connection options, or let each transaction set them where a pooler is in between.

    :param send: try whether there is a pooler; otherwise nothing is sent.
    """
    dialect: Any = engine.dialect
    begin = dialect.do_begin

    def connect(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        given = options.get("options", "").strip()
        if not given:
            return None
        connection = None
        pooled = _known(engine.url) if send else True
        if not pooled:
            try:
                connection = dialect.connect(*arguments, **options)
                if pooled is None:
                    pooled = _note(engine.url, is_pooled(connection))
            except dialect.loaded_dbapi.OperationalError as error:
                if not _REFUSED.search(str(error)):
                    raise
                pooled = _note(engine.url, True)
            if not pooled:
                return connection
        _settings[dialect] = "".join(_set_local(given))
        options.pop("options", None)
        return connection or dialect.connect(*arguments, **options)

    def do_begin(connection: Any) -> None:
        begin(connection)
        if (statements := settings_of(engine)) and not connection.autocommit:
            with closing(connection.cursor()) as cursor:
                cursor.execute(statements)

    event.listen(engine, "do_connect", connect)
    dialect.do_begin = do_begin


def _known(url: URL) -> bool | None:
    """Tell whether a pooler stands before a server; None where it is to be asked."""
    pooled, found_at = _pooled.get(url, (None, 0.0))
    return None if not pooled and time.monotonic() - found_at > ASK_AGAIN else pooled


def _note(url: URL, pooled: bool) -> bool:
    _pooled[url] = pooled, time.monotonic()
    return pooled


def _set_local(options: str) -> Iterator[str]:
    """Yield the statements that say for a transaction what the options say for a connection.

    :raises errors.InvalidSetting: one of them is no setting.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)]
    text = " ".join(words)
    for option in filter(None, re.split(r"(?:^|\s+)(?:-c\s*|--)", text)):
        name, given, value = option.partition("=")
        name = name.replace("-", "_")
        if not given or not re.fullmatch(r"[\w.]+", name):
            raise errors.InvalidSetting(
                "the database URI has options beyond -c NAME=VALUE, which cannot be set behind a pooler"
            )
        values = map(_identifier, value.split(",")) if name.lower() in _OF_IDENTIFIERS else [value]
        quoted = ("'{}'".format(one.replace("'", "''")) for one in values)
        yield f"SET LOCAL {name} = {', '.join(quoted)};"


def _identifier(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()


# SET takes each identifier as a text of its own, in which case counts; all other values are one text.
_OF_IDENTIFIERS = frozenset({"search_path", "temp_tablespaces"})
