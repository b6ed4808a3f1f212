"""``workflow``, ``job``, ``retention`` and the parts of ``db`` that look at rows or clear them away."""

from __future__ import annotations

import errno
import json
import os
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors, quota
from platform_db.leases import heartbeat
from platform_db.lifecycle.history import add_note
from platform_db.lifecycle.transitions import transition
from platform_db.logs import append_log
from platform_db.models import (
    InteractiveSession,
    Job,
    LogChunk,
    ServiceLog,
    UserTokenType,
    Workflow,
    WorkspaceRetentionRule,
)
from tests.command_line import one_line, run
from tests.factories import make_guarded, make_run, make_user


def test_runs_are_listed_and_shown(session: Session, database_uri: str) -> None:
    owner = make_user(session, email="ada@example.org")
    first = make_run(session, owner, name="first")
    make_run(session, make_user(session), name="other", status="running")

    assert [row["name"] for row in json.loads(run(database_uri, "workflow", "list", "--json").stdout)] == [
        "other.1",
        "first.1",
    ]
    mine = run(database_uri, "workflow", "list", "--user", "ada@example.org").stdout.splitlines()
    assert len(mine) == 2
    assert "first.1" in mine[1]
    assert "none" in run(database_uri, "workflow", "list", "--status", "failed", "--all-users").stdout
    for name in (str(first.id_), "first", "first.1"):
        shown = run(database_uri, "workflow", "show", name, "--user", "ada@example.org", "--json")
        assert json.loads(shown.stdout)["id_"] == str(first.id_)
    assert "first" in run(database_uri, "workflow", "show", str(first.id_)[:23]).stdout


def test_an_exact_id_wins_and_an_ambiguous_prefix_names_its_candidates(
    session: Session, database_uri: str
) -> None:
    owner = make_user(session)
    ids = [f"01890000-0000-7000-8000-00000000000{n}" for n in range(3)]
    for id_ in ids:
        make_run(session, owner, id_=id_)

    assert json.loads(run(database_uri, "workflow", "show", ids[0], "--json").stdout)["id_"] == ids[0]
    result = run(database_uri, "workflow", "show", "0189")
    assert result.exit_code == errors.AmbiguousIdentifier.exit_code
    assert all(id_ in one_line(result.stderr) for id_ in ids)
    assert run(database_uri, "workflow", "show", "ffff").exit_code == errors.NotFound.exit_code
    assert run(database_uri, "workflow", "show", "name").exit_code == errors.InvalidIdentifier.exit_code


def test_the_beginning_of_an_id_is_that_of_the_users_own_run(session: Session, database_uri: str) -> None:
    ids = [f"01890000-0000-7000-8000-00000000000{n}" for n in range(4)]
    make_run(session, make_user(session, email="ada@example.org"), id_=ids[0])
    make_run(session, make_user(session), id_=ids[1])
    eve = make_user(session, email="eve@example.org")
    for id_ in ids[2:]:
        make_run(session, eve, id_=id_)
    make_user(session, email="nobody@example.org")

    found = run(database_uri, "workflow", "show", "0189", "--user", "ada@example.org", "--json")
    assert json.loads(found.stdout)["id_"] == ids[0]
    result = run(database_uri, "workflow", "show", "0189", "--user", "eve@example.org")
    assert result.exit_code == errors.AmbiguousIdentifier.exit_code
    assert [id_ in one_line(result.stderr) for id_ in ids] == [False, False, True, True]
    for name in ("0189", ids[0], "name"):
        result = run(database_uri, "workflow", "show", name, "--user", "nobody@example.org")
        assert result.exit_code == errors.WorkflowNotFound.exit_code
        assert f"there is no workflow '{name}'" in one_line(result.stderr)


def test_history_and_logs_are_printed(session: Session, database_uri: str) -> None:
    found = make_run(session, make_user(session))
    transition(session, found, "queued", reason="a slot is free")
    add_note(session, found, "queue", "evil \x1b[31m")
    append_log(session, found, b"one\ntwo \xff\nthree\n")
    session.commit()
    id_ = str(found.id_)

    lines = run(database_uri, "workflow", "history", id_).stdout
    assert "a slot is free" in lines
    assert "\x1b" not in lines
    entries = json.loads(run(database_uri, "workflow", "history", id_, "--json").stdout)
    assert [entry["kind"] for entry in entries] == ["status", "note"]
    assert run(database_uri, "workflow", "logs", id_).stdout_bytes == b"one\ntwo \xff\nthree\n"
    assert run(database_uri, "workflow", "logs", id_, "--tail", "2").stdout_bytes == b"two \xff\nthree\n"
    assert run(database_uri, "workflow", "logs", id_, "--tail", "0").stdout_bytes == b""
    assert run(database_uri, "workflow", "logs", id_, "--tail", "2", "--follow").exit_code == 2
    transition(session, found, "failed")
    session.commit()
    followed = run(database_uri, "workflow", "logs", id_, "--follow")
    assert followed.stdout_bytes == b"one\ntwo \xff\nthree\n"


def test_jobs_are_listed_and_shown(session: Session, database_uri: str) -> None:
    job = make_guarded(session, make_user(session), "job", "running")
    session.add(Job(workflow_id=job.workflow_id))
    session.commit()
    row, _ = json.loads(run(database_uri, "job", "list", str(job.workflow_id), "--json").stdout)
    assert (row["id"], row["status"]) == (str(job.id_), "running")
    assert json.loads(run(database_uri, "job", "show", str(job.id_), "--json").stdout)["status"] == "running"


def test_dead_workers_are_recovered(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    dead, alive = make_run(session, owner, status="running"), make_run(session, owner, status="running")
    heartbeat(session, [dead, alive], holder="n1/1")
    session.execute(
        sa.text("UPDATE platform.lease SET heartbeat_at = now() - interval '1 hour' WHERE entity_id = :id"),
        {"id": dead.id_},
    )
    session.commit()
    result = run(database_uri, "workflow", "recover", "--policy", "workflow=requeue", "--json")
    assert json.loads(result.stdout) == {"failed": 1, "queued": 1}
    session.expire_all()
    assert (dead.status.value, alive.status.value) == ("failed", "running")
    assert run(database_uri, "workflow", "recover").stdout == "nothing to do\n"
    assert run(database_uri, "workflow", "recover", "--node", "n1").stdout == "1 failed\n"
    assert run(database_uri, "workflow", "recover", "--policy", "service=requeue").exit_code == 2
    for option in ("--older-than", "--grace"):
        assert run(database_uri, "workflow", "recover", "--node", "n1", option, "1h").exit_code == 2
    assert run(database_uri, "workflow", "recover", "--node", "").exit_code == 2


def test_a_node_recovers_its_own_by_policies_of_their_types(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    for type_ in ("serial", "daemon", "ops"):
        heartbeat(session, [make_run(session, owner, status="running", type_=type_)], holder="n1")
    session.commit()
    result = run(database_uri, "workflow", "recover", "--node", "n1", "--policy", "workflow:ops=nothing")
    assert result.stdout == "2 failed, 1 queued\n"


def test_what_does_not_stop_when_it_is_asked_is_stopped_by_recovery(
    session: Session, database_uri: str
) -> None:
    owner = make_user(session)
    found, waiting = (make_run(session, owner, status=status) for status in ("running", "queued"))
    ids = [str(found.id_), str(waiting.id_)]
    asked = run(database_uri, "workflow", "stop", *ids, "--reason", "maintenance", "--json")
    assert [(row["status"], row["asked"]) for row in json.loads(asked.stdout)] == [
        ("running", True),
        ("stopped", False),
    ]
    assert run(database_uri, "workflow", "recover").stdout == "nothing to do\n"
    assert run(database_uri, "workflow", "recover", "--grace", "0").stdout == "1 stopped\n"


def test_a_running_run_is_stopped_by_force(session: Session, database_uri: str) -> None:
    found = make_run(session, make_user(session), status="running")
    assert run(database_uri, "workflow", "stop", str(found.id_), "--force").exit_code == 0
    session.refresh(found)
    assert found.status.value == "stopped"


def test_rows_are_pruned(session: Session, database_uri: str, tmp_path: Path) -> None:
    found = make_run(session, make_user(session), status="deleted")
    run_id = found.id_
    options = ("db", "prune", "--table", "workflow", "--older-than", "0d", "--json")
    assert json.loads(run(database_uri, *options, "--dry-run").stdout)[0]["rows"] == 1
    locked = session.execute(sa.select(Workflow.id_).with_for_update()).all()
    assert locked
    assert run(database_uri, *options).exit_code == errors.PartialFailure.exit_code
    session.rollback()
    assert run(database_uri, *options, "--archive", str(tmp_path), "--batch-size", "1").exit_code == 0
    assert len(list(tmp_path.glob("workflow-*.jsonl.gz"))) == 1
    assert session.scalars(sa.select(Workflow.id_).where(Workflow.id_ == run_id)).all() == []
    assert run(database_uri, "db", "prune", "--older-than", "soon").exit_code == 2
    assert run(database_uri, "db", "prune", "--table", "audit_sealed").exit_code == 2


@pytest.fixture
def due_workspace(session: Session, tmp_path: Path) -> Path:
    """Give a workspace with a file that a rule names whose time has come."""
    owner = make_user(session)
    workspace = tmp_path / "users" / str(owner.id_) / "workspace"
    workspace.mkdir(parents=True)
    (workspace / "a.tmp").write_text("x")
    found = make_run(session, owner, status="finished", workspace_path=str(workspace))
    session.add(
        WorkspaceRetentionRule(
            workflow_id=found.id_,
            workspace_files="*.tmp",
            retention_days=0,
            status="active",
            apply_on=datetime.now(timezone.utc) - timedelta(seconds=1),
        )
    )
    session.commit()
    return workspace


def test_retention_is_applied(database_uri: str, due_workspace: Path) -> None:
    root = {"PLATFORM_DB_WORKSPACE_ROOT": str(due_workspace.parents[2])}
    (due,) = json.loads(run(database_uri, "retention", "apply", "--dry-run", "--json", **root).stdout)
    assert (due["pattern"], due["files"]) == ("*.tmp", 0)
    (applied,) = json.loads(run(database_uri, "retention", "apply", "--json", **root).stdout)
    assert (applied["files"], list(due_workspace.iterdir())) == (1, [])


def test_a_file_that_cannot_be_removed_is_told(
    session: Session, database_uri: str, due_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    root = {"PLATFORM_DB_WORKSPACE_ROOT": str(due_workspace.parents[2])}
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        result = run(database_uri, "retention", "apply", "--json", **root)
    assert result.exit_code == errors.PartialFailure.exit_code
    (told,) = json.loads(result.stdout)
    assert told["problem"] == "1 files could not be removed: not permitted: 'a.tmp'"
    assert session.scalars(sa.select(WorkspaceRetentionRule.status)).one() == "active"
    assert run(database_uri, "retention", "apply", **root).exit_code == 0


def test_any_row_is_shown_without_its_secrets(session: Session, database_uri: str, secret_key: str) -> None:
    token = make_guarded(session, make_user(session), "user_token", "active")
    assert token.type_ is UserTokenType.webhook
    value = token.token
    result = run(database_uri, "db", "get", "user_token", str(token.id_), PLATFORM_DB_SECRET_KEY=secret_key)
    assert result.exit_code == 0
    assert "(withheld)" in result.stdout
    assert value not in result.stdout
    assert run(database_uri, "db", "get", "user", str(token.user_id), "--json").exit_code == 0
    notebook = InteractiveSession(name="n", path="/n", owner_id=token.user_id)
    session.add(notebook)
    session.commit()
    shown = run(database_uri, "db", "get", "interactive_session", str(notebook.id_), "--json")
    assert json.loads(shown.stdout)["secret"] == "(withheld)"


def test_the_figures_are_shown(session: Session, database_uri: str) -> None:
    make_run(session, make_user(session), status="running")
    figures = json.loads(run(database_uri, "db", "stats", "--json").stdout)
    assert figures["statuses"]["workflow"] == {"running": 1}
    assert {table["name"] for table in figures["tables"]} >= {"workflow", "log_chunk"}
    assert next(t for t in figures["tables"] if t["name"] == "workflow")["oldest"]
    assert "workflow" in run(database_uri, "db", "stats").stdout


def test_the_age_of_what_only_grows_is_shown(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    found, service = make_run(session, owner), make_guarded(session, owner, "service", "running")
    transition(session, found, "queued")
    append_log(session, found, "line")
    session.add(ServiceLog(service_id=service.id_, data=b"x"))
    owner.log_action("request_token")
    session.commit()
    tables = json.loads(run(database_uri, "db", "stats", "--json").stdout)["tables"]
    oldest = {table["name"]: table["oldest"] for table in tables}
    (chunk,) = session.scalars(sa.select(LogChunk.at))
    assert oldest["log_chunk"] == chunk.isoformat()
    assert all(oldest[name] for name in ("status_change", "service_log", "audit_inbox"))


@pytest.mark.parametrize(
    ("time", "year"),
    [("infinity", "8999"), ("-infinity", "1901"), ("200000-01-01", "8999"), ("4713-01-01 BC", "1901")],
)
def test_an_imported_time_that_is_no_date_is_shown_as_the_nearest_one(
    session: Session, database_uri: str, time: str, year: str
) -> None:
    session.execute(sa.text("SET LOCAL platform.import = 'on'"))
    session.execute(
        sa.text(
            "INSERT INTO platform.audit_log (id_, owner_id, action, created)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'request_token', CAST(:time AS timestamptz))"
        ),
        {"time": time},
    )
    session.commit()
    tables = json.loads(run(database_uri, "db", "stats", "--json").stdout)["tables"]
    assert {table["name"]: table["oldest"] for table in tables}["audit_inbox"][:4] == year


BREAKAGES = {
    "status changes of rows that no longer exist": """
        INSERT INTO platform.status_change
            (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
        SELECT id_, gen_random_uuid(), 1, 'workflow', 'created', 'queued', 0, now(), 0
        FROM platform.user_ LIMIT 1""",
    "revisions and statuses that their history does not tell": "DELETE FROM platform.status_change",
    "statuses that their times contradict": """
        UPDATE platform.workflow SET run_finished_at = now(), run_started_at = now() + interval '1 hour'""",
    "run counters behind their runs": "DELETE FROM platform.run_counter",
    "disk totals that are not the sum of their workspaces": """
        UPDATE platform.user_resource SET quota_used = 7
        FROM platform.resource WHERE id_ = resource_id AND type_ = 'disk'""",
    "objects that are not those of the models": """
        DROP TRIGGER guard_update ON platform.workflow""",
    "processing times that are not the sum of what was used": """
        UPDATE platform.user_resource SET quota_used = 7
        FROM platform.resource WHERE id_ = resource_id AND type_ = 'cpu'""",
    "totals of database storage that are not the sum of what is stored": """
        UPDATE platform.user_resource SET quota_used = 7
        FROM platform.resource WHERE id_ = resource_id AND type_ = 'database'""",
    "progress of runs that their jobs do not tell": "UPDATE platform.workflow_progress SET finished = 1",
    "ends of partitions of logs where no other one begins": """
        DROP TABLE platform_partitions.log_chunk_before""",
    "log sizes behind their logs": "UPDATE platform.log_size SET bytes_ = 1",
    "constraints that were never validated": """
        ALTER TABLE platform.job ADD CONSTRAINT later CHECK (deleted IS NOT NULL) NOT VALID""",
}


@pytest.mark.parametrize(
    ("check", "breakage"),
    [
        *BREAKAGES.items(),
        (
            "revisions and statuses that their history does not tell",
            "UPDATE platform.status_change SET to_status = 'running'",
        ),
    ],
)
def test_a_deep_check_finds_what_contradicts_itself(
    session: Session, database_uri: str, check: str, breakage: str
) -> None:
    found = make_run(session, make_user(session))
    session.add(Job(workflow_id=found.id_))
    transition(session, found, "queued")
    for limit in (100, 100, 10):
        append_log(session, found, "twelve bytes", limit=limit)
    session.commit()
    assert run(database_uri, "db", "check", "--deep").exit_code == 0

    session.execute(sa.text(breakage))
    session.commit()

    result = run(database_uri, "db", "check", "--deep", "--json")
    assert result.exit_code == errors.Unhealthy.exit_code == 18
    assert check in [finding["check"] for finding in json.loads(result.stdout)["findings"]]


def test_a_total_that_stops_at_the_most_that_is_counted_is_no_fault(
    session: Session, database_uri: str
) -> None:
    owner = make_user(session)
    hour = {
        "run_started_at": datetime(2026, 1, 1, 0, tzinfo=timezone.utc),
        "run_finished_at": datetime(2026, 1, 1, 1, tzinfo=timezone.utc),
    }
    make_run(session, owner, status="finished", **hour)
    session.execute(sa.text("UPDATE platform.user_resource SET quota_pruned = 9223372036854775807"))
    quota.update_users_cpu_quota(session, owner)
    for path in ("/a", "/b"):
        found = make_run(session, owner, workspace_path=path)
        quota.store_workflow_disk_quota(session, found, bytes_to_sum=2**62)
    quota.update_users_disk_quota(session, owner)
    session.commit()
    assert run(database_uri, "db", "check", "--deep").exit_code == 0
    quota.update_users_disk_quota(session, owner, bytes_to_sum=-1)
    session.commit()
    assert run(database_uri, "db", "check", "--deep").exit_code == errors.Unhealthy.exit_code


def test_space_is_given_back(session: Session, database_uri: str) -> None:
    from platform_db.health.compact import compact

    owner = make_user(session)
    session.execute(
        sa.text("""
            INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message)
            SELECT gen_random_uuid(), CAST(:owner AS uuid), 'workflow', gen_random_uuid(), 't', 'm'
            FROM generate_series(1, 20000)"""),
        {"owner": owner.id_},
    )
    session.execute(sa.text("DELETE FROM platform.note WHERE id_ > :id"), {"id": uuid.UUID(int=1 << 122)})
    session.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    session.commit()
    size = sa.text("SELECT pg_relation_size('platform.uq_note_id_')")
    before = session.scalar(size)
    session.commit()
    assert run(database_uri, "db", "compact", "--dry-run").exit_code == 0
    assert session.scalar(size) == before
    session.commit()

    done = compact(database_uri, smallest_index=65536)

    assert any("VACUUM (ANALYZE) platform.note" in line for line in done)
    assert any("REINDEX INDEX CONCURRENTLY platform.uq_note_id_" in line for line in done)
    assert session.scalar(size) < before
