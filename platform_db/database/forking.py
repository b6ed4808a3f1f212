"""Cutting a forked child off from its parent's connections.

A child inherits the sockets. When an object is discarded there, it sends a ROLLBACK or closes the session,
and the server takes this for the parent's message: the parent's transaction ends unnoticed. So the child's
copies are redirected to the null device before any other code can run in it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

_connections: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(engine: sa.Engine) -> None:
    """Cut children off from the connections that this engine makes."""
    event.listen(engine, "connect", lambda connection, record: _connections.add(connection))


def connections() -> list[Any]:
    """Return the driver's connections of this process that are open."""
    return [connection for connection in _connections if not connection.closed]


def _cut_off() -> None:
    inherited = connections()
    _connections.clear()
    if not inherited:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for connection in inherited:
        os.dup2(nowhere, connection.fileno(), inheritable=False)
    os.close(nowhere)


os.register_at_fork(after_in_child=_cut_off)
