"""Moving a REANA platform: its data arrive as they are, and nothing says that it did what it did not."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from platform_db import settings, tokens, workflows
from platform_db.cli.commands.import_ import SOURCE_VARIABLE
from platform_db.integrations.reana import moving
from platform_db.models import AuditInbox, AuditLog, Job, Note, RowEvent, StatusChange, User, Workflow
from platform_db.testing import databases
from tests import command_line
from tests.reana_source import OLD_KEY, ReanaDatabase

UNIQUE_HERE = {
    # Numbers and transactions are the target's own; so is how a token is sealed, and when a share came.
    "log_chunk": ("number", "transaction_id"),
    "log_size": ("first_number", "last_number"),
    "service_log": ("number", "transaction_id"),
    "audit_log": ("number",),
    "user_token": ("token",),
    "user_workflow": ("created", "updated"),
    "user_resource": ("measured_at",),
    "workspace_retention_audit_log": ("id_",),
    "workflow_progress": ("part",),
}
COMPUTED = ("workflow_resource", "interactive_session_resource", "service_resource")


class Target:
    """The database that a platform moves to, and the command that moves it there."""

    def __init__(self, uri: str, root: Path, secret_key: str) -> None:
        self.uri = uri
        self.variables = {
            "PLATFORM_DB_SECRET_KEY": secret_key,
            "PLATFORM_DB_WORKSPACE_ROOT": str(root),
            "PLATFORM_DB_MISSING_WORKSPACES_LIMIT": "100",
            "REANA_SECRET_KEY": OLD_KEY,
        }

    def run(self, *arguments: str, **variables: str) -> Any:
        return command_line.run(self.uri, *arguments, **{**self.variables, **variables})

    def bring(self, source: ReanaDatabase, *options: str, **variables: str) -> Any:
        """Run the import; the source's URI is no argument, since it may hold a password."""
        variables = {SOURCE_VARIABLE: source.uri, **variables}
        return self.run("import", "reana", "--json", *options, **variables)

    def contents(self) -> dict[str, list[str]]:
        """Return what is stored in every table, without what is another at each move."""
        engine = sa.create_engine(self.uri)
        with engine.connect() as connection:
            connection.exec_driver_sql("SET timezone = 'UTC'")
            tables = connection.exec_driver_sql(
                "SELECT relname FROM pg_class WHERE relnamespace = 'platform'::regnamespace AND relkind = 'r'"
            )
            return {name: self._rows(connection, name) for (name,) in tables.all()}

    def _rows(self, connection: sa.Connection, table: str) -> list[str]:
        without = UNIQUE_HERE.get(table, ())
        where = ""
        if table in COMPUTED:
            without = ("measured_at",)
        query = f"SELECT (to_jsonb(t) - %s::text[])::text FROM platform.{table} AS t {where}"
        return sorted(row for (row,) in connection.exec_driver_sql(query, (list(without),)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / ".platform-db-root").touch()
    return tmp_path / "root"


@pytest.fixture(params=["0.9.5", "0.95.0a8"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reana(release: str, empty_database_uri: str, root: Path) -> ReanaDatabase:
    return ReanaDatabase(empty_database_uri, release, str(root))


@pytest.fixture
def newer(empty_database_uri: str, root: Path) -> ReanaDatabase:
    """Give a small database of 0.95.0a8."""
    return ReanaDatabase(empty_database_uri, "0.95.0a8", str(root), runs=60)


@pytest.fixture
def target(database_uri: str, root: Path, secret_key: str) -> Target:
    return Target(database_uri, root, secret_key)


@pytest.fixture
def make_target(
    postgres_server: Any, template_database: str, root: Path, secret_key: str
) -> Iterator[Callable[[], Target]]:
    """Give ``make_target()``, another database to move to."""
    names: list[str] = []

    def make() -> Target:
        names.append(f"{postgres_server.prefix}import_{random.randrange(10**9)}")
        uri = databases.create_database(postgres_server.uri, names[-1], template=template_database)
        return Target(uri, root, secret_key)

    yield make
    for name in names:
        databases.drop_database(postgres_server.uri, name)


@pytest.fixture
def keys_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Target], None]:
    """Give what makes the target's keys this process's."""

    def use(target: Target) -> None:
        monkeypatch.setenv("PLATFORM_DB_SECRET_KEY", target.variables["PLATFORM_DB_SECRET_KEY"])
        settings.reset_settings()

    return use


def counted(result: Any, name: str) -> dict[str, int]:
    """Return the tables that have a number other than 0 in a column of the summary."""
    return {row["table"]: row[name] for row in json.loads(result.stdout) if row[name]}


def reported(file: Path, outcome: str) -> dict[str, str]:
    """Return the reasons that a report has for rows of an outcome, by table and id."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {
        f"{line['table']} {line['id']}": line.get("reason", "")
        for line in lines
        if line["outcome"] == outcome
    }


def test_a_platform_moves(
    reana: ReanaDatabase, target: Target, root: Path, session: orm.Session, keys_of: Callable[[Target], None]
) -> None:
    reana.measure(root)
    before = reana.execute("SELECT md5(string_agg(w::text, '' ORDER BY id_)) FROM __reana.workflow AS w")

    moved = target.bring(reana)

    assert moved.exit_code == 0, moved.output
    assert counted(moved, "rows")["workflow"] == counted(moved, "written")["workflow"] == 500
    assert counted(moved, "refused") == {}
    # Every active token authenticates its user, and no other does.
    keys_of(target)
    for user_id, value in reana.tokens.items():
        assert tokens.authenticate(session, value).user_id == user_id
    assert session.scalar(sa.text("SELECT count(*) FROM platform.user_token WHERE status = 'active'")) == len(
        reana.tokens
    )
    session.rollback()
    # Nothing says that the move did what it did not.
    for model in (StatusChange, RowEvent, Note):
        assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(AuditLog)) == 20
    assert session.scalar(sa.select(sa.func.count()).select_from(AuditInbox)) == 0, "each page is read fast"
    assert session.scalar(sa.text("SELECT count(*) FROM platform.workspace_retention_audit_log")) == 200
    # The next run of each name has the number that REANA would give it.
    for owner_id, name, major in reana.execute(
        "SELECT owner_id, name, max(run_number_major) + 1 FROM __reana.workflow GROUP BY owner_id, name"
    ):
        run = Workflow(name=name, owner_id=owner_id, type_="serial", specification={})
        session.add(run)
        session.flush()
        assert run.run_number == str(major)
    session.rollback()
    for check in (
        ("quota", "reconcile", "--json"),
        ("db", "check", "--deep"),
        ("audit", "seal"),
        ("audit", "verify"),
    ):
        checked = target.run(*check)
        assert checked.exit_code == 0, (check, checked.output)
        assert check[1] != "reconcile" or json.loads(checked.stdout) == []
    # And the source is as it was.
    assert (
        reana.execute("SELECT md5(string_agg(w::text, '' ORDER BY id_)) FROM __reana.workflow AS w") == before
    )


def test_rows_arrive_as_they_were(newer: ReanaDatabase, target: Target, session: orm.Session) -> None:
    (found,) = newer.execute(
        "SELECT w.id_, w.owner_id, w.logs, w.created, j.id_, j.logs FROM __reana.workflow AS w"
        " JOIN __reana.job AS j ON j.workflow_uuid = w.id_"
        " WHERE w.status = 'finished' AND w.logs <> '' AND j.logs <> ''"
        " AND j.cvmfs_mounts IS NOT NULL LIMIT 1"
    )
    assert target.bring(newer).exit_code == 0

    run, job = session.get(Workflow, found[0]), session.get(Job, found[4])
    assert (str(run.owner_id), run.logs, run.created.replace(tzinfo=None)) == (found[1], found[2], found[3])
    assert run.input_parameters == {"events": 20000.5}
    assert run.specification["a"] == "\\u00e9"  # a backslash that was escaped
    assert run.engine_specific is None
    assert (run.run_finished_at - run.run_started_at).total_seconds() == 240
    assert job.logs == found[5]
    assert job.command.startswith('python "run.py" --n ')
    assert job.environment["A"] == "1"
    assert job.attributes["cvmfs_mounts"] == "['atlas.cern.ch']"
    assert job.attributes["prettified_cmd"] == "python run.py"
    user = session.get(User, run.owner_id)
    listed = workflows.list_workflows(session, user.id_, limit=100).rows
    assert [row.created for row in listed] == sorted((row.created for row in listed), reverse=True)


def test_another_pass_brings_what_has_changed_since(
    newer: ReanaDatabase, target: Target, make_target: Callable[[], Target]
) -> None:
    assert target.bring(newer).exit_code == 0
    assert counted(target.bring(newer), "written") == {}

    ((run, owner),) = newer.execute(
        "SELECT id_, owner_id FROM __reana.workflow WHERE status = 'running' LIMIT 1"
    )
    newer.execute(
        "UPDATE __reana.workflow SET status = 'finished', run_finished_at = run_started_at + interval '1 h',"
        " logs = logs || 'the end' WHERE id_ = %s",
        run,
    )
    newer.execute(
        "UPDATE __reana.user_ SET full_name = 'Another', email = 'other@example.org' WHERE id_ = %s", owner
    )
    newer.execute("DELETE FROM __reana.user_workflow WHERE user_id = %s", owner)  # which has no "updated"
    newer.execute("UPDATE __reana.user_token SET status = 'revoked' WHERE status = 'active'")
    newer.add_token(owner, "active", "a new value", 100)
    newer.execute(
        "DELETE FROM __reana.service_logs"
        " WHERE service_id IN (SELECT min(id_::text)::uuid FROM __reana.service)"
    )
    newer.execute(
        "DELETE FROM __reana.workspace_retention_audit_log"
        " WHERE workspace_retention_rule_id = md5('rule59')::uuid"
    )
    for table, column in {
        "workspace_retention_rule": "workflow_id",
        "user_workflow": "workflow_id",
        "workflow_resource": "workflow_id",
        "job": "workflow_uuid",
        "workflow": "id_",
    }.items():
        newer.execute(f"DELETE FROM __reana.{table} WHERE {column} = md5('run59')::uuid")

    again = target.bring(newer)
    assert again.exit_code == 0, again.output
    assert counted(again, "written")["workflow"] == 1
    assert counted(again, "written")["user_"] == 1
    assert counted(again, "removed")["workflow"] == 2
    fresh = make_target()
    assert fresh.bring(newer).exit_code == 0
    # A number that was given once is not given again, as always here.
    differing = {name for name, rows in target.contents().items() if rows != fresh.contents()[name]}
    assert differing == {"run_counter"}
    assert counted(target.bring(newer), "written") == {}


def killed_and_resumed(source: ReanaDatabase, target: Target, times: int, seconds: float) -> Any:
    """Kill the command so often, after a random part of so many seconds, and then let it end."""
    arguments = ("import", "reana", "--json", "--batch", "20")
    target.variables[SOURCE_VARIABLE] = source.uri
    for _ in range(times):
        process = command_line.start(target.uri, *arguments, **target.variables)
        time.sleep(random.uniform(seconds / 4, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return target.run(*arguments)


def test_killed_and_resumed_it_is_the_same(
    newer: ReanaDatabase, target: Target, make_target: Callable[[], Target]
) -> None:
    resumed = killed_and_resumed(newer, target, 2, 5.0)
    assert resumed.exit_code == 0, resumed.output
    whole = make_target()
    assert whole.bring(newer).exit_code == 0
    assert target.contents() == whole.contents()


@pytest.mark.soak
def test_killed_at_ten_moments_it_is_the_same(
    reana: ReanaDatabase, make_target: Callable[[], Target], target: Target
) -> None:
    whole = make_target()
    started = time.monotonic()
    assert whole.bring(reana, "--batch", "20").exit_code == 0
    resumed = killed_and_resumed(reana, target, 10, time.monotonic() - started + 3)
    assert resumed.exit_code == 0, resumed.output
    assert target.contents() == whole.contents()


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    newer: ReanaDatabase, target: Target, root: Path
) -> None:
    newer.execute("UPDATE __reana.workflow SET name = NULL WHERE id_ = md5('run7')::uuid")
    before = target.contents()
    tried = target.bring(newer, "--dry-run", "--report", str(root / "report"))
    assert tried.exit_code == 9
    assert counted(tried, "rows")["workflow"] == 59
    assert counted(tried, "written") == {}
    refused = reported(root / "report", "refused")
    assert "it has no name" in refused.values()
    assert [reason for row, reason in refused.items() if row.startswith("job ")] == 2 * [
        "its run is not moved"
    ]
    assert target.contents() == before


def test_what_only_a_person_can_decide_is_asked_for(
    newer: ReanaDatabase, target: Target, root: Path, session: orm.Session
) -> None:
    newer.execute("UPDATE __reana.user_ SET email = 'USER2@example.org' WHERE username = 'user1'")
    newer.execute(
        "UPDATE __reana.workflow SET owner_id = NULL WHERE id_ IN (md5('run3')::uuid, md5('run4')::uuid)"
    )
    file, before = root / "decisions.json", target.contents()

    without = target.bring(newer)
    asked = target.bring(newer, "--decisions", str(file))

    assert without.exit_code == asked.exit_code == 11
    assert "there is an answer missing to 4 questions" in without.stderr
    assert f"4 questions wait in {file}" in asked.stderr
    assert target.contents() == before
    questions = json.loads(file.read_text())
    answers = ["user2@example.org", "user1@example.org", "user5@example.org", "leave out"]
    users = [about for about in questions if about.startswith("user ")]
    first, second = (
        f"workflow {id_}"
        for (id_,) in newer.execute(
            "SELECT id_ FROM __reana.workflow WHERE owner_id IS NULL ORDER BY created"
        )
    )
    assert sorted(questions) == sorted([*users, first, second])
    for about, answer in zip([*users, first, second], answers, strict=True):
        questions[about]["answer"] = answer
    ((named,),) = newer.execute("SELECT id_ FROM __reana.user_ WHERE username = 'user2'")
    questions[f"user {named}"]["answer"], other = (
        "user2@example.org",
        next(u for u in users if named not in u),
    )
    questions[other]["answer"] = "user2@EXAMPLE.org"  # still the same address
    file.write_text(json.dumps(questions))
    assert "2 questions wait" in target.bring(newer, "--decisions", str(file)).stderr
    kept = json.loads(file.read_text())[other]
    assert (kept["answer"], kept["problem"][:14]) == ("user2@EXAMPLE.org", "another answer")
    questions[other]["answer"] = "user1@example.org"
    file.write_text(json.dumps(questions))
    moved = target.bring(newer, "--decisions", str(file), "--report", str(root / "report"))
    assert counted(moved, "left_out")["workflow"] == 1
    assert moved.exit_code == 9  # what belongs to the run that is left out
    owner = session.scalar(sa.select(User.email).join(Workflow).where(Workflow.id_ == first.split()[1]))
    assert owner == "user5@example.org"


def test_services_that_work_here_are_not_overwritten(
    newer: ReanaDatabase, target: Target, session: orm.Session
) -> None:
    assert target.bring(newer).exit_code == 0
    run = session.scalars(sa.select(Workflow).where(Workflow.status == "queued").limit(1)).one()
    run.status = "pending"
    session.commit()
    refused = target.bring(newer)
    assert refused.exit_code == 11
    assert "a pass would take that back" in refused.stderr


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("UPDATE __reana.alembic_version SET version_num = 'b85c3e601de4'", 6, "reana-db 0.9.5 or 0.95.0a8"),
        ("UPDATE __reana.alembic_version SET version_num = '2e82f33ee37d'", 6, "install reana-db 0.95.0a8 "),
        ("UPDATE __reana.alembic_version SET version_num = 'a6c2120d5b2b'", 7, "of reana-db 0.95.0a13"),
        ("DROP TABLE __reana.alembic_version", 11, "no REANA database"),
    ],
)
def test_other_releases_are_told_what_to_upgrade_to(
    newer: ReanaDatabase, target: Target, change: str, code: int, words: str
) -> None:
    newer.execute(change)
    refused = target.bring(newer)
    assert (refused.exit_code, words in command_line.one_line(refused.stderr)) == (code, True)


def test_the_old_key_is_needed_and_never_shown(
    newer: ReanaDatabase, target: Target, root: Path, session: orm.Session
) -> None:
    before = target.contents()
    without = target.bring(newer, REANA_SECRET_KEY="")
    wrong = target.bring(newer, REANA_SECRET_KEY="another key")
    assert without.exit_code == wrong.exit_code == 12
    assert "decrypts none of its 16 tokens" in wrong.stderr
    assert target.contents() == before
    file = root / "old-key"
    file.write_text(f"{OLD_KEY}\n")
    moved = target.bring(
        newer, "--old-key-file", str(file), "--report", str(root / "report"), REANA_SECRET_KEY=""
    )
    assert moved.exit_code == 0
    shown = moved.output + wrong.output + (root / "report").read_text()
    for secret in (OLD_KEY, "another key", *newer.tokens.values()):
        assert secret not in shown
    assert "abc-def" not in session.scalar(
        sa.text("SELECT string_agg(a::text, '') FROM platform.audit_log AS a")
    )


def test_a_row_that_no_check_foresaw_keeps_no_other_back(
    newer: ReanaDatabase, target: Target, root: Path
) -> None:
    newer.execute(
        "UPDATE __reana.workflow SET input_parameters = '{\"n\": 1e200000}' WHERE id_ = md5('run7')::uuid"
    )
    moved = target.bring(newer, "--report", str(root / "report"), "--batch", "8")
    assert moved.exit_code == 9
    assert counted(moved, "written")["workflow"] == 59
    ((run,),) = newer.execute("SELECT md5('run7')::uuid")
    assert "value overflows numeric format" in reported(root / "report", "refused")[f"workflow {run}"]


AWKWARD = {
    "SET status = NULL": ("status", "created"),
    "SET restart = NULL": ("restart", "false"),
    "SET run_number_minor = NULL, run_number_major = 77": ("run_number_minor", "0"),
    "SET workspace_path = '/data//of/./a/run/'": ("workspace_path", "/data/of/a/run"),
    "SET status = 'finished', run_finished_at = NULL, run_started_at = NULL": ("run_finished_at", "updated"),
    "SET status = 'stopped', run_stopped_at = NULL, run_finished_at = updated": ("run_finished_at", None),
    "SET status = 'failed', run_started_at = '2030-01-01', run_finished_at = '2029-01-01'": (
        "run_finished_at",
        "2030-01-01 00:00:00+00",
    ),
    "SET status = 'running', run_started_at = NULL, run_finished_at = updated": ("run_finished_at", None),
    'SET reana_specification = \'{"a": "x\\u0000y\\\\u0000"}\'': ("specification", '{"a": "xy\\\\u0000"}'),
    "SET reana_specification = '[\"\\ud800\\ud801 \\ud83d\\ude00 \\ude00\"]'": ("specification", '[" 😀 "]'),
    "SET type_ = NULL": ("type_", "unknown"),
    "SET complexity = NULL": ("complexity", None),
    "SET run_started_at = '2024-07-01 12:00', status = 'running'": (
        "run_started_at",
        "2024-07-01 10:00:00+00",
    ),
}


def test_awkward_runs_are_mapped_as_the_page_says(
    newer: ReanaDatabase, target: Target, session: orm.Session
) -> None:
    for number, change in enumerate(AWKWARD):
        newer.execute(f"UPDATE __reana.workflow {change} WHERE id_ = md5('run{number}')::uuid")
    moved = target.bring(newer, "--time-zone", "Europe/Zurich")
    assert moved.exit_code == 0, moved.output
    session.execute(sa.text("SET timezone = 'UTC'"))
    for number, (change, (column, expected)) in enumerate(AWKWARD.items()):
        run = f"platform.workflow WHERE id_ = md5('run{number}')::uuid"
        query = f"SELECT {column}::text, updated::text FROM {run}"
        value, updated = session.execute(sa.text(query)).one()
        if change == "SET status = 'failed', run_started_at = '2030-01-01', run_finished_at = '2029-01-01'":
            expected = "2029-12-31 23:00:00+00"
        assert value == (updated if expected == "updated" else expected), change
    assert target.run("db", "check", "--deep").exit_code == 0


REFUSED = {
    "UPDATE __reana.workflow SET name = NULL WHERE id_ = md5('run1')::uuid": "it has no name",
    "UPDATE __reana.workflow SET run_number_major = 0 WHERE id_ = md5('run2')::uuid": "it has no run number",
    "UPDATE __reana.workflow SET workspace_path = 'x' WHERE id_ = md5('run3')::uuid": "its workspace path is",
    "UPDATE __reana.workspace_retention_rule SET retention_days = -1 WHERE id_ = md5('rule9')::uuid": "its d",
    "UPDATE __reana.interactive_session SET owner_id = NULL WHERE id_ = md5('session5')::uuid;"
    " DELETE FROM __reana.workflow_session WHERE session_id = md5('session5')::uuid": "it has no owner",
}


def test_what_cannot_be_mapped_is_named(newer: ReanaDatabase, target: Target, root: Path) -> None:
    for change in REFUSED:
        newer.execute(change)
    moved = target.bring(newer, "--report", str(root / "report"))
    assert moved.exit_code == 9
    refused = reported(root / "report", "refused")
    for reason in REFUSED.values():
        assert any(named.startswith(reason) for named in refused.values()), reason
    assert target.run("db", "check", "--deep").exit_code == 0


def test_of_several_tokens_the_newest_stays(
    newer: ReanaDatabase, target: Target, session: orm.Session, keys_of: Callable[[Target], None]
) -> None:
    ((user,),) = newer.execute("SELECT id_ FROM __reana.user_ WHERE username = 'user5'")
    newer.add_token(user, "active", "the newest", 50)
    newer.add_token(user, "requested", None, 51)
    newer.add_token(user, "requested", None, 52)
    assert target.bring(newer).exit_code == 0
    keys_of(target)
    assert str(tokens.authenticate(session, "the newest").user_id) == user
    statuses = session.execute(
        sa.text("SELECT status::text, count(*) FROM platform.user_token WHERE owner_id = :user GROUP BY 1"),
        {"user": user},
    )
    assert dict(map(tuple, statuses)) == {"active": 1, "requested": 1, "revoked": 2}


def test_times_beyond_python_s_are_brought_within(
    newer: ReanaDatabase, target: Target, root: Path, session: orm.Session
) -> None:
    for change in (
        "workflow SET created = '0044-03-15 BC', run_finished_at = 'infinity', status = 'finished'",
        "user_token SET created = '0044-03-15 BC', updated = 'infinity' WHERE status = 'active'",
        "audit_log SET created = '-infinity'",
        "user_workflow SET valid_until = '294276-12-31 23:59'",
        "workspace_retention_rule SET apply_on = NULL, status = 'active', retention_days = 2000000000",
        "service_logs SET event_time = '0001-01-01 BC'",
        "interactive_session SET updated = 'infinity'",
    ):
        newer.execute(f"UPDATE __reana.{change}")
    moved = target.bring(newer, "--time-zone", "America/New_York", "--report", str(root / "report"))
    assert moved.exit_code == 0, moved.output
    times = session.execute(sa.select(Workflow.created, Workflow.run_finished_at)).all()
    assert {(created.year, finished.year) for created, finished in times} == {(1, 9999)}
    session.rollback()
    told = {row.split()[0] for row, why in reported(root / "report", "transformed").items() if "years" in why}
    assert {"workflow", "user_token", "audit_log", "user_workflow", "service_log"} <= told
    assert target.run("db", "check", "--deep").exit_code == 0
    assert counted(target.bring(newer, "--time-zone", "America/New_York"), "written") == {}


@pytest.mark.parametrize(
    "details",
    ["""'{"n": ' || repeat('9', 5000) || '}'""", "repeat('[', 3000) || repeat(']', 3000)"],
    ids=["a long number", "deep"],
)
def test_audit_details_that_python_cannot_read_are_dropped(
    newer: ReanaDatabase, target: Target, root: Path, details: str
) -> None:
    newer.execute(f"UPDATE __reana.audit_log SET details = ({details})::json WHERE id_ = md5('audit1')::uuid")
    assert target.bring(newer, "--report", str(root / "report")).exit_code == 0
    dropped = "its details were too large or too deeply nested: they are dropped"
    assert dropped in reported(root / "report", "transformed").values()


def test_a_token_in_quotes_is_cut_from_audit_details(
    newer: ReanaDatabase, target: Target, session: orm.Session
) -> None:
    details = json.dumps({"sent": json.dumps({"token": "abc-def"})})
    newer.execute("UPDATE __reana.audit_log SET details = %s", details)
    assert target.bring(newer).exit_code == 0
    stored = session.scalar(sa.text("SELECT string_agg(a::text, '') FROM platform.audit_log AS a"))
    assert ("sent" in stored, "abc-def" in stored) == (True, False)


def test_characters_that_jsonb_has_no_place_for_are_found_behind_escaped_backslashes(
    newer: ReanaDatabase, target: Target, session: orm.Session
) -> None:
    text = r'"x\\ud83d\ude00\\\u0000"'  # the second half of the pair stands alone
    newer.execute("UPDATE __reana.job SET env_vars = %s WHERE id_ = md5('job7')::uuid", text)
    assert target.bring(newer).exit_code == 0
    stored = session.scalar(sa.text("SELECT environment #>> '{}' FROM platform.job WHERE job_name = 'step7'"))
    assert stored == r"x\ud83d" + "\\"


def test_a_log_is_moved_in_pieces_and_goes_with_its_size(
    newer: ReanaDatabase, target: Target, session: orm.Session
) -> None:
    lines = "SELECT string_agg(n || ' é', chr(10)) FROM generate_series(1, 300000) AS n"
    newer.execute(f"UPDATE __reana.workflow SET logs = ({lines}) WHERE id_ = md5('run8')::uuid")
    ((id_, text),) = newer.execute("SELECT id_, logs FROM __reana.workflow WHERE id_ = md5('run8')::uuid")
    assert target.bring(newer).exit_code == 0
    longest = sa.text("SELECT max(octet_length(data)) FROM platform.log_chunk")
    assert session.scalar(longest) == 1024 * 1024
    run = session.get(Workflow, id_)
    assert run is not None
    assert run.logs == text
    session.rollback()
    newer.execute("UPDATE __reana.workflow SET logs = ''; UPDATE __reana.job SET logs = NULL")
    assert target.bring(newer).exit_code == 0
    assert session.scalar(sa.text("SELECT count(*) FROM platform.log_size")) == 0


def test_what_was_exchanged_or_taken_over_moves_in_one_pass(newer: ReanaDatabase, target: Target) -> None:
    first, last = "00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000001"
    assert target.bring(newer).exit_code == 0
    for name, email in (("user3", "x"), ("user4", "user3@example.org"), ("user3", "user4@example.org")):
        newer.execute("UPDATE __reana.user_ SET email = %s WHERE username = %s", email, name)
    # Runs take the numbers of others that went, before and after them, and one run takes the jobs of another.
    for name, new in (("run59", first), ("run58", last)):
        old = f"md5('{name}')::uuid"
        newer.execute(
            f"UPDATE __reana.job SET workflow_uuid = md5('run1')::uuid WHERE workflow_uuid = {old};"
            "DELETE FROM __reana.workspace_retention_audit_log AS l"
            " USING __reana.workspace_retention_rule AS r"
            f" WHERE r.id_ = l.workspace_retention_rule_id AND r.workflow_id = {old};"
            f"DELETE FROM __reana.workspace_retention_rule WHERE workflow_id = {old};"
            f"DELETE FROM __reana.user_workflow WHERE workflow_id = {old};"
            f"DELETE FROM __reana.workflow_resource WHERE workflow_id = {old};"
            f"UPDATE __reana.workflow SET id_ = '{new}' WHERE id_ = {old}"
        )
    again = target.bring(newer, "--batch", "25")
    assert again.exit_code == 0, again.output
    assert counted(target.bring(newer), "written") == {}


def test_a_decided_owner_takes_no_number_from_another_run(
    newer: ReanaDatabase, target: Target, root: Path, session: orm.Session
) -> None:
    ((lowest, run, owner),) = newer.execute(
        "SELECT (SELECT min(id_::text) FROM __reana.workflow), id_, owner_id FROM __reana.workflow"
        " WHERE id_ = md5('run3')::uuid"
    )
    newer.execute(
        "UPDATE __reana.workflow AS w SET owner_id = NULL, name = r.name,"
        " run_number_major = r.run_number_major, run_number_minor = r.run_number_minor"
        " FROM __reana.workflow AS r WHERE w.id_ = %s AND r.id_ = %s",
        lowest,
        run,
    )
    (root / "decisions").write_text(json.dumps({f"workflow {lowest}": {"answer": owner}}))
    options = ("--decisions", str(root / "decisions"), "--report", str(root / "report"))
    assert target.bring(newer, *options).exit_code == 9
    assert reported(root / "report", "refused")[f"workflow {lowest}"] == "another run has its number"
    assert session.get(Workflow, run) is not None


def test_a_run_that_is_made_here_during_a_pass_stays(
    newer: ReanaDatabase, target: Target, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert target.bring(newer).exit_code == 0
    ((owner,),) = newer.execute("SELECT owner_id FROM __reana.workflow WHERE id_ = md5('run3')::uuid")

    def work_here(*_: Any) -> None:
        session.add(Workflow(name="made here", owner_id=owner, type_="serial", specification={}))
        session.commit()

    monkeypatch.setattr(moving, "create_resources", work_here)  # after the checks, before the first page
    refused = target.bring(newer)
    assert refused.exit_code == 11
    assert "a pass would take that back" in refused.stderr
    assert session.scalar(sa.select(sa.func.count()).where(Workflow.name == "made here")) == 1


def test_the_report_names_no_audit_row_as_removed(newer: ReanaDatabase, target: Target, root: Path) -> None:
    assert target.bring(newer).exit_code == 0
    assert target.run("guard", "allow", "workflow", "failed", "pending", "--reason", "again").exit_code == 0
    assert target.bring(newer, "--report", str(root / "report")).exit_code == 0
    assert reported(root / "report", "removed") == {}


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_connection_that_is_lost_ends_the_pass_in_one_line(
    newer: ReanaDatabase, target: Target, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []

    class Sql(moving.Sql):
        def copy(self, source: Any, session: orm.Session, keys: list[str]) -> int:
            if self.name == "job" and not lost:
                connection = source.connection if side == "source" else session.connection()
                lost.append(connection.scalar(sa.text("SELECT pg_backend_pid()")))
                newer.execute("SELECT pg_terminate_backend(%s, 5000)", lost[0])
            return super().copy(source, session, keys)

    monkeypatch.setattr(moving, "Sql", Sql)
    ended = target.bring(newer)
    assert lost
    assert ended.exit_code == 4, ended.output
    assert "the server ended the connection" in ended.stderr
    assert target.bring(newer).exit_code == 0


def test_a_table_that_may_not_be_read_is_named(newer: ReanaDatabase, target: Target) -> None:
    role = f"reader_{random.randrange(10**9)}"
    newer.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA __reana TO {role};"
        f"GRANT SELECT ON ALL TABLES IN SCHEMA __reana TO {role};"
        f"REVOKE SELECT ON __reana.job_cache FROM {role}"
    )
    uri = sa.make_url(newer.uri).set(username=role).render_as_string(hide_password=False)
    try:
        refused = target.run("import", "reana", "--json", REANA_SQLALCHEMY_DATABASE_URI=uri)
        assert (refused.exit_code, "permission denied for table job_cache" in refused.stderr) == (16, True)
        newer.execute(f"GRANT SELECT ON __reana.job_cache TO {role}")
        assert target.run("import", "reana", "--json", REANA_SQLALCHEMY_DATABASE_URI=uri).exit_code == 0
    finally:
        newer.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    "content",
    ["[[" * 50000, '{"a": {"answer": {"b": 1}}}', r'{"a": {"answer": "\ud800"}}', '{"a": 1}'],
    ids=["deep", "no text", "no character", "no answer"],
)
def test_a_file_that_holds_no_decisions_is_wrong_usage(
    newer: ReanaDatabase, target: Target, root: Path, content: str
) -> None:
    (root / "decisions").write_text(content)
    refused = target.bring(newer, "--decisions", str(root / "decisions"))
    assert refused.exit_code == 2
    assert "decisions" in command_line.one_line(refused.stderr)


def test_a_key_file_that_is_no_text_is_refused(newer: ReanaDatabase, target: Target, root: Path) -> None:
    (root / "key").write_bytes(b"\xff\xfe")
    assert target.bring(newer, "--old-key-file", str(root / "key")).exit_code == 12


def test_a_password_among_the_arguments_is_refused(target: Target) -> None:
    option = target.run("import", "reana", "--from", "postgresql://127.0.0.1:1/d?scram_client_key=secret")
    assert (option.exit_code, "secret" in option.output) == (2, False)
    for uri in ("postgresql://u:secret@127.0.0.1:1/d", "postgresql://127.0.0.1:1/d?password=secret"):
        refused = target.run("import", "reana", "--from", uri)
        assert (refused.exit_code, "secret" in refused.output) == (2, False)
        by_variable = target.run("import", "reana", REANA_SQLALCHEMY_DATABASE_URI=uri)
        assert (by_variable.exit_code, "secret" in by_variable.output) == (4, False)


def test_the_commands_of_the_page_run(newer: ReanaDatabase, target: Target, root: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "moving-from-reana.rst").read_text(encoding="utf-8")
    commands = re.findall(r"^ +\$ platform-db (import .*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        arguments = shlex.split(re.sub(r"\b(\w+\.jsonl?)\b", rf"{root}/\1", command))
        ran = target.run(*arguments, REANA_SQLALCHEMY_DATABASE_URI=newer.uri)
        assert ran.exit_code == 0, ran.output
    assert reported(root / "report.jsonl", "written") == {}  # the last pass found nothing new


@pytest.mark.soak
@pytest.mark.parametrize(
    "variable", ["PLATFORM_DB_TEST_REANA_0_95_PYTHON", "PLATFORM_DB_TEST_REANA_0_9_PYTHON"]
)
def test_what_reana_db_itself_stored_moves(
    variable: str,
    empty_database_uri: str,
    target: Target,
    session: orm.Session,
    keys_of: Callable[[Target], None],
) -> None:
    """Each names a Python: with reana-db 0.95.0a8 (SQLAlchemy < 2.1, setuptools < 81), or with 0.9.5."""
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} names no Python that has reana-db")
    filled = subprocess.run(
        [python, str(Path(__file__).with_name("reana_models.py")), "500"],
        env={"REANA_SQLALCHEMY_DATABASE_URI": empty_database_uri, "REANA_SECRET_KEY": OLD_KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == 0, filled.stderr
    moved = target.run("import", "reana", "--json", **{SOURCE_VARIABLE: empty_database_uri})
    assert moved.exit_code == 0, moved.output
    assert counted(moved, "written")["workflow"] == 500
    keys_of(target)
    active = json.loads(filled.stdout)
    assert len(active) == 3
    for user_id, value in active.items():
        assert str(tokens.authenticate(session, value).user_id) == user_id
    source = sa.create_engine(empty_database_uri)
    with source.connect() as connection:
        last = (
            "SELECT owner_id, max(run_number_major) FROM __reana.workflow WHERE NOT restart GROUP BY owner_id"
        )
        for owner_id, major in connection.exec_driver_sql(last):
            run = Workflow(name="analysis", owner_id=owner_id, type_="serial", specification={})
            session.add(run)
            session.flush()
            assert run.run_number == str(major + 1)
    source.dispose()
    session.rollback()
    for check in (("db", "check", "--deep"), ("audit", "seal"), ("audit", "verify")):
        assert target.run(*check).exit_code == 0
    again = target.run("import", "reana", "--json", **{SOURCE_VARIABLE: empty_database_uri})
    assert counted(again, "written") == {}
