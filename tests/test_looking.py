"""What only looks reads: it needs no write, lock or lease. A standby suffices, or the readers' role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import quota, settings
from platform_db.health.rows import list_keys, read_row
from platform_db.health.stats import read_stats
from platform_db.health.tables import read_tables
from platform_db.leases.tasks import lease
from platform_db.models import ResourceType, WorkspaceRetentionRule
from platform_db.retention.workspaces import apply_retention_rules
from platform_db.tenancy.privileges import Role
from tests.command_line import run
from tests.factories import make_run, make_user
from tests.tenants import login_engine, prepare_roles

Factory = sessionmaker[Session]

NOW = datetime.now(timezone.utc)
COMMANDS = [
    "quota cpu-usage-update --dry-run",
    "quota disk-usage-update --dry-run",
    "quota resource-usage-update --dry-run",
    "quota init-default-period --dry-run",
    "quota reconcile",
    "quota report --workflows",
    "retention apply --dry-run",
    "db check --deep",
    "db keys workflow",
    "db prune --older-than 0d --dry-run",
    "db stats",
    "db tables",
    "guard list",
    "audit list",
    "workflow list",
]
SETTINGS = {"PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS": "1"}


@pytest.fixture(autouse=True)
def _work(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Store a run of four hours whose figures are unknown, and whose retention rule is due."""
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings.reset_settings()
    owner = make_user(session, created=NOW - timedelta(days=100))
    workspace = tmp_path / "users" / str(owner.id_) / "w"
    workspace.mkdir(parents=True)
    (workspace / "a.tmp").write_bytes(b"x" * 5000)
    times = {"run_started_at": NOW - timedelta(hours=4), "run_finished_at": NOW}
    found = make_run(session, owner, status="finished", workspace_path=str(workspace), **times)
    session.add(
        WorkspaceRetentionRule(
            workflow_id=found.id_,
            workspace_files="*.tmp",
            retention_days=0,
            status="active",
            apply_on=NOW - timedelta(days=1),
        )
    )
    session.execute(
        sa.text("""UPDATE platform.user_resource SET quota_used = 3, quota_reserved = 4, quota_pruned = 2,
                   quota_period_months = NULL""")
    )
    session.commit()
    yield
    monkeypatch.undo()
    settings.reset_settings()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_looks_runs_on_a_read_only_server(
    database_uri: str, tmp_path: Path, command: str
) -> None:
    url = sa.make_url(database_uri)
    read_only = url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    done = run(
        read_only.render_as_string(hide_password=False),
        *command.split(),
        PLATFORM_DB_WORKSPACE_ROOT=str(tmp_path),
        **SETTINGS,
    )
    assert "read-only" not in done.output
    assert (done.exit_code == 0) is (command != "db check --deep"), done.output


def init_default_period(factory: Factory) -> None:
    with factory() as session:
        cpu = quota.get_default_quota_resource(session, ResourceType.cpu)
        assert len(quota.initialise_default_periods(session, cpu, dry_run=True)) == 1


def update_usage(factory: Factory) -> None:
    done = quota.update_usage(factory, dry_run=True)
    assert done.cpu is not None
    assert done.disk is not None
    assert (done.cpu.figures, done.cpu.totals, done.disk.changed) == (1, 1, 1)


def reconcile(factory: Factory) -> None:
    assert sorted(difference.what for difference in quota.reconcile(factory)) == [
        "reserved",
        "reserved",
        "reserved",
        "total",
        "total",
        "total",
        "workspace",
    ]


def apply_rules(factory: Factory) -> None:
    assert [rule.pattern for rule in apply_retention_rules(factory, dry_run=True).rules] == ["*.tmp"]


def look_inside(factory: Factory) -> None:
    with factory() as session:
        figures = {table.name: table for table in read_tables(session)}
        assert (figures["workflow"].rows, figures["workflow"].is_exact) == (1, True)
        (key,) = list_keys(session, "workflow").rows
        assert read_row(session, "workflow", key["id_"])["status"] == "finished"
        assert read_stats(session)["statuses"]["workflow"] == {"finished": 1}


LOOKS: list[Callable[[Factory], None]] = [
    init_default_period,
    update_usage,
    reconcile,
    apply_rules,
    look_inside,
]


@pytest.mark.parametrize("look", LOOKS)
def test_the_readers_role_may_look(engine: sa.Engine, look: Callable[[Factory], None]) -> None:
    prepare_roles(engine)
    login = login_engine(engine, "platform_test_reader", Role.readonly)
    look(sessionmaker(login))
    login.dispose()


@pytest.mark.parametrize("look", LOOKS)
def test_who_looks_waits_for_no_one_and_nothing_changes(
    session: Session, session_factory: Factory, look: Callable[[Factory], None]
) -> None:
    session.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
    session.execute(sa.text("SELECT FROM platform.user_resource FOR UPDATE"))
    patient = session_factory.kw["bind"].execution_options()

    @sa.event.listens_for(patient, "begin")
    def hurry(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")

    with (
        lease(session_factory, "disk-usage-update"),
        lease(session_factory, "cpu-usage-update"),
        lease(session_factory, "retention apply"),
    ):
        look(sessionmaker(patient))
    version = session.scalar(sa.text("SELECT is_called FROM platform.quota_version"))
    assert version is False


@pytest.mark.parametrize("months", [None, 1])
def test_a_dry_run_tells_what_the_run_does(
    session: Session, session_factory: Factory, months: int | None
) -> None:
    session.execute(
        sa.text("UPDATE platform.user_resource SET quota_period_months = :months"), {"months": months}
    )
    session.commit()
    found = [difference for difference in quota.reconcile(session_factory) if difference.what == "total"]
    looked = quota.update_cpu_usage(session_factory, dry_run=True)
    assert (looked.periods, looked.totals, looked.figures) == (int(months is not None), 1, 1)
    assert quota.update_cpu_usage(session_factory) == looked
    (cpu,) = (difference for difference in found if difference.resource == "processing time")
    used = session.scalar(sa.text("SELECT max(quota_used) FROM platform.user_resource WHERE quota_used > 3"))
    assert cpu.now == used
