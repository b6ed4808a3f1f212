"""What redun itself recorded moves: its log, its queries and its cache are as before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import orm

from tests import command_line
from tests.factories import make_user

pytest.importorskip("redun")

EMAIL = "ada@example.org"

WORKFLOW = """
from redun import File, Handle, task

redun_namespace = "moved"

class Connection(Handle):
    def __init__(self, name, namespace=None):
        self.instance = None

@task()
def double(i: int) -> int:
    return 2 * i

@task()
def pair(i: int, by: int = 3):
    return [double(i), double(i + by)]

@task(tags=[("team", "a"), ("weight", 1.5), ("nested", {"b": [1, None, "\\u00e9"]})])
def total(pairs):
    return sum(a + b for a, b in pairs)

@task()
def write(text: str) -> File:
    file = File("out.txt")
    file.write(text)
    return file

@task()
def step(connection, number: int):
    return connection

@task()
def large(size: int) -> str:
    return "x" * size

@task()
def main(n: int):
    steps = step(step(Connection("db"), 1), 2)
    return [total([pair(i) for i in range(n)]), write("text"), steps, large(5000)]
"""

RUN = """
import sys
sys.stderr = sys.stdout
from redun.cli import RedunClient
RedunClient().execute(["redun", *sys.argv[1:]])
"""

# What redun shows: its log of everything, of an execution, a job, the tasks and a file, and by the ORM what
# its console and queries ask for.
LOOKS = """
import io, re
from redun.backends.db import Evaluation, Handle, Job, Tag, Value
from redun.backends.db.query import CallGraphQuery
from redun.cli import RedunClient, setup_scheduler

def log(*arguments):
    shown = io.StringIO()
    RedunClient(stdout=shown).execute(["redun", "log", "--no-pager", *arguments])
    lines = shown.getvalue().splitlines()
    # redun asks for tasks in no order.
    print(*(sorted(lines) if "--task" in arguments else lines), sep="\\n")
    return shown.getvalue()

execution = re.findall(r"Exec (\\w{8})", log())[-1]
job = re.findall(r"Job (\\w{8})", log(execution))[-1]
log(job)
log("--task")
log("--file", "out.txt")

session = setup_scheduler().backend.session
for job in session.query(Job).order_by(Job.start_time, Job.id):
    node = job.call_node
    print(job.id, job.start_time, job.end_time, job.status, job.task.fullname, job.parent_id)
    print("   ", node.value_parsed)
    for argument in sorted(node.arguments, key=lambda argument: argument.arg_hash):
        print("   ", argument.arg_position, argument.arg_key, argument.value_parsed,
              sorted(node.call_hash for node in argument.upstream))
for tag in session.query(Tag).order_by(Tag.tag_hash):
    print(tag, tag.entity_type, tag.is_current)
for handle in session.query(Handle).order_by(Handle.hash):
    print(handle.hash, handle.is_valid, [child.hash for child in handle.children])
print(session.query(Evaluation).count(), session.query(Value).count())
for record in sorted(map(str, CallGraphQuery(session).filter_tags([("team", "a")]).all())):
    print(record)
"""


class Workspace:
    """A directory in which redun runs workflows."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path, self.uri = path, uri
        (path / "workflow.py").write_text(WORKFLOW, encoding="utf-8")
        (path / "looks.py").write_text(LOOKS, encoding="utf-8")
        (path / "run_redun.py").write_text(RUN, encoding="utf-8")
        self.configure("sqlite:///redun.db")

    def configure(self, db_uri: str) -> None:
        """Say in ``redun.ini`` which database is used."""
        scheduler = "setup_scheduler = platform_db.integrations.redun::setup_scheduler"
        (self.path / ".redun").mkdir(exist_ok=True)
        (self.path / ".redun" / "redun.ini").write_text(
            f"""
[backend]
db_uri = {db_uri}
value_store_path = {self.path}/values
value_store_min_size = 1000
[scheduler]
{scheduler if db_uri.startswith("platformdb:") else ""}
"""
        )

    def python(self, *arguments: str) -> str:
        """Run Python, and return what it prints."""
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env={
                **os.environ,
                "PLATFORM_DB_URI": self.uri,
                "PYTHONPATH": os.pathsep.join(
                    [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
                ),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-5000:]
        return ran.stdout

    def redun(self, *arguments: str) -> str:
        """Run redun, and return what it logs."""
        return self.python("run_redun.py", *arguments)


@pytest.fixture
def workspace(tmp_path: Path, database_uri: str, session: orm.Session) -> Workspace:
    make_user(session, email=EMAIL)
    return Workspace(tmp_path, database_uri)


@pytest.mark.soak
def test_the_log_queries_and_the_cache_are_as_before(workspace: Workspace) -> None:
    workspace.redun("run", "workflow.py", "main", "--n", "6")
    workspace.redun("run", "workflow.py", "main", "--n", "7")
    before = workspace.python("looks.py")

    moved = command_line.run(
        workspace.uri,
        *("import", "redun", "--from", f"sqlite:///{workspace.path}/.redun/redun.db"),
        *("--user", EMAIL, "--value-store", f"{workspace.path}/values"),
    )
    assert moved.exit_code == 0, moved.output
    workspace.configure(f"platformdb://configured?owner={EMAIL}")

    assert workspace.python("looks.py") == before
    again = workspace.redun("run", "workflow.py", "main", "--n", "7")
    assert "Cached" in again
    assert not re.search(r"^\[redun\] Run ", again, re.MULTILINE)
