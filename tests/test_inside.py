"""Looking inside: what tables there are, which keys they have, and what a row holds."""

from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.cursors import read_all
from platform_db.health import tables
from platform_db.health.rows import WITHHELD, list_keys, read_row
from platform_db.health.tables import read_tables, table_of
from platform_db.lifecycle.transitions import transition
from platform_db.models import Base, InteractiveSession, Job, Resource, RunCounter
from platform_db.tenancy.privileges import Role
from tests.command_line import one_line, run
from tests.factories import make_guarded, make_run, make_user
from tests.tenants import login_engine, make_tenant, prepare_roles

OWNERS = [uuid.UUID(f"01890000-0000-7000-8000-{n:012}") for n in range(3)]


@pytest.fixture
def jobs(session: Session) -> list[dict[str, str]]:
    """Store jobs of three owners, and give their keys in order."""
    for owner_id in OWNERS:
        found = make_run(session, make_user(session, id_=owner_id))
        session.add_all([Job(workflow_id=found.id_) for _ in range(3)])
    session.commit()
    keys = session.execute(sa.select(Job.owner_id, Job.id_).order_by(Job.owner_id, Job.id_))
    return [{"owner_id": str(owner_id), "id_": str(id_)} for owner_id, id_ in keys]


def figures_of(session: Session, name: str) -> tables.TableFigures:
    (found,) = (table for table in read_tables(session) if table.name == name)
    return found


def test_tables_are_listed_with_their_rows_and_bytes_and_age(
    session: Session, database_uri: str, jobs: list[dict[str, str]]
) -> None:
    found = json.loads(run(database_uri, "db", "tables", "--json").stdout)

    assert {table["name"] for table in found} == {table.name for table in Base.metadata.sorted_tables}
    assert [table["size"] for table in found] == sorted((table["size"] for table in found), reverse=True)
    (job,) = (table for table in found if table["name"] == "job")
    first = session.scalars(sa.select(Job.created).order_by(Job.id_).limit(1)).one()
    size = session.scalar(sa.text("SELECT pg_total_relation_size('platform.job')"))
    assert job == {"name": "job", "rows": 9, "is_exact": True, "size": size, "oldest": first.isoformat()}
    (line,) = (line for line in run(database_uri, "db", "tables").stdout.splitlines() if line[:4] == "job ")
    assert line.split()[:2] == ["job", "9"]


def test_rows_are_counted_up_to_a_bound_and_estimated_beyond(
    session: Session, database_uri: str, jobs: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGEST_COUNT", 8)
    session.execute(sa.text("ANALYZE platform.job"))

    assert figures_of(session, "job").rows == 9
    assert not figures_of(session, "job").is_exact
    session.commit()
    assert "job" in run(database_uri, "db", "tables").stdout
    assert " ~9 " in run(database_uri, "db", "tables").stdout
    assert figures_of(session, "workflow").is_exact


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 100])
def test_keys_come_in_order_a_page_at_a_time(
    session: Session, jobs: list[dict[str, str]], limit: int
) -> None:
    pages = read_all(lambda cursor: list_keys(session, "job", limit=limit, cursor=cursor))
    assert list(pages) == jobs


def test_the_command_says_how_to_go_on(database_uri: str, jobs: list[dict[str, str]]) -> None:
    first = run(database_uri, "db", "keys", "job", "--limit", "5", "--json")
    cursor = first.stderr.split()[-1]
    second = run(database_uri, "db", "keys", "job", "--limit", "5", "--cursor", cursor, "--json")

    assert json.loads(first.stdout) + json.loads(second.stdout) == jobs
    assert second.stderr == ""
    lines = run(database_uri, "db", "keys", "job").stdout.splitlines()
    assert [line.split() for line in lines] == [["OWNER", "ID", "ID"], *(list(key.values()) for key in jobs)]
    assert run(database_uri, "db", "keys", "note").stdout == "none\n"


def test_a_prefix_is_of_the_key(session: Session, jobs: list[dict[str, str]]) -> None:
    def found(prefix: str, table: str = "job") -> list[dict[str, str]]:
        return list(list_keys(session, table, prefix=prefix).rows)

    owner, id_ = jobs[4].values()
    assert found(owner) == found(f"{owner}/") == jobs[3:6]
    assert found("0189") == jobs
    assert found(owner[:-1]) == jobs
    assert found(f"{owner}/{id_}") == [jobs[4]]
    assert jobs[4] in found(f"{owner}/{id_[:20]}")
    assert found("ffff") == []


def test_a_prefix_may_have_texts_and_numbers(session: Session) -> None:
    owner = make_user(session, id_=OWNERS[0])
    for name in ("fit", "fit/a%b", "fits", "plot"):
        make_run(session, owner, name=name)
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(RunCounter)) >= 4

    def found(prefix: str) -> list[str]:
        return [key["name"] for key in list_keys(session, "run_counter", prefix=prefix).rows]

    assert sorted(found(f"{owner.id_}/fit")) == ["fit", "fit/a%b", "fits"]
    assert found(f"{owner.id_}/fit/0") == ["fit"]
    assert found(f"{owner.id_}/fit%2Fa%25b/0") == ["fit/a%b"]
    assert found(f"{owner.id_}/fit/7") == []


@pytest.mark.parametrize(
    ("table", "prefix", "said"),
    [
        ("job", "analysis", "OWNER_ID/ID"),
        ("job", "analysis/0189", "owner_id takes a whole id, not 'analysis'"),
        ("run_counter", f"{OWNERS[0]}/fit/x", "run_number_major takes a number, not 'x'"),
    ],
)
def test_what_no_key_begins_with_is_refused(database_uri: str, table: str, prefix: str, said: str) -> None:
    result = run(database_uri, "db", "keys", table, "--prefix", prefix)
    assert result.exit_code == errors.InvalidIdentifier.exit_code
    assert said in one_line(result.stderr)


@pytest.mark.parametrize(("name", "said"), [("workflows", "workflow?"), ("zzz", "db tables")])
@pytest.mark.parametrize("command", [("keys",), ("get", "0189")])
def test_a_table_that_is_not_there_is_answered_with_one_that_is(
    database_uri: str, command: tuple[str, ...], name: str, said: str
) -> None:
    result = run(database_uri, "db", command[0], name, *command[1:])
    assert result.exit_code == errors.NotFound.exit_code
    assert said in one_line(result.stderr)


@pytest.mark.parametrize("prefix", ["", f"{OWNERS[1]}/", f"{OWNERS[1]}/0189"])
def test_keys_are_read_off_the_primary_key(session: Session, jobs: list[dict[str, str]], prefix: str) -> None:
    session.execute(sa.text("SET LOCAL enable_seqscan = off"))
    session.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
    plans = []

    def explain(connection, cursor, statement, parameters, context, executemany) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    sa.event.listen(session.connection(), "before_cursor_execute", explain)
    cursor = list_keys(session, "job", limit=1, prefix=prefix and str(OWNERS[1])).cursor
    if prefix == "":
        list_keys(session, "job", limit=1, cursor=cursor)

    assert plans
    for plan in plans:
        assert "using pk_job on job" in plan
        assert "Sort" not in plan


def test_a_row_is_named_by_its_id_the_beginning_of_it_or_its_key(
    session: Session, database_uri: str, jobs: list[dict[str, str]]
) -> None:
    owner, id_ = jobs[4].values()

    assert read_row(session, "job", id_)["id_"] == id_
    assert read_row(session, "job", owner, id_) == read_row(session, "job", id_)
    assert read_row(session, "job", f"{owner}/{id_}") == read_row(session, "job", id_)
    assert list(read_row(session, "job", id_)) == [column.name for column in table_of("job").columns]
    assert read_row(session, "owner_limit", owner)["claims"] == 0
    assert json.loads(run(database_uri, "db", "get", "user", owner, "--json").stdout)["id_"] == owner
    with pytest.raises(errors.AmbiguousIdentifier, match=id_):
        read_row(session, "job", "0")
    with pytest.raises(errors.NotFound, match="there is no job ffff"):
        read_row(session, "job", "ffff")
    with pytest.raises(errors.NotFound, match="there is no lease"):
        read_row(session, "lease", owner, id_)
    for key in ((owner,), (owner, id_, id_)):
        with pytest.raises(errors.InvalidIdentifier, match="OWNER_ID ENTITY_ID"):
            read_row(session, "lease", *key)
    with pytest.raises(errors.InvalidIdentifier, match="entity_id takes a whole id, not '0189'"):
        read_row(session, "lease", owner, "0189")
    with pytest.raises(errors.InvalidIdentifier, match="true or false"):
        read_row(session, "audit_chain", "maybe")


def test_every_listed_key_gets_its_row(session: Session) -> None:
    tenant = make_tenant(session, "ada")
    transition(session, make_run(session, make_user(session)), "queued")
    session.commit()
    assert tenant
    for table in Base.metadata.sorted_tables:
        if table.name == "secret_digest":
            continue
        for key in list_keys(session, table.name).rows:
            found = read_row(session, table.name, *map(str, key.values()))
            assert {name: found[name] for name in key} == key


def test_no_secret_is_shown(session: Session, database_uri: str, secret_key: str) -> None:
    owner = make_user(session)
    notebook = InteractiveSession(name="n", path="/n", owner_id=owner.id_, secret=str(uuid.uuid4()))
    session.add(notebook)
    token = make_guarded(session, owner, "user_token", "active")
    session.commit()

    shown = read_row(session, "interactive_session", str(notebook.id_), full=True)
    secrets = ("secret", "secret_digest", "other_secret_digests")
    assert {name for name, value in shown.items() if value == WITHHELD} == set(secrets)
    kept = read_row(session, "user_token", str(token.id_), full=True)
    assert {name for name, value in kept.items() if value != WITHHELD} == {"owner_id", "id_"}
    for command in ("keys", "get"):
        result = run(database_uri, "db", command, "secret_digest", *["0"] * (command == "get"))
        assert result.exit_code == errors.Refused.exit_code
        assert "withheld" in one_line(result.stderr)


def test_the_readers_role_sees_all_but_what_is_kept_from_it(
    session: Session, engine: sa.Engine, secret_key: str
) -> None:
    make_tenant(session, "ada")
    ours = {table.name: table for table in read_tables(session)}
    notebook = list_keys(session, "interactive_session").rows[0]["id_"]
    whole = read_row(session, "interactive_session", notebook)
    session.commit()
    prepare_roles(engine)
    login = login_engine(engine, "platform_test_reader", Role.readonly)
    with Session(login) as reading:
        theirs = {table.name: table for table in read_tables(reading)}
        assert read_row(reading, "interactive_session", notebook) == whole
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            list_keys(reading, "user_token")
    login.dispose()
    assert theirs.keys() == ours.keys()
    assert {name for name, table in theirs.items() if not table.is_exact} == {
        "audit_chain",
        "secret_digest",
        "user_token",
    }
    assert theirs["workflow"].oldest == ours["workflow"].oldest


def test_a_long_value_is_cut_with_its_size_and_shown_whole_when_asked(
    session: Session, database_uri: str
) -> None:
    specification = {"note": "é" * 10_000}
    found = make_run(session, make_user(session), specification=specification)
    session.commit()

    shown = json.loads(run(database_uri, "db", "get", "workflow", str(found.id_), "--json").stdout)
    whole = json.loads(run(database_uri, "db", "get", "workflow", str(found.id_), "--full", "--json").stdout)

    assert len(shown["specification"]) < 4200
    assert shown["specification"].endswith("é… (20012 bytes in all)")
    assert whole["specification"] == specification
    assert {**shown, "specification": None} == {**whole, "specification": None}


def test_every_value_that_the_database_can_hold_is_shown(session: Session) -> None:
    owner = make_user(session)
    session.execute(
        sa.text("UPDATE platform.owner_limit SET served_at = '200000-01-01' WHERE owner_id = :id"),
        {"id": owner.id_},
    )
    Resource.initialise_default_resources(session)
    shown = read_row(session, "owner_limit", str(owner.id_))
    assert shown["served_at"].startswith("200000-01-01")
    assert shown["starts_until"] == "-infinity"
