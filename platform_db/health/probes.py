"""The answers to an orchestrator's probes: ``/healthz``, the process is alive, and ``/readyz``, it can serve.

A service mounts :data:`asgi` or :data:`wsgi`, or gives :meth:`Probes.answer` the path of a request. Whatever
stands before the last part of a path is the mount's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from platform_db import database, errors, schema
from platform_db.database.driver_errors import reason_of
from platform_db.health.in_time import ask_in_time, create_impatient_engine
from platform_db.schema.status import needed

logger = logging.getLogger(__name__)

READY_SECONDS = 2
KEEP_SECONDS = 1.0

Answer = tuple[HTTPStatus, dict[str, str]]


class Probes:
    """Answers probes.

    :param url: the database; by default the configured one.
    :param timeout: seconds within which the database has to answer, with all that takes.
    """

    def __init__(self, url: URL | str | None = None, *, timeout: int = READY_SECONDS) -> None:
        self._url, self._timeout = url, timeout
        self._lock = threading.Lock()
        self._kept: tuple[float, Answer] | None = None
        self._engine: tuple[object, Engine] | None = None

    def answer(self, path: str) -> Answer:
        """Return the status and what to say, as JSON, to a request for this path.

        ``/healthz`` asks nothing but the process. ``/readyz`` is 200 where the database can be reached and
        this code runs on its schema, as also during an upgrade by phases; otherwise it is 503.
        Probes that come within a second of each other share one look.
        """
        name = _name(path)
        if name == "healthz":
            return HTTPStatus.OK, {"status": "alive"}
        if name != "readyz":
            return HTTPStatus.NOT_FOUND, {"status": "unknown"}
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] >= KEEP_SECONDS:
                found = self._look()
                self._kept = time.monotonic(), found
            return self._kept[1]

    def _look(self) -> Answer:
        try:
            found = ask_in_time(self._own_engine(), self._timeout, schema.status)
        except (errors.PlatformDBError, SQLAlchemyError) as error:
            # To the log alone: the reason names servers and logins.
            logger.warning("not ready: %s", reason_of(error))
            code = error.code if isinstance(error, errors.PlatformDBError) else "error"
            return HTTPStatus.SERVICE_UNAVAILABLE, {"status": code}
        status = HTTPStatus.OK if found.usable else HTTPStatus.SERVICE_UNAVAILABLE
        says = {"status": "ready" if found.usable else "not ready", "schema": found.state.value}
        return status, {**says, "revision": found.revision or "none", "needs": needed()}

    def _own_engine(self) -> Engine:
        """Return an engine of one connection, beside the service's pool, in which it might have to wait.

        It is made again in a forked child, and where another database is configured, as tests do.
        """
        url = self._url or database.database_url()
        made_for, engine = self._engine or (None, None)
        if engine is None or made_for != (os.getpid(), url):
            engine = create_impatient_engine(url, self._timeout)
            self._engine = (os.getpid(), url), engine
        return engine

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        status, says = self.answer(environ.get("PATH_INFO", ""))
        body = _body(says)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body if environ.get("REQUEST_METHOD") != "HEAD" else b""]

    async def asgi(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer as an ASGI application; the database is waited for in a thread."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        # Whether the process is alive is no question to its threads, which may all wait for the database.
        waits = _name(path) == "readyz"
        status, says = await asyncio.to_thread(self.answer, path) if waits else self.answer(path)
        body = _body(says)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _body(says: dict[str, str]) -> bytes:
    return json.dumps(says).encode() + b"\n"


probes = Probes()
"""Those of the configured database."""

asgi, wsgi = probes.asgi, probes.wsgi
