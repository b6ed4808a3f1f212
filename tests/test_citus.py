"""The database on several machines: every public call answers as on one server, and no row is lost.

It runs where ``PLATFORM_DB_TEST_CITUS_URI`` names a database on the coordinator of a Citus cluster, whose
nodes take the same login. Each process makes one database there: none can be made from a template.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import URL, make_url

from platform_db import cluster, database, errors, schema, settings
from platform_db.audit import prune_audit_log, record_action, seal_audit_log, verify_audit_log
from platform_db.database.distribution import execute_everywhere, execute_for
from platform_db.database.session import PlatformSession
from platform_db.database.sqlstates import DEADLOCK_DETECTED, sqlstate_of
from platform_db.health.deep_check import check_deeply
from platform_db.jobs import find_cached_result, store_result
from platform_db.lifecycle import transition, whole_history
from platform_db.logs import append_log, read_log, read_new_log
from platform_db.models import Base, User, Workflow
from platform_db.schema.placement import Placement, placements
from platform_db.settings.secret_keys import generate_key
from platform_db.tenancy import tenant_scope
from platform_db.tenancy.privileges import Role, role_name
from platform_db.testing import databases, factories
from platform_db.testing.plugin import migrate
from platform_db.testing.server import RunServer
from platform_db.workflows import cancel, create_workflow
from tests.command_line import run, start
from tests.every_table import fill
from tests.public_calls import CALLS, run_calls
from tests.tenants import prepare_roles

VARIABLE = "PLATFORM_DB_TEST_CITUS_URI"

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no cluster"),
    pytest.mark.timeout(600),
]

# Calls that answer otherwise than on one server, and why: at most one in fifty.
OTHERWISE: dict[str, str] = {}


@pytest.fixture(scope="module")
def nodes() -> list[URL]:
    """Give the URLs of the coordinator and of the other nodes."""
    coordinator = make_url(os.environ[VARIABLE]).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(coordinator)
    with engine.connect() as connection:
        places = connection.execute(
            sa.text("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0 ORDER BY groupid")
        ).all()
    engine.dispose()
    return [coordinator, *(coordinator.set(host=host, port=port) for host, port in places)]


@pytest.fixture(scope="module")
def make_cluster(nodes: list[URL]) -> Iterator[Any]:
    """Give a function that returns the URL of an empty database on all nodes, which know each other."""
    name = f"platform_test_{secrets.token_hex(6)}"
    servers = [node.render_as_string(hide_password=False) for node in nodes]

    def drop() -> None:
        with contextlib.suppress(sa.exc.OperationalError):  # There is none yet.
            engine = sa.create_engine(nodes[0].set(database=name), isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql("CALL citus_cleanup_orphaned_resources()")
            engine.dispose()
        for server in servers:
            databases.drop_database(server, name)

    def make() -> str:
        drop()
        for server in servers:
            databases.create_database(server, name)
        coordinator, *others = (node.set(database=name) for node in nodes)
        for node in (*others, coordinator):
            engine = sa.create_engine(node, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql("CREATE EXTENSION citus")
                if node is coordinator:
                    here = sa.text("SELECT citus_set_coordinator_host(:host, :port)")
                    connection.execute(here, {"host": node.host, "port": node.port or 5432})
                    for other in others:
                        there = {"host": other.host, "port": other.port or 5432}
                        connection.execute(sa.text("SELECT citus_add_node(:host, :port)"), there)
            engine.dispose()
        return coordinator.render_as_string(hide_password=False)

    yield make
    drop()


@pytest.fixture(scope="module")
def secret_key_of_all() -> Iterator[None]:
    """Set a secret key and what else the calls need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLATFORM_DB_SECRET_KEY", generate_key())
        patch.setenv("PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS", "1")
        settings.reset_settings()
        yield
    settings.reset_settings()


@pytest.fixture(scope="module")
def cluster_uri(make_cluster: Any, secret_key_of_all: None) -> str:
    """Give a distributed database without users."""
    uri: str = make_cluster()
    migrate(uri)
    cluster.distribute(uri)
    return uri


@pytest.fixture
def cluster_engine(cluster_uri: str) -> Iterator[sa.Engine]:
    """Give an engine on the distributed database; afterwards that has no rows of a tenant any more."""
    engine = database.create_engine(cluster_uri)
    yield engine
    tables = ", ".join(
        f"platform.{table}"
        for table in placements()
        if table != "resource" and not table.startswith("audit_")
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL client_min_messages = error")
        connection.exec_driver_sql(f"TRUNCATE {tables} CASCADE")
    engine.dispose()


@pytest.fixture
def on_cluster(cluster_engine: sa.Engine) -> orm.sessionmaker[PlatformSession]:
    """Give a maker of sessions on the distributed database."""
    return orm.sessionmaker(cluster_engine, class_=PlatformSession)


@pytest.fixture(scope="module")
def answers(
    cluster_uri: str,
    postgres_server: RunServer,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give what each call answers on one server, and on several machines."""
    root = tmp_path_factory.mktemp("workspaces")
    (root / ".platform-db-root").touch()
    name = f"{postgres_server.prefix}{os.getpid()}_calls"
    plain = databases.create_database(postgres_server.uri, name, template=template_database)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(root))
        settings.reset_settings()
        for uri in (plain, cluster_uri):
            engine = database.create_engine(uri)
            found.append(run_calls(engine))
            engine.dispose()
    settings.reset_settings()
    databases.drop_database(postgres_server.uri, name)
    yield found[0], found[1]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_answers_as_on_one_server(answers: tuple[dict[str, Any], dict[str, Any]], call: str) -> None:
    on_one, on_several = answers
    if call in OTHERWISE:
        assert on_several[call] != on_one[call], f"it answers alike now: {OTHERWISE[call]}"
    else:
        assert on_several[call] == on_one[call]


def test_few_calls_answer_otherwise() -> None:
    assert OTHERWISE.keys() <= CALLS.keys()
    assert len(OTHERWISE) * 50 <= len(CALLS)


def test_a_second_run_has_nothing_to_do(cluster_uri: str) -> None:
    assert cluster.distribute(cluster_uri) == []
    status = cluster.read_status(cluster_uri)
    assert status.is_complete
    assert {table.name: table.placement for table in status.tables} == placements()
    schema.require_agreement(cluster_uri)


def test_on_the_command_line(cluster_uri: str, cluster_engine: sa.Engine) -> None:
    prepare_roles(cluster_engine)
    result = run(cluster_uri, "cluster", "distribute")
    assert (result.exit_code, result.output) == (0, "nothing to do: all is where it should be\n")
    result = run(cluster_uri, "cluster", "status")
    assert result.exit_code == 0
    assert "user_token" in result.output
    assert run(cluster_uri, "db", "check", "--deep").exit_code == 0
    assert run(cluster_uri, "alembic", "upgrade").exit_code == 0


def test_a_revision_adds_a_table_that_refers_to_a_distributed_one(cluster_uri: str) -> None:
    with schema.connect(cluster_uri) as connection, schema.migrating(connection):
        with connection.begin():
            connection.exec_driver_sql(
                "CREATE TABLE platform.later (owner_id uuid, run_id uuid, PRIMARY KEY (owner_id, run_id),"
                " FOREIGN KEY (owner_id, run_id) REFERENCES platform.workflow ON DELETE CASCADE)"
            )
            connection.exec_driver_sql("ALTER TABLE platform.job ADD COLUMN later text")
        with connection.begin():
            connection.exec_driver_sql(
                "SELECT create_distributed_table('platform.later', 'owner_id',"
                " colocate_with => 'platform.job')"
            )
        with connection.begin():
            connection.exec_driver_sql("DROP TABLE platform.later")
            connection.exec_driver_sql("ALTER TABLE platform.job DROP COLUMN later")
    schema.require_agreement(cluster_uri)


def test_another_owner_is_on_another_shard_and_all_rows_of_one_are_together(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    with on_cluster() as session, session.begin():
        owners = [factories.make_user(session).id_ for _ in range(12)]
        for owner in owners:
            factories.make_run(session, owner, status="finished", jobs=["finished"])
    with on_cluster() as session:
        places = session.execute(
            sa.text("""
                SELECT get_shard_id_for_distribution_column('platform.workflow', id_) AS shard,
                       get_shard_id_for_distribution_column('platform.note', id_)
                       - get_shard_id_for_distribution_column('platform.workflow', id_) AS apart
                FROM platform.user_
                """)
        ).all()
    assert len({place.shard for place in places}) > 1
    assert len({place.apart for place in places}) == 1


def test_what_a_watcher_reads_is_in_order_over_all_nodes(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    from platform_db.events import read_events

    with on_cluster() as session, session.begin():
        runs = [factories.make_run(session, status="queued") for _ in range(6)]
        names = {run.id_ for run in runs}
    deadline = time.monotonic() + 10
    seen: list[Any] = []
    cursor: Any = "beginning"
    while len(seen) < 12 and time.monotonic() < deadline:
        with on_cluster() as session:
            page = read_events(session, cursor, limit=5, entities=["workflow"])
        seen += [event for event in page.events if event.entity_id in names]
        cursor = page.cursor
    assert [event.number for event in seen] == sorted(event.number for event in seen)
    assert len({(event.entity_id, event.kind) for event in seen}) == len(seen) == 12


def test_an_open_transaction_holds_events_back_and_none_is_missed(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    from platform_db.events import read_events

    with on_cluster() as session, session.begin():
        first, second = (factories.make_run(session).id_ for _ in range(2))
    time.sleep(0.3)
    with on_cluster() as session:
        begin = read_events(session, "latest").cursor
    with on_cluster() as late:
        transition(late, first, "queued", model=Workflow)
        with on_cluster() as session, session.begin():
            transition(session, second, "queued", model=Workflow)
        time.sleep(0.3)
        with on_cluster() as session:
            before = read_events(session, begin)
        late.commit()
    time.sleep(0.3)
    with on_cluster() as session:
        after = read_events(session, before.cursor)
    assert before.events == []
    assert [event.entity_id for event in after.events] == [first, second]


def test_a_tenant_sees_no_other_tenants_rows_on_any_shard(
    cluster_engine: sa.Engine, on_cluster: orm.sessionmaker[PlatformSession]
) -> None:
    prepare_roles(cluster_engine)
    with on_cluster() as session, session.begin():
        owners = [factories.make_run(session).owner_id for _ in range(6)]
    seen = sa.text("SELECT owner_id FROM platform.workflow")
    changed = sa.text("UPDATE platform.workflow SET type_ = 'theft' RETURNING owner_id")
    with tenant_scope(cluster_engine, owners[0]) as scoped:
        connection = scoped.connection()
        for statement in (seen, changed):
            rows = execute_everywhere(connection, statement)
            assert [row.owner_id for row in rows] == [owners[0]]


def test_a_late_chunk_of_a_log_is_not_missed(on_cluster: orm.sessionmaker[PlatformSession]) -> None:
    with on_cluster() as session, session.begin():
        run_id = factories.make_run(session, status="running").id_
    with on_cluster() as late:
        append_log(late, run_id, "late\n", model=Workflow)
        with on_cluster() as session, session.begin():
            append_log(session, run_id, "first\n", model=Workflow)
        with on_cluster() as session:
            before = read_new_log(session, run_id, model=Workflow)
        late.commit()
    with on_cluster() as session:
        after = read_new_log(session, run_id, before.cursor, model=Workflow)
    assert (before.data, after.data) == (b"first\n", b"late\n")


def test_followers_miss_nothing_of_writers_that_commit_late(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    from platform_db.events import read_events

    with on_cluster() as session, session.begin():
        run_ = factories.make_run(session, status="running")
        key = (run_.owner_id, run_.id_)
        owners = [factories.make_user(session).id_ for _ in range(4)]
    time.sleep(0.3)
    with on_cluster() as session:
        begin = read_events(session, "latest").cursor
    stop, failures = threading.Event(), list[Exception]()
    lines, runs = list[str](), list[Any]()

    def write(number: int, owner: Any) -> None:
        try:
            for count in range(30):
                with on_cluster() as session, session.begin():
                    append_log(session, key, f"{number}.{count}\n", model=Workflow)
                    new = create_workflow(session, owner, "late", {}, type_="serial").id_
                    time.sleep((number + count) % 4 * 0.1)
                lines.append(f"{number}.{count}")
                runs.append(new)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=pair) for pair in enumerate(owners)]
    for writer in writers:
        writer.start()
    threading.Thread(
        target=lambda: ([writer.join() for writer in writers], time.sleep(1), stop.set())
    ).start()
    cursor, read, seen = None, "", list[Any]()
    is_last = False
    while not is_last:
        is_last = stop.is_set()
        with on_cluster() as session:
            new_log = read_new_log(session, key, cursor, model=Workflow)
            cursor, read = new_log.cursor, read + new_log.data.decode()
            page = read_events(session, begin, entities=["workflow"])
            begin = page.cursor
            seen += [event.entity_id for event in page.events if event.kind == "created"]
    assert failures == []
    assert sorted(read.split()) == sorted(lines)
    assert sorted(seen) == sorted(runs)
    assert len(runs) == 120


def test_months_of_logs_are_made_and_cleared_on_all_nodes(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    with on_cluster() as session, session.begin():
        runs = [factories.make_run(session, status="finished") for _ in range(3)]
        keys = [(run.owner_id, run.id_) for run in runs]
        for key in keys:
            append_log(session, key, "old\n", model=Workflow)
    this_month = sa.text("SELECT max(name) FROM platform.log_partitions() WHERE month <= now()")
    clear = sa.text("SELECT pieces FROM platform.clear_log_partition(:name, '0')")
    with on_cluster() as session, session.begin():
        later = factories.make_run(session, id_=uuid.UUID("027ac10b-58cc-4372-a567-0e02b2c3d479"))
        append_log(session, (later.owner_id, later.id_), "later\n", model=Workflow)
        assert session.scalar(sa.text("SELECT platform.add_log_partitions(4, most_bytes => 100)")) == 0
        assert session.scalar(sa.text("SELECT platform.add_log_partitions(4)")) == 1
        assert session.scalar(clear, {"name": session.scalar(this_month)}) == 3
    with on_cluster() as session, session.begin():
        append_log(session, keys[0], "again\n", model=Workflow)
        assert [read_log(session, key, model=Workflow) for key in keys] == [b"again\n", b"", b""]


# What could be taken for a table, a place in a template, a type, or the end of a text.
HOSTILE = [
    "platform.job AS x",
    "SELECT * FROM platform.workflow; --",
    "%s %(owner)s %1$s %% %",
    'it\'s "quoted", (a,b)',
    "back\\slash \\' \\x",
    "\\x00ff",
    "\\xno hex",
    "0191e3a0-0000-7000-8000-000000000000",
    "2026-01-01T00:00:00+00:00",
    "line\nline\ttab ü",
    "NULL",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_comes_back_as_it_was_given(
    on_cluster: orm.sessionmaker[PlatformSession], value: str
) -> None:
    name = value or "empty"
    with on_cluster() as session, session.begin():
        owner = factories.make_user(session).id_
        run_ = create_workflow(session, owner, name, {"text": value}, type_="serial", idempotency_key=name)
        again = create_workflow(session, owner, name, {"text": value}, type_="serial", idempotency_key=name)
        append_log(session, (owner, run_.id_), value, model=Workflow)
        append_log(session, (owner, run_.id_), value.encode() + b"\xff", model=Workflow)
        job = factories.make_run(session, owner, status="running", jobs=["running"]).jobs[0]
        store_result(session, job.id_, f"parameters {value}", name, name)
        found = find_cached_result(session, owner, f"parameters {value}", name)
        transition(session, run_.id_, "queued", model=Workflow, reason=name)
        cancel(session, run_.id_, reason=name)
    assert (again.id_, again.is_new) == (run_.id_, False)
    assert found is not None
    assert found.result_path == name
    with on_cluster() as session:
        stored = session.scalars(sa.select(Workflow).where(Workflow.id_ == run_.id_)).one()
        assert (stored.name, stored.specification) == (name, {"text": value})
        assert read_log(session, run_.id_, model=Workflow) == value.encode() * 2 + b"\xff"
        assert [entry.reason for entry in whole_history(session, stored)][-2:] == [name, name]


def test_rows_have_the_types_that_the_driver_gives_them(cluster_engine: sa.Engine) -> None:
    statement = sa.text("""
        SELECT CAST(:text AS text) AS text, NULL AS none, id_, ARRAY[id_, NULL] AS ids, 7::bigint AS number,
               1.50 AS amount, 0.1::double precision AS ratio, true AS yes, ARRAY['a,"b', NULL, ''] AS texts,
               '{"a": [1, "\\u00fc"]}'::jsonb AS json, interval '1 day 2 hours' AS span,
               timestamptz '2026-01-01 12:00:00.000001+02' AS at, date '2026-01-01' AS day,
               inet '192.0.2.1' AS address, CAST(:bytes AS bytea) AS bytes, '' AS empty, ROW(1, 'a') AS pair
        FROM platform.user_ WHERE id_ = :owner
        UNION ALL
        SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        """)
    with PlatformSession(cluster_engine) as session, session.begin():
        owner = factories.make_user(session).id_
    given = {"owner": owner, "text": "platform.user_ %s", "bytes": bytes(range(256))}
    with cluster_engine.connect() as connection:
        here = connection.execute(statement, given)
        there = execute_for(connection, owner, statement, given)
        assert list(there.keys()) == list(here.keys())
        for one, other in zip(here, there, strict=True):
            assert [type(value) for value in other] == [type(value) for value in one]
            assert [_comparable(value) for value in other] == [_comparable(value) for value in one]


def _comparable(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def test_racing_writers_rows_are_sealed_once_each_by_racing_sealers(
    on_cluster: orm.sessionmaker[PlatformSession],
) -> None:
    seal_audit_log(on_cluster)
    with on_cluster() as session, session.begin():
        owners = [factories.make_user(session).id_ for _ in range(6)]
    stop, written, sealed, failures = threading.Event(), set[str](), list[int](), list[Exception]()

    def write(number: int) -> None:
        count = 0
        try:
            while not stop.is_set():
                with on_cluster() as session:
                    names = [f"{number}.{count}.{each}" for each in range(3)]
                    for each, name in enumerate(names):
                        owner = owners[(number + count + each) % len(owners)]
                        record_action(session, owner, "grant_token", {"name": name})
                    if count % 5 == 4:
                        session.rollback()
                    else:
                        session.commit()
                        written.update(names)
                count += 1
        except Exception as error:
            failures.append(error)

    def seal() -> None:
        try:
            while not stop.is_set():
                with contextlib.suppress(errors.AlreadyRunning):
                    sealed.append(seal_audit_log(on_cluster).rows)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=seal) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(10)
    stop.set()
    for thread in threads:
        thread.join()
    sealed.append(seal_audit_log(on_cluster).rows)
    assert failures == []
    assert len(written) > 100
    with on_cluster() as session:
        named = session.scalars(sa.text("SELECT details->>'name' FROM platform.audit_sealed"))
        assert sorted(name for name in named if name) == sorted(written)
        found = verify_audit_log(session)
        assert found.unsealed_rows == 0
        assert found.rows >= sum(sealed) >= len(written)


def test_audit_rows_go_by_retention_alone(on_cluster: orm.sessionmaker[PlatformSession]) -> None:
    with on_cluster() as session, session.begin():
        owners = [factories.make_user(session).id_ for _ in range(4)]
        for owner in owners:
            record_action(session, owner, "grant_token")
    for table in ("audit_inbox", "audit_sealed"):
        for where in ("true", f"owner_id = '{owners[0]}'"):
            with on_cluster() as session, pytest.raises(errors.AppendOnly):
                session.execute(sa.text(f"DELETE FROM platform.{table} WHERE {where}"))
        seal_audit_log(on_cluster)
    assert prune_audit_log(on_cluster, timedelta(0)) > 0
    with on_cluster() as session:
        assert session.scalars(sa.text("SELECT id_ FROM platform.audit_sealed")).all() == []
        assert verify_audit_log(session).removed_rows > 0


def test_a_shard_that_moves_under_load_loses_nothing(
    cluster_engine: sa.Engine, on_cluster: orm.sessionmaker[PlatformSession]
) -> None:
    prepare_roles(cluster_engine)  # Where another database has made them, the deep check looks at them here.
    with on_cluster() as session:
        waits = session.scalars(
            sa.text("SELECT result FROM run_command_on_all_nodes('SHOW synchronous_commit')")
        )
        assert set(waits) == {"on"}, "Citus does not move what is committed and not written yet"
    with on_cluster() as session, session.begin():
        owners = [factories.make_user(session).id_ for _ in range(4)]
        runs = [factories.make_run(session, owner, status="running").id_ for owner in owners]
    stop, written, failures = threading.Event(), dict.fromkeys(runs, 0), list[Exception]()

    def write(owner: Any, run_id: Any) -> None:
        while not stop.is_set():
            try:
                with on_cluster() as session, session.begin():
                    append_log(session, (owner, run_id), f"{written[run_id]}\n", model=Workflow)
                    create_workflow(session, owner, "load", {}, type_="serial")
                written[run_id] += 1
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in zip(owners, runs, strict=True)]
    for thread in threads:
        thread.start()
    try:
        with cluster_engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for owner in owners:
                _move(connection, owner)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with on_cluster() as session:
        for owner, run_id in zip(owners, runs, strict=True):
            lines = read_log(session, run_id, model=Workflow).decode().split()
            assert lines == [str(number) for number in range(written[run_id])]
            count = sa.select(sa.func.count(), sa.func.max(Workflow.run_number_major)).where(
                Workflow.owner_id == owner, Workflow.name == "load"
            )
            assert tuple(session.execute(count).one()) == (written[run_id], written[run_id])
        assert check_deeply(session) == []
    assert failures == []
    assert min(written.values()) > 5


def _move(connection: sa.Connection, owner: Any) -> None:
    """Move the owner's shards to another node; where it deadlocks with a writer, Citus may end it."""
    for _ in range(10):
        try:
            connection.execute(_MOVE, {"owner": owner})
            return
        except sa.exc.OperationalError as error:
            if sqlstate_of(error) != DEADLOCK_DETECTED:
                raise
    raise AssertionError("writers have kept a shard from being moved")


_MOVE = sa.text("""
    SELECT citus_move_shard_placement(
        shard.shardid, here.nodename, here.nodeport, there.nodename, there.nodeport, 'force_logical')
    FROM (
        SELECT get_shard_id_for_distribution_column('platform.workflow', CAST(:owner AS uuid)) AS shardid
    ) AS shard
    JOIN pg_dist_placement AS placement USING (shardid)
    JOIN pg_dist_node AS here ON here.groupid = placement.groupid
    CROSS JOIN LATERAL (
        SELECT * FROM pg_dist_node AS node
        WHERE node.groupid NOT IN (0, here.groupid) AND node.shouldhaveshards LIMIT 1
    ) AS there
    """)


def test_a_full_database_is_distributed_with_all_its_rows_however_often_it_is_killed(
    make_cluster: Any, secret_key_of_all: None
) -> None:
    uri = make_cluster()
    migrate(uri)
    engine = database.create_engine(uri)
    with PlatformSession(engine) as session:
        fill(session)
    before = _read_rows(engine)
    assert all(before.values())
    assert run(uri, "cluster", "distribute", "--dry-run").output.startswith("ALTER DATABASE")
    for statements in (1, 150, 300, 450):
        process = start(uri, "cluster", "distribute")
        assert process.stdout is not None
        for _ in range(statements):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert _read_rows(engine) == before
    engine.dispose()
    both = [start(uri, "cluster", "distribute") for _ in range(2)]
    ended = sorted(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sum("create_distributed_table('platform.workflow'" in output for output in ended) == 1
    engine = database.create_engine(uri)
    assert _read_rows(engine) == before
    with PlatformSession(engine) as session:
        assert session.scalars(sa.select(User.email)).all()
    engine.dispose()
    assert cluster.read_status(uri).is_complete

    schema.downgrade(uri, "0015")
    schema.upgrade(uri)
    engine = database.create_engine(uri)
    assert _read_rows(engine) == before
    engine.dispose()
    assert cluster.read_status(uri).is_complete


def _read_rows(engine: sa.Engine) -> dict[str, list[str]]:
    """Return the rows of each table, as they are stored."""
    rows = {}
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            stored = sa.select(*map(sa.literal_column, table.columns.keys())).select_from(table)
            found = connection.execute(stored)
            rows[table.name] = sorted(repr([_comparable(value) for value in row]) for row in found)
    return rows


@pytest.fixture
def own_roles(
    make_cluster: Any, nodes: list[URL], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Give the variable for roles that no node has yet; they go with the database that they are for."""
    own = {"PLATFORM_DB_ROLE_PREFIX": f"test_{secrets.token_hex(4)}"}
    monkeypatch.setenv("PLATFORM_DB_ROLE_PREFIX", own["PLATFORM_DB_ROLE_PREFIX"])
    settings.reset_settings()
    names = ", ".join(map(role_name, Role))
    yield own
    monkeypatch.undo()
    settings.reset_settings()
    make_cluster()  # An empty database: a role that has privileges in one cannot go.
    for node in nodes:
        engine = sa.create_engine(node, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("SET citus.enable_ddl_propagation = off")
            connection.exec_driver_sql(f"DROP ROLE IF EXISTS {names}")
        engine.dispose()


def test_in_the_order_of_the_manual_while_a_service_writes(
    make_cluster: Any, nodes: list[URL], secret_key_of_all: None, own_roles: dict[str, str]
) -> None:
    uri = make_cluster()
    for command in ("alembic upgrade", "roles create", "roles grant"):
        assert run(uri, *command.split(), **own_roles).exit_code == 0
    engine = database.create_engine(uri)
    with PlatformSession(engine) as session, session.begin():
        owners = [factories.make_user(session).id_ for _ in range(6)]
    with PlatformSession(engine) as session, session.begin():
        session.execute(sa.text("LOCK TABLE platform.user_ IN ROW EXCLUSIVE MODE"))
        process = start(uri, "cluster", "distribute", **own_roles)
        time.sleep(4)
        for owner in owners:
            factories.make_run(session, owner, status="queued")
    engine.dispose()
    assert process.communicate()[1].count("trying again") > 0
    assert process.returncode == 0
    for command in ("roles grant", "db check --deep"):
        assert run(uri, *command.split(), **own_roles).exit_code == 0
    engine = database.create_engine(uri)
    tenant = role_name(Role.tenant)
    for owner in owners:
        with tenant_scope(engine, owner) as scoped:
            assert scoped.scalars(sa.select(Workflow.owner_id)).all() == [owner]
    engine.dispose()
    with_rows = {"nobody": 0, **dict.fromkeys(map(str, owners), 0)}
    for node in nodes[1:]:
        engine = sa.create_engine(node.set(database=make_url(uri).database))
        with engine.connect() as connection:
            connection.exec_driver_sql("SET citus.override_table_visibility = off")
            shards = connection.scalars(_SHARDS).all()
            connection.exec_driver_sql(f"SET ROLE {tenant}")
            for who in with_rows:
                connection.exec_driver_sql(f"SET platform.user_id = '{'' if who == 'nobody' else who}'")
                for shard in shards:
                    found = connection.exec_driver_sql(f"SELECT owner_id FROM {shard}").scalars().all()
                    assert {str(owner) for owner in found} <= {who}
                    with_rows[who] += len(found)
        engine.dispose()
    assert with_rows.pop("nobody") == 0
    assert min(with_rows.values()) > 1


_SHARDS = sa.text("""
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = 'platform'::regnamespace AND relkind = 'r'
      AND relname ~ '^(workflow|row_event|status_change|note|audit_inbox)_[0-9]+$'
    """)


def test_every_table_but_the_listed_ones_is_distributed() -> None:
    assert sum(where is Placement.distributed for where in placements().values()) > 40
