"""``platform-db quota`` as operators and cronjobs meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors
from platform_db.leases.tasks import lease
from platform_db.models import TaskRecord, User, Value
from tests.command_line import one_line, run
from tests.factories import make_run, make_user


@pytest.fixture
def user(session: Session, tmp_path: Path) -> User:
    """Store a user with two runs and their workspaces."""
    user = make_user(session, email="jane@example.org")
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "data").write_bytes(b"x" * size * 100_000)
        make_run(session, user, workspace_path=str(tmp_path / str(size)))
    return user


def test_the_default_resources_are_created_once(empty_database_uri: str) -> None:
    assert run(empty_database_uri, "alembic", "upgrade").exit_code == 0
    missing = run(empty_database_uri, "quota", "disk-usage-update")
    assert missing.exit_code == errors.ResourceNotFound.exit_code
    assert "quota create-default-resources" in one_line(missing.stderr)
    first = run(empty_database_uri, "quota", "create-default-resources")
    assert first.stdout.splitlines() == [
        "created the resource database storage",
        "created the resource processing time",
        "created the resource shared storage",
    ]
    second = run(empty_database_uri, "quota", "create-default-resources")
    assert (second.exit_code, second.stdout) == (0, "nothing to do: the default resources exist already\n")


def test_usage_is_updated_and_reported(database_uri: str, user: User) -> None:
    updated = run(database_uri, "quota", "resource-usage-update", "--json")
    assert updated.exit_code == 0
    assert json.loads(updated.stdout)["disk"]["workspaces"] == 2
    assert run(database_uri, "quota", "set-limit", user.email, "disk", "300k").exit_code == 0
    reported = json.loads(run(database_uri, "quota", "report", "--json", "--workflows").stdout)
    assert reported[0]["email"] == user.email
    disk = reported[0]["quota"]["disk"]
    assert disk["health"] == "critical"
    assert [w["name"] for w in reported[0]["workflows"]] == ["analysis.2", "analysis.1"]
    assert sum(w["disk"]["raw"] for w in reported[0]["workflows"]) == disk["usage"]["raw"]
    table = run(database_uri, "quota", "report", "--user", str(user.id_), "--workflows").stdout
    assert "critical" in table
    assert table.index("analysis.2") < table.index("analysis.1")
    lines = run(database_uri, "quota", "report", "--csv").stdout.splitlines()
    assert len(lines) == 4
    assert f"{disk['usage']['raw']},{300 * 1024}" in lines[2]


def test_the_bytes_that_each_system_stores_are_reported(
    database_uri: str, session: Session, user: User
) -> None:
    def value(name: str, content: bytes, size: int) -> Value:
        described = {"owner_id": user.id_, "value_hash": name, "type_": "str", "format_": "text/plain"}
        return Value(**described, value=content, size=size)

    task = {"cluster": "c", "msg_id": "1", "buffers": bytes(30), "size": 30}
    session.add_all([value("a", b"abc", 3), value("b", b"", 500), TaskRecord(owner_id=user.id_, **task)])
    session.commit()
    (reported,) = json.loads(run(database_uri, "quota", "report", "--json", "--stored").stdout)
    assert {name: size["raw"] for name, size in reported["stored"].items()} == {
        "results": 0,
        "tasks": 30,
        "values": 3,
        "values_in_files": 500,
    }
    table = run(database_uri, "quota", "report", "--stored").stdout
    assert "values in files" in table
    refused = run(database_uri, "quota", "report", "--stored", "--csv")
    assert refused.exit_code == 2


def test_the_biggest_workflows_are_reported_before_those_that_were_never_measured(
    database_uri: str, session: Session, user: User
) -> None:
    assert run(database_uri, "quota", "disk-usage-update").exit_code == 0
    make_run(session, user, name="never-measured")
    reported = json.loads(run(database_uri, "quota", "report", "--json", "--workflows").stdout)
    assert [w["name"] for w in reported[0]["workflows"]][-1] == "never-measured.1"


def test_a_workspace_that_is_gone_takes_nothing_and_was_measured(
    database_uri: str, session: Session, user: User, tmp_path: Path
) -> None:
    make_run(session, user, name="gone", workspace_path=str(tmp_path / "gone"))
    assert run(database_uri, "quota", "disk-usage-update").exit_code == 0
    reported = json.loads(run(database_uri, "quota", "report", "--json", "--workflows").stdout)
    assert [w["disk"]["raw"] for w in reported[0]["workflows"] if w["name"] == "gone.1"] == [0]


def test_what_was_measured_within_a_day_is_not_measured_again(database_uri: str, user: User) -> None:
    measured = []
    for _ in range(2):
        done = run(database_uri, "quota", "disk-usage-update", "--stale-after", "1d", "--json")
        measured.append(json.loads(done.stdout)["workspaces"])
    assert measured == [2, 0]


@pytest.mark.parametrize("command", ["disk-usage-update", "cpu-usage-update", "resource-usage-update"])
def test_the_policy_switches_the_jobs_off(database_uri: str, command: str) -> None:
    off = {"PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY": "false"}
    skipped = run(database_uri, "quota", command, **off)
    assert skipped.exit_code == 0
    assert "nothing is updated" in skipped.stdout
    assert "nothing" not in run(database_uri, "quota", command, "--override-policy", **off).stdout


def test_a_resource_that_there_is_not_is_told_with_the_names_of_those_that_there_are(
    database_uri: str, user: User
) -> None:
    refused = run(database_uri, "quota", "set-limit", user.email, "tape", "1GiB")
    assert refused.exit_code == errors.ResourceNotFound.exit_code
    assert "no resource 'tape' (cpu, disk and database mean the default ones" in one_line(refused.stderr)


def test_a_second_run_says_so(database_uri: str, session_factory: sessionmaker[Session]) -> None:
    with lease(session_factory, "disk-usage-update"):
        second = run(database_uri, "quota", "disk-usage-update")
    assert second.exit_code == errors.AlreadyRunning.exit_code
    assert "another run" in one_line(second.stderr)


def test_a_failure_is_told_by_the_exit_code(database_uri: str, session: Session, user: User) -> None:
    make_run(session, user, workspace_path="/" + "x" * 300)
    result = run(database_uri, "quota", "disk-usage-update")
    assert result.exit_code == errors.PartialFailure.exit_code
    assert "2 changed, 1 failed" in result.stdout
    session.expire_all()
    assert user.get_quota_usage()["disk"]["usage"]["raw"] > 300_000


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["disk-usage-update", "--user", "nobody@example.org"], 10),
        (["report", "--user", "nobody"], 10),
        (["report", "--json", "--csv"], 2),
        (["disk-usage-update", "--shard", "4/3"], 2),
        (["disk-usage-update", "--stale-after", "soon"], 2),
        (["set-limit", "jane@example.org", "disk", "lots"], 2),
        (["set-limit", "jane@example.org", "gold", "1"], 10),
        (["init-default-period"], 3),
    ],
)
def test_bad_input_is_told(
    database_uri: str, session: Session, user: User, arguments: list[str], exit_code: int
) -> None:
    result = run(database_uri, "quota", *arguments)
    assert result.exit_code == exit_code
    assert "Traceback" not in result.stderr
    assert session.scalar(sa.text("SELECT count(*) FROM platform.workflow_resource")) == 0


def test_drift_is_shown_and_fixed(database_uri: str, user: User) -> None:
    shown = run(database_uri, "quota", "reconcile")
    assert "because it was never measured" in shown.stdout
    assert shown.stdout.endswith("2 differences\n")
    run(database_uri, "quota", "reconcile", "--fix", "--user", user.email)
    assert run(database_uri, "quota", "reconcile").stdout == "0 differences\n"


def test_the_default_period_is_given(database_uri: str, user: User) -> None:
    months = {"PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS": "1"}
    dry = run(database_uri, "quota", "init-default-period", "--dry-run", **months)
    assert dry.stdout == "1 users would get the default period\n"
    assert run(database_uri, "quota", "init-default-period", **months).stdout.startswith("1 users got")
    assert run(database_uri, "quota", "init-default-period", **months).stdout.startswith("0 users got")
