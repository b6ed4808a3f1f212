"""Serving the metrics of the database over HTTP, with the probes of the server itself."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from sqlalchemy.engine import URL

from platform_db import database
from platform_db.health.in_time import create_impatient_engine
from platform_db.health.probes import READY_SECONDS, Probes
from platform_db.metrics.database import DatabaseMetrics

logger = logging.getLogger(__name__)

# A client that sends nothing holds a thread no longer.
CLIENT_SECONDS = 10

# Each has a thread; another one waits a second for one to end.
MOST_CLIENTS = 64


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = MOST_CLIENTS
    free = threading.BoundedSemaphore(MOST_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(timeout=1):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # There is no thread that would.
            self.free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the traceback of a client that goes away, or sends nothing, out of standard error."""
        logger.debug("a request broke off", exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Leave requests out of the log: scrapes and probes are many, and alike."""


def serve(
    address: str,
    port: int,
    url: URL | str | None = None,
    *,
    tenants: int = 0,
    report: Callable[[str], None] = logger.info,
) -> None:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` until an exception, such as a signal's, ends it.

    :param port: 0 takes a free one.
    :param url: the database; by default the configured one.
    :param tenants: as in :class:`~platform_db.metrics.database.DatabaseMetrics`.
    :param report: is told where it listens.
    :raises OSError: the address cannot be listened on.
    """
    engine = create_impatient_engine(url or database.database_url(), READY_SECONDS)
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics(engine, tenants=tenants))
    metrics, probes = make_wsgi_app(registry), Probes(url)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_scrape = environ["PATH_INFO"] == "/metrics"
        return (metrics if is_scrape else probes.wsgi)(environ, start_response)

    try:
        is_v6 = ":" in address
        kind = _ServerV6 if is_v6 else _Server
        with make_server(address, port, answer, server_class=kind, handler_class=_Handler) as server:
            host = f"[{address}]" if is_v6 else address
            report(f"metrics are served at http://{host}:{server.server_port}/metrics")
            server.serve_forever()
    finally:
        engine.dispose()
