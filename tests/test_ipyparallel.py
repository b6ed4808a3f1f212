"""ipyparallel's own tests of task databases, and a real controller that stops, restarts and is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import TaskRecord
from tests.factories import make_user

ipyparallel = pytest.importorskip(
    "ipyparallel", reason="ipyparallel is not installed: pip install platform-db[ipyparallel]"
)

from ipyparallel.tests.test_db import TaskDBTest  # noqa: E402

from platform_db.integrations.ipyparallel import PlatformDB  # noqa: E402

MakeDB = Callable[..., PlatformDB]


@pytest.fixture
def owner(session: Session) -> str:
    owner = make_user(session).email
    session.rollback()
    return owner


@pytest.fixture
def make_db(database_uri: str, owner: str) -> Iterator[MakeDB]:
    made = []

    def make(**traits: Any) -> PlatformDB:
        made.append(PlatformDB(**{"url": database_uri, "owner": owner, **traits}))
        return made[-1]

    yield make
    for db in made:
        db.close()


@pytest.mark.parametrize("commit_delay", [0.05, 0])
class TestAsIpyparallelTestsIt(TaskDBTest):
    @pytest.fixture(autouse=True)
    def fill(self, make_db: MakeDB, commit_delay: float) -> None:
        self.create_db = lambda: make_db(commit_delay=commit_delay)
        self.setUp()


def test_the_configured_database_and_the_profiles_name_are_the_defaults(
    database_uri: str, owner: str, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    from platform_db import sessions, settings

    monkeypatch.setenv("PLATFORM_DB_URI", database_uri)
    settings.reset_settings()
    db = PlatformDB(owner=owner)
    db.add_record("t", {"stdout": "x"})
    db.close()
    sessions.reset_engine()
    settings.reset_settings()

    assert session.scalars(sa.select(TaskRecord.cluster)).all() == ["default"]


@pytest.mark.parametrize("owner", ["", "nobody@example.org"])
def test_a_controller_without_an_owner_does_not_start(database_uri: str, owner: str) -> None:
    with pytest.raises((errors.InvalidSetting, errors.UserNotFound)):
        PlatformDB(url=database_uri, owner=owner)


class Cluster:
    """A controller and two engines, each a process of its own."""

    def __init__(self, directory: Path, url: str, owner: str) -> None:
        self.directory = directory
        self.options = [
            "--IPController.db_class=platform_db.integrations.ipyparallel.PlatformDB",
            f"--PlatformDB.url={url}",
            f"--PlatformDB.owner={owner}",
        ]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, engines: int = 2) -> Any:
        """Start all and return a client."""
        files = self.directory / "profile_default" / "security"
        for connection_file in files.glob("ipcontroller-*.json"):
            connection_file.unlink()
        self._start("controller", "--ping=250", *self.options)
        self._wait(
            lambda: all((files / f"ipcontroller-{name}.json").exists() for name in ("client", "engine"))
        )
        for _ in range(engines):
            self._start("engine")
        client = ipyparallel.Client(str(files / "ipcontroller-client.json"), timeout=120)
        self._wait(lambda: len(client) == engines)
        return client

    def end(self, signal_: int = signal.SIGTERM) -> None:
        """End the controller by a signal, then the engines."""
        controller, *_ = self.processes
        controller.send_signal(signal_)
        controller.wait(60)
        self.kill()

    def kill(self) -> None:
        """End what still runs."""
        for process in self.processes:
            with suppress(ProcessLookupError):  # A killed controller leaves its schedulers.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
        self.processes.clear()

    def _start(self, program: str, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            f"ipyparallel.{program}",
            f"--ipython-dir={self.directory}",
            *options,
        ]
        self.directory.mkdir(exist_ok=True)
        log = (self.directory / f"{program}.log").open("ab")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def _wait(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < give_up_at, (self.directory / "controller.log").read_text()[-3000:]
            time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path, database_uri: str, owner: str) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, database_uri, owner)
    yield cluster
    cluster.kill()


def completed(session: Session, ids: list[str]) -> int:
    session.rollback()
    found = sa.select(sa.func.count()).where(TaskRecord.msg_id.in_(ids), TaskRecord.completed.is_not(None))
    return session.scalar(found) or 0


@pytest.mark.soak
def test_a_history_survives_a_restart(cluster: Cluster) -> None:
    client = cluster.start()
    results = client.load_balanced_view().map_async(lambda x: x * x, range(50))
    assert results.get(120)[7] == 49
    client.close()
    cluster.end()

    client = cluster.start()
    assert set(client.hub_history()) == set(results.msg_ids)
    assert client.get_result(results.msg_ids[7], owner=False).get(60) == [49]
    again = client.resubmit(results.msg_ids[:5])
    assert len(again.get(120)) == 5
    client.purge_hub_results(results.msg_ids[:10])
    assert len(client.db_query({"msg_id": {"$in": results.msg_ids}}, ["completed"])) == 40
    client.close()


@pytest.mark.soak
def test_four_controllers_share_a_history(tmp_path: Path, database_uri: str, owner: str) -> None:
    clusters = [Cluster(tmp_path / str(number), database_uri, owner) for number in range(4)]
    try:
        clients = [cluster.start(engines=1) for cluster in clusters]
        asked = [client.load_balanced_view().map_async(lambda x: x, range(50)) for client in clients]
        results = [result.get(120) for result in asked]
        ids = [msg_id for result in asked for msg_id in result.msg_ids]
        histories = [client.hub_history() for client in clients]
        for client in clients:
            client.close()
        for cluster in clusters:
            cluster.end()
    finally:
        for cluster in clusters:
            cluster.kill()
    assert results == [list(range(50))] * 4
    assert [sorted(history) for history in histories] == [sorted(ids)] * 4


@pytest.mark.soak
@pytest.mark.parametrize("is_told", [False, True])
def test_a_killed_controller_has_stored_what_it_completed(
    cluster: Cluster, session: Session, is_told: bool
) -> None:
    client = cluster.start()
    view = client.load_balanced_view()
    # Tasks as short as a loaded machine's controller can follow; what it has not heard of it cannot store.
    tasks = [view.apply_async(time.sleep, 0.02) for _ in range(201)]
    ids = [task.msg_ids[0] for task in tasks]
    while sum(task.ready() for task in tasks) < 200:
        time.sleep(0.001)
    if is_told:
        while len(client.db_query({"msg_id": {"$in": ids}, "completed": {"$ne": None}}, ["msg_id"])) < 201:
            time.sleep(0.1)
    cluster.end(signal.SIGKILL)
    client.close()

    assert completed(session, ids) >= (201 if is_told else 190)
