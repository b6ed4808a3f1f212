"""``--json`` prints one JSON document with every command that has it: an object, or a list of objects."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import click
import pytest
from sqlalchemy.orm import Session

from platform_db import crypto
from platform_db.cli.show import ROWS_AT_A_TIME, show_row, show_rows
from platform_db.models import Job, TaskRecord, Workflow
from platform_db.workflows import set_result
from tests.calls import record_call
from tests.command_line import run
from tests.factories import make_run, make_user
from tests.test_cli_help import EVERY

RUN, JOB = "0190f0c4-0000-7000-8000-000000000000", "0190f0c4-0000-7000-8000-000000000001"
ADA = "ada@example.org"

LISTS = {
    "audit list": [],
    "db keys": ["job"],
    "db prune": ["--dry-run"],
    "db tables": [],
    "events watchers": [],
    "guard list": [],
    "job list": [RUN],
    "provenance lineage": [ADA, "call"],
    "provenance log": [ADA],
    "queue status": [],
    "quota reconcile": [],
    "quota report": ["--workflows"],
    "retention apply": [],
    "secret status": [],
    "task list": [ADA],
    "token list": [ADA],
    "workflow delete": [RUN],
    "workflow stop": [RUN],
    "user list": [],
    "workflow history": [RUN],
    "workflow list": [],
    "workflow versions": [RUN],
}

OBJECTS = {
    "db check": ["--deep"],
    "db get": ["job", JOB],
    "db stats": [],
    "db version": [],
    "job show": [JOB],
    "provenance explain": [ADA, "job call"],
    "provenance show": [ADA, "call"],
    "queue explain": [RUN],
    "quota cpu-usage-update": [],
    "quota disk-usage-update": [],
    "quota resource-usage-update": ["--dry-run"],
    "secret rotate": [],
    "task prune": ["--older-than", "1d"],
    "task show": [ADA, "task-1"],
    "token grant": [ADA],
    "token issue": [ADA],
    "token purge": [],
    "token request": [ADA],
    "user create": ["eve@example.org"],
    "user show": [ADA],
    "workflow overview": ["--user", ADA],
    "workflow recover": [],
    "workflow result": [RUN],
    "workflow show": [RUN],
}

# The first needs roles, which belong to the whole server; the second prints an object a line; the others move
# a database of their own.
ELSEWHERE = {
    "alembic upgrade",
    "cluster status",
    "roles show",
    "events tail",
    "db copy",
    "import reana",
    "import redun",
}


def test_every_command_with_json_is_tried_here() -> None:
    with_json = {
        words
        for words, command in EVERY.items()
        if not isinstance(command, click.Group) and any("--json" in found.opts for found in command.params)
    }
    assert with_json == LISTS.keys() | OBJECTS.keys() | ELSEWHERE


@pytest.mark.parametrize("command", [*LISTS, *OBJECTS])
def test_json_is_one_document(session: Session, database_uri: str, command: str, tmp_path: Path) -> None:
    owner = make_user(session, email=ADA)
    make_run(session, owner, id_=RUN, workspace_path=str(tmp_path))
    session.add(Job(id_=JOB, workflow_id=RUN))
    session.add(TaskRecord(owner_id=owner.id_, cluster="c", msg_id="task-1", size=0))
    record_call(session, owner.id_, "call")
    set_result(session, RUN, 1, model=Workflow)
    session.commit()
    arguments = [*command.split(), *LISTS.get(command, []), *OBJECTS.get(command, []), "--json"]

    result = run(database_uri, *arguments, PLATFORM_DB_SECRET_KEY=crypto.generate_key())

    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), list if command in LISTS else dict)
    assert result.stderr == ""


def test_times_are_in_iso_8601(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"at": datetime(2026, 11, 26, 20, tzinfo=timezone.utc)}
    show_row(row, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"at": "2026-11-26T20:00:00+00:00"}
    show_rows([row], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"at": "2026-11-26T20:00:00+00:00"}]


def test_a_long_table_has_one_head_and_a_long_list_one_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * ROWS_AT_A_TIME + 1
    rows = [{"number": number, "name": "é\x1b\n"} for number in range(count)]

    show_rows(iter(rows), as_json=False)
    table = capsys.readouterr().out.splitlines()
    show_rows(iter(rows), as_json=True)
    listed = capsys.readouterr().out

    assert table[0].split() == ["NUMBER", "NAME"]
    assert [line.split() for line in table[1:]] == [[str(n), r"é\x1b\n"] for n in range(count)]
    assert json.loads(listed) == rows
    assert len(listed.splitlines()) == count
