"""What REANA's code relies on beside single rows: settings, the session, test suites, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from platform_db import schema, sessions
from platform_db.settings import reset_settings
from reana_db import __version__, database, statuses, utils
from reana_db.cli import cli
from reana_db.config import derived_key
from reana_db.models import Base, Resource, ResourceType, RunStatus, User, UserTokenType, Workflow


def in_an_environment(code: str, **environment: str) -> Any:
    """Return what code prints as JSON, in a process with these variables."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import json, reana_db.config as config; {code}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


@pytest.fixture
def configure(session: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what sets variables of the environment, and lets this process read them."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        reset_settings()
        if "PLATFORM_DB_URI" in variables:
            session.remove()
            sessions.reset_engine()

    return set_variables


# -- settings

SETTINGS = """
from platform_db.settings import get_settings
from platform_db.database import database_url
found = get_settings()
print(json.dumps([database_url().render_as_string(hide_password=False), found.model_dump(mode="json")]))
"""


def settings(**environment: str) -> Any:
    return in_an_environment(f"exec({SETTINGS!r})", **environment)


def test_reanas_own_defaults_hold() -> None:
    url, found = settings()

    assert url == "postgresql+psycopg2://reana:reana@reana-db.default:5432/reana"
    assert (found["pool_size"], found["max_overflow"]) == (5, 2)
    assert found["secret_key"] is None
    assert found["default_quota_cpu_limit"] is None
    assert found["workflow_termination_quota_update_policy"] == []
    assert found["periodic_resource_quota_update_policy"] is False
    assert found["workspace_root"] == ["/var/reana"]


def test_reanas_settings_are_platform_dbs() -> None:
    url, found = settings(
        REANA_COMPONENT_PREFIX="mine",
        REANA_INFRASTRUCTURE_KUBERNETES_NAMESPACE="reana",
        REANA_DB_PASSWORD="p@ss/word",
        REANA_DB_PORT="6432",
        REANA_SECRET_KEY="any text",
        REANA_DEFAULT_QUOTA_CPU_LIMIT="36000000",
        REANA_WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY="cpu,disk",
        REANA_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY="true",
        REANA_MAX_CONCURRENT_BATCH_WORKFLOWS="50",
        SQLALCHEMY_POOL_SIZE="1",
        SHARED_VOLUME_PATH="/data",
        WORKSPACE_PATHS='["/mnt/eos:/eos"]',
    )

    assert url == "postgresql+psycopg2://reana:p%40ss%2Fword@mine-db.reana:6432/reana"
    assert found["secret_key"] is not None
    assert found["default_quota_cpu_limit"] == 36_000_000
    assert found["workflow_termination_quota_update_policy"] == ["cpu", "disk"]
    assert found["periodic_resource_quota_update_policy"] is True
    assert found["max_concurrent_workflows"] == 50
    assert found["pool_size"] == 1
    assert found["workspace_root"] == ["/eos", "/data"]


def test_what_platform_db_is_told_wins() -> None:
    url, found = settings(
        PLATFORM_DB_URI="postgresql://other@host/db", PLATFORM_DB_POOL_SIZE="9", SQLALCHEMY_POOL_SIZE="1"
    )

    assert url == "postgresql+psycopg2://other@host/db"
    assert found["pool_size"] == 9


def test_the_package_connects_to_nothing_when_it_is_imported() -> None:
    code = """
import reana_db.database, reana_db.cli
from platform_db import sessions
print(json.dumps(sessions._engine is None))
"""
    assert in_an_environment(f"exec({code!r})") is True


# -- names


def test_the_version_meets_what_services_require() -> None:
    assert __version__.startswith("0.95.0a8+")


def test_statuses_have_reanas_numbers() -> None:
    names = ("created", "running", "finished", "failed", "deleted", "stopped", "queued", "pending")
    for number, name in enumerate(names):
        assert RunStatus(number) is RunStatus[name] is RunStatus(name)
    with pytest.raises(ValueError, match="8"):
        RunStatus(8)
    assert (statuses.ServiceStatus, UserTokenType.reana) == (RunStatus, UserTokenType.access)


def test_run_numbers_are_split() -> None:
    assert [utils.split_run_number(number) for number in ("2", "2.10", 3.5)] == [(2, 0), (2, 10), (3, 5)]
    with pytest.raises(ValueError, match="invalid"):
        utils.split_run_number("1.2.3")


# -- the session


def test_the_session_belongs_to_the_thread(session: Any, user: User) -> None:
    assert database.Session() is session()
    assert database.Session.object_session(user) is session()
    assert not session().autoflush
    assert database.engine is sessions.get_engine()


def test_times_are_local_and_have_no_zone(
    session: Any, create: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(status=RunStatus.running)
    stored = session.scalar(sa.text("SELECT run_started_at FROM platform.workflow"))

    assert run.run_started_at.tzinfo is None
    assert run.run_started_at == stored.astimezone().replace(tzinfo=None)
    assert abs(datetime.now() - run.created) < timedelta(minutes=1)


def test_a_test_suite_makes_and_drops_the_tables(session: Any, empty_database_uri: str) -> None:
    engine = sa.create_engine(empty_database_uri)
    for _ in range(2):
        Base.metadata.create_all(bind=engine)
        with engine.connect() as connection:
            assert schema.status(connection).state is schema.SchemaState.current
        Base.metadata.drop_all(bind=engine)
        assert not sa.inspect(engine).has_schema("platform")
    engine.dispose()


# -- quotas


def test_what_a_run_took_is_counted_when_it_ends(
    session: Any, user: User, create: Callable[..., Any], policy: Callable[..., None], tmp_path: Path
) -> None:
    policy("cpu", "disk")
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    run = create(status=RunStatus.running, workspace_path=str(tmp_path))
    run.run_started_at = datetime.now() - timedelta(seconds=90)
    session.commit()

    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)

    assert user.get_quota_usage()["cpu"]["usage"]["raw"] >= 90_000
    assert user.get_quota_usage()["disk"]["usage"]["raw"] >= 100_000

    (tmp_path / "data").unlink()
    run.status = RunStatus.deleted
    session.commit()
    assert user.get_quota_usage()["disk"]["usage"]["raw"] < 100_000


def test_nothing_is_counted_where_the_policies_say_so(
    session: Any, user: User, create: Callable[..., Any], policy: Callable[..., None]
) -> None:
    policy()
    run = create(status=RunStatus.running)
    run.run_started_at = datetime.now() - timedelta(seconds=90)
    session.commit()
    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)

    assert utils.update_workflow_cpu_quota(run) is None
    assert utils.store_workflow_disk_quota(run) is None
    utils.update_workflows_cpu_quota()
    utils.update_users_cpu_quota()
    assert user.get_quota_usage()["cpu"]["usage"]["raw"] == 0


def test_an_end_that_is_rolled_back_counts_nothing(
    session: Any, user: User, create: Callable[..., Any], policy: Callable[..., None]
) -> None:
    policy("cpu")
    run = create(status=RunStatus.running)
    run.status = RunStatus.finished
    session.flush()
    session.rollback()
    session.commit()

    assert run.status == RunStatus.running
    assert run.get_quota_usage() == {}


# -- the command

OPTIONS = {
    "init": set(),
    "migrate-secret-key": {"--old-key"},
    "alembic init": set(),
    "alembic revision": {
        *("-m", "--message", "--autogenerate", "--no-autogenerate", "--sql", "--head", "--splice"),
        *("--branch-label", "--version-path", "--rev-id", "--depends-on"),
    },
    "alembic upgrade": {"--sql", "--tag"},
    "alembic downgrade": {"--sql", "--tag"},
    "alembic current": {"-v", "--verbose"},
    "alembic history": {"-r", "--rev-range", "-v", "--verbose", "-i", "--indicate-current"},
    "quota create-default-resources": set(),
    "quota resource-usage-update": set(),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_command_has_reanas_groups_and_options(command: str) -> None:
    found: Any = cli
    for name in command.split():
        found = found.commands[name]

    assert {o for p in found.params for o in (*p.opts, *p.secondary_opts)} >= OPTIONS[command]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments)


def test_a_database_is_set_up_as_the_chart_does_it(
    session: Any, empty_database_uri: str, configure: Callable[..., None]
) -> None:
    configure(PLATFORM_DB_URI=empty_database_uri)

    for command in ("init", "alembic init", "quota create-default-resources"):
        ran = invoke(*command.split())
        assert ran.exit_code == 0, (command, ran.output)
    again = invoke("quota", "create-default-resources")
    names = [resource.name for resource in session.query(Resource).filter_by(type_=ResourceType.cpu)]
    session.remove()
    sessions.reset_engine()

    assert again.exit_code == 1
    assert names == ["processing time"]


def test_the_cronjob_counts(
    session: Any,
    user: User,
    create: Callable[..., Any],
    policy: Callable[..., None],
    configure: Callable[..., None],
    tmp_path: Path,
) -> None:
    configure(PLATFORM_DB_WORKSPACE_ROOT=str(tmp_path), PLATFORM_DB_SHARED_VOLUME_PATH=str(tmp_path))
    policy(periodic=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data").write_bytes(b"x" * 100_000)
    run = create(status=RunStatus.running, workspace_path=str(tmp_path / "run"))
    run.run_started_at = datetime.now() - timedelta(seconds=90)
    session.commit()
    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)

    ran = invoke("quota", "resource-usage-update")

    assert ran.exit_code == 0, ran.output
    for row in (run, user):
        assert row.get_quota_usage()["cpu"]["usage"]["raw"] >= 90_000
        assert row.get_quota_usage()["disk"]["usage"]["raw"] >= 100_000


def test_processing_time_is_counted_even_where_the_storage_is_missing(
    session: Any,
    create: Callable[..., Any],
    policy: Callable[..., None],
    configure: Callable[..., None],
    tmp_path: Path,
) -> None:
    configure(PLATFORM_DB_WORKSPACE_ROOT=str(tmp_path / "missing"))
    policy(periodic=True)
    run = create(status=RunStatus.running, workspace_path=str(tmp_path / "missing" / "run"))
    run.run_started_at = datetime.now() - timedelta(seconds=90)
    session.commit()
    Workflow.update_workflow_status(session, run.id_, RunStatus.finished)

    ran = invoke("quota", "resource-usage-update")

    assert ran.exit_code == 17, ran.output
    assert run.get_quota_usage()["cpu"]["usage"]["raw"] >= 90_000


def test_a_new_secret_key_takes_the_place_of_the_old_one(
    session: Any, configure: Callable[..., None]
) -> None:
    configure(PLATFORM_DB_SECRET_KEY=derived_key("old"))
    user = User(email="ada@example.org", access_token="a token")
    session.add(user)
    session.commit()
    configure(PLATFORM_DB_SECRET_KEY=derived_key("new"))

    ran = invoke("migrate-secret-key", "--old-key", "old")

    assert ran.exit_code == 0, ran.output
    assert user.access_token == "a token"


def test_an_error_is_one_line(configure: Callable[..., None]) -> None:
    configure(PLATFORM_DB_URI="postgresql://nobody@127.0.0.1:1/nowhere")

    ran = invoke("alembic", "current")

    assert ran.exit_code == 4
    assert "nothing listens there" in ran.output
