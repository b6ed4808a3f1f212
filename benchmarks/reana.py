"""The alias against reana-db: what REANA's services do, on one server.

    python benchmarks/reana.py

Each has an environment of its own, made once, beside the checkout's, with packages from PyPI. The same code
runs in a process of each, by turns, so that what else the machine does concerns both. A ratio below 1 is
faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSION = "0.95.0a8"
SPECIFICATION = {
    "workflow": {"type": "serial", "specification": {"steps": [{"commands": ["python run.py"]}] * 10}}
}
COMMON = ["SQLAlchemy<2.1", "setuptools<81"]
PACKAGES = {
    "reana-db": [f"reana-db=={VERSION}"],
    "alias": ["--editable", str(ROOT), "--editable", str(ROOT / "distributions" / "reana-db")],
}


def main() -> None:
    """Run the benchmark and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--uri", help="a database on the server to use; two are made beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="of each operation in a round")
    parser.add_argument("--workspaces", type=int, default=2000)
    parser.add_argument("--files", type=int, default=5, help="in each workspace")
    parser.add_argument("--job-rounds", type=int, default=3, help="of the quota jobs")
    arguments = parser.parse_args()

    from floor import server

    pythons = {name: environment(name, packages) for name, packages in PACKAGES.items()}
    with server(arguments.uri) as uri, tempfile.TemporaryDirectory(prefix="platform-db-tree-") as tree:
        make_workspaces(Path(tree), arguments.workspaces, arguments.files)
        workers = {name: Worker(python, own_database(uri, name), tree) for name, python in pythons.items()}
        try:
            compare(workers, arguments)
        finally:
            for worker in workers.values():
                worker.close()


def compare(workers: dict[str, Worker], arguments: argparse.Namespace) -> None:
    """Run every operation by turns, and print the medians and their ratios."""
    for worker in workers.values():
        worker.do("prepare", arguments.workspaces)
    print(f"{'operation':34} {'reana-db':>10} {'alias':>10} {'ratio':>6}")
    calls, workspaces = arguments.calls, arguments.workspaces
    operations = [
        ("create a run", "create", calls, arguments.rounds),
        ("set a status", "set_status", calls, arguments.rounds),
        ("find by token", "find_by_token", calls, arguments.rounds),
        ("list a page of 100", "list_page", max(1, calls // 20), arguments.rounds),
        (f"disk job, {workspaces} workspaces", "count_disk", 1, arguments.job_rounds),
        (f"CPU job, {workspaces} runs", "count_cpu", 1, arguments.job_rounds),
    ]
    for label, operation, times, rounds in operations:
        for worker in workers.values():
            worker.do(operation, 1)
        taken = [[worker.do(operation, times) / times for worker in workers.values()] for _ in range(rounds)]
        theirs, ours = (statistics.median(column) * 1000 for column in zip(*taken, strict=True))
        ratio = statistics.median(mine / other for other, mine in taken)
        print(f"{label:34} {theirs:7.1f} ms {ours:7.1f} ms {ratio:6.3f}", flush=True)


def environment(name: str, packages: list[str]) -> Path:
    """Return the Python of an environment that has these packages, made at the first call."""
    directory = ROOT / f".venv-benchmark-{name}-{PYTHON}"
    if not (directory / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        python = str(directory / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *COMMON, *packages], check=True)
        (directory / "installed").touch()
    return directory / "bin" / "python"


def own_database(uri: str, name: str) -> str:
    """Make an empty database on the server, and return its URL."""
    from platform_db.testing import databases

    name = f"benchmark_{name.replace('-', '_')}"
    databases.drop_database(uri, name)
    return databases.create_database(uri, name)


def make_workspaces(tree: Path, count: int, files: int) -> None:
    """Make the directories of runs, with files in them."""
    for number in range(count):
        workspace = tree / f"{number:06d}"
        workspace.mkdir()
        for part in range(files):
            (workspace / str(part)).write_bytes(b"x" * (part * 5000 + number % 7))


class Worker:
    """A process that does what services do, with one of the two packages.

    :param python: of the environment that has it.
    """

    def __init__(self, python: Path, uri: str, tree: str) -> None:
        variables = {
            "REANA_SQLALCHEMY_DATABASE_URI": uri,
            "REANA_SECRET_KEY": "of the benchmark",
            "REANA_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY": "true",
            "SHARED_VOLUME_PATH": tree,
            "BENCHMARK_TREE": tree,
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("PLATFORM_DB_")}
        self.process = subprocess.Popen(
            [
                str(python),
                "-W",
                "ignore",
                "-c",
                f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import reana; reana.work()",
            ],
            env={**others, **variables},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, operation: str, times: int) -> float:
        """Do something so many times, and return the seconds that it took."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([operation, times]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{operation} failed")
        return float(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def work() -> None:
    """Do what the other process asks for, line by line, and answer with the seconds."""
    service = Service()
    for line in sys.stdin:
        operation, times = json.loads(line)
        function: Callable[..., Any] = getattr(service, operation)
        if operation == "prepare":
            function(times)
            print(0, flush=True)
            continue
        started = time.perf_counter()
        for _ in range(times):
            function()
            service.session.remove()
        print(time.perf_counter() - started, flush=True)


class Service:
    """What services do: each method is a request, or a run of the cronjob."""

    def __init__(self) -> None:
        from reana_db import database, models, utils

        self.models, self.utils, self.database = models, utils, database
        self.session = database.Session
        self.user_id = str(uuid.uuid4())
        self.walk = True

    def prepare(self, workspaces: int) -> None:
        """Make the tables, a user, and a finished run in each workspace."""
        models = self.models
        self.database.init_db()
        models.Resource.initialise_default_resources()
        self.session.add(models.User(id_=self.user_id, email="ada@example.org", access_token="a token"))
        self.session.commit()
        tree, table = os.environ["BENCHMARK_TREE"], models.Workflow.__table__
        specification = "specification" if "specification" in table.c else "reana_specification"
        started = datetime.now()
        runs = [
            {
                "id_": uuid.uuid4(),
                "owner_id": uuid.UUID(self.user_id),
                "name": f"analysis-{number}",
                "run_number_major": 1,
                "run_number_minor": 0,
                "status": models.RunStatus.finished,
                "type_": "serial",
                specification: SPECIFICATION,
                "workspace_path": f"{tree}/{number:06d}",
                "run_started_at": started,
                "run_finished_at": started + timedelta(seconds=number),
            }
            for number in range(workspaces)
        ]
        self.session.connection().execute(table.insert(), runs)
        self.session.commit()
        changing = self.new_run("changing", status=models.RunStatus.running)
        self.session.add(changing)
        self.session.commit()
        self.changing_id = str(changing.id_)
        self.session.remove()

    def new_run(self, name: str, **values: Any) -> Any:
        """Return a run of the user's that is not stored."""
        return self.models.Workflow(
            **{
                "id_": str(uuid.uuid4()),
                "name": name,
                "owner_id": self.user_id,
                "reana_specification": SPECIFICATION,
                "operational_options": {},
                "type_": "serial",
                "logs": "",
                **values,
            }
        )

    def create(self) -> None:
        """A user asks for a run."""
        assert self.session.query(self.models.User).filter(self.models.User.id_ == self.user_id).first()
        run = self.new_run("created")
        self.session.add(run)
        self.session.object_session(run).commit()
        assert run.run_number

    def set_status(self) -> None:
        """An engine reports."""
        statuses = self.models.RunStatus
        status = statuses.failed if self.walk else statuses.running
        self.walk = not self.walk
        self.models.Workflow.update_workflow_status(self.session, self.changing_id, status)

    def find_by_token(self) -> None:
        """A request is authenticated."""
        models = self.models
        token = (
            self.session.query(models.UserToken)
            .filter_by(token="a token", type_=models.UserTokenType.reana)
            .one_or_none()
        )
        assert token.status == models.UserTokenStatus.active
        assert token.user_.email == "ada@example.org"

    def list_page(self) -> None:
        """A user lists runs, with their sizes and sessions."""
        models = self.models
        query = self.session.query(models.Workflow).filter(models.Workflow.owner_id == self.user_id)
        assert query.count() > 100
        page = query.order_by(models.Workflow.created.desc()).slice(0, 100)
        owner_ids = {run.owner_id for run in page}
        users = self.session.query(models.User.id_, models.User.email)
        owners = dict(users.filter(models.User.id_.in_(owner_ids)).all())
        for run in page:
            row = {
                "id": str(run.id_),
                "name": f"{run.name}.{run.run_number}",
                "status": run.status.name,
                "launcher_url": run.launcher_url,
                "created": run.created.strftime("%Y-%m-%dT%H:%M:%S"),
                "progress": run.job_progress,
                "owner": owners[run.owner_id],
                "shared_with": [user.email for user in run.users_it_is_shared_with],
                "dask": run.reana_specification["workflow"].get("resources"),
                "services": [service.name for service in run.services],
                "session": run.sessions[0].path if run.sessions else None,
                "size": run.get_quota_usage().get("disk"),
            }
            json.dumps(row)

    def count_disk(self) -> None:
        """The cronjob counts disk space."""
        self.utils.update_workflows_disk_quota()
        self.utils.update_users_disk_quota()

    def count_cpu(self) -> None:
        """The cronjob counts processing time."""
        self.utils.update_workflows_cpu_quota()
        self.utils.update_users_cpu_quota()


if __name__ == "__main__":
    main()
