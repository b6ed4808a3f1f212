"""The fixtures of every test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_db import embedded
from platform_db.testing import pooler
from tests import named_owners
from tests.behind_pooler import reason_to_skip

pytest_plugins = ["platform_db.testing.plugin"]


def pytest_configure() -> None:
    named_owners.watch()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(3600))
        if os.environ.get(pooler.VARIABLE) and (reason := reason_to_skip(item.nodeid)):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def every_statement_names_the_owner() -> Iterator[None]:
    """Fail a test in which the package has sent a statement that does not, and that is on no list."""
    yield
    found = list(named_owners.unnamed)
    named_owners.unnamed.clear()
    assert not found, "\n\n".join(found)


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that the server's account can reach, unlike pytest's own ones of root."""
    ram = Path("/dev/shm")  # where syncing costs nothing
    path = Path(tempfile.mkdtemp(prefix="embedded-", dir=ram if os.access(ram, os.W_OK) else None)).resolve()
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    yield path
    for server in path.rglob("server.lock"):
        embedded.release(server.parent)
        embedded.stop(server.parent)
    shutil.rmtree(path)
