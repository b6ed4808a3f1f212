"""The schema keeps the rules that let it be distributed over several machines; it takes no Citus to see."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import sqlalchemy as sa

from platform_db import database, errors, schema
from platform_db.cluster import distribute, read_status
from platform_db.database.distribution import _gives_rows, _template
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import add_note, whole_history
from platform_db.models import Base
from platform_db.schema.placement import (
    LOCAL,
    REFERENCE,
    SEQUENCES,
    Placement,
    cluster_statements,
    expected_when_distributed,
    placements,
)
from platform_db.tenancy.privileges import Role
from platform_db.testing.factories import make_run, make_user
from tests.command_line import run
from tests.distribution_rules import broken_functions, broken_keys, broken_triggers
from tests.tenants import login_engine, prepare_roles

CATALOGUE: dict[str, str] = json.loads(files("platform_db.schema").joinpath("catalogue.json").read_text())
PLACED = placements()


def test_each_table_has_its_place() -> None:
    assert PLACED.keys() == {table.name for table in Base.metadata.tables.values()}
    assert not REFERENCE.keys() & LOCAL.keys()
    assert {*REFERENCE, *LOCAL} < PLACED.keys()
    for table, column in SEQUENCES.values():
        assert PLACED[table] is Placement.distributed
        assert column in Base.metadata.tables[f"platform.{table}"].columns


def test_the_schema_keeps_the_rules() -> None:
    assert list(broken_keys(Base.metadata, PLACED)) == []
    assert list(broken_triggers(CATALOGUE, PLACED)) == []
    assert list(broken_functions(CATALOGUE, PLACED)) == []


def changed(table: str, *items: sa.schema.SchemaItem) -> sa.MetaData:
    """Return the models' tables with another item in one of them."""
    metadata = sa.MetaData(schema="platform")
    for each in Base.metadata.sorted_tables:
        each.to_metadata(metadata)
    for item in items:
        metadata.tables[f"platform.{table}"].append_constraint(item)  # type: ignore[arg-type]
    return metadata


@pytest.mark.parametrize(
    ("table", "constraint", "finding"),
    [
        ("job", sa.UniqueConstraint("job_name"), "job: job_name is unique without the owner"),
        (
            "note",
            sa.ForeignKeyConstraint(["entity_id"], ["platform.job.id_"]),
            "note: a foreign key to job is without the owner",
        ),
        (
            "note",
            sa.ForeignKeyConstraint(["topic"], ["platform.prune_mark.name"]),
            "note: a foreign key to prune_mark, which is local",
        ),
        (
            "task_lease",
            sa.ForeignKeyConstraint(["name"], ["platform.note.topic"]),
            "task_lease: a foreign key to note, which is distributed",
        ),
        (
            "note",
            sa.ForeignKeyConstraint(
                ["owner_id", "entity_id"], ["platform.job.owner_id", "platform.job.id_"], ondelete="SET NULL"
            ),
            "note: a foreign key to job changes the row",
        ),
    ],
)
def test_a_key_that_breaks_a_rule_is_found(table: str, constraint: sa.Constraint, finding: str) -> None:
    assert list(broken_keys(changed(table, constraint), PLACED)) == [finding]


def test_a_trigger_that_every_node_would_fire_is_found() -> None:
    name = "trigger add_owner_limit on user_"
    mutated = {**CATALOGUE, name: CATALOGUE[name].replace("platform.is_coordinator()", "true")}
    assert list(broken_triggers(mutated, PLACED)) == [name]


@pytest.mark.parametrize(
    ("function", "before", "after", "finding"),
    [
        ("forget()", "owner_id = owner AND ", "", "no owner in: "),
        ("record_status()", "platform.next_number(", "nextval(", "a sequence of its own on each node"),
        (
            "count_storage(the_owner uuid, change bigint)",
            "statement_timestamp()",
            "clock_timestamp()",
            "a volatile function in an UPDATE",
        ),
        ("record_sharing()", "share record", "share platform.user_workflow", "a variable of a table's type"),
    ],
)
def test_a_function_that_breaks_a_rule_is_found(function: str, before: str, after: str, finding: str) -> None:
    name = f"function {function}"
    mutated = {**CATALOGUE, name: CATALOGUE[name].replace(before, after)}
    found = list(broken_functions(mutated, PLACED))
    assert found
    assert all(finding in each for each in found)


def test_what_a_distributed_database_is_to_have() -> None:
    there = {**CATALOGUE}
    for constraint, table in (("uq_job_id_", "job"), ("uq_audit_sealed_number", "audit_sealed")):
        del there[f"constraint {constraint} on {table}"]
    expected = expected_when_distributed(CATALOGUE, there)
    assert "constraint uq_job_id_ on job" not in expected
    assert "constraint uq_workflow_id_ on workflow" not in expected
    assert expected["index uq_job_id_"] == "CREATE INDEX uq_job_id_ ON platform.job USING btree (id_)"
    assert expected["constraint fk_call_job_owner_id_parent_id on call_job"].endswith("INITIALLY DEFERRED")
    # What the coordinator answers by itself is another function there.
    assert expected["function is_coordinator()"] not in CATALOGUE["function is_coordinator()"]
    assert len(cluster_statements()) == 9


@pytest.mark.parametrize(
    ("statement", "gives"),
    [
        ("SELECT 1", True),
        ("  -- RETURNING\n UPDATE a SET b = 'RETURNING'", False),
        ("WITH a AS (SELECT 1) DELETE FROM b USING a RETURNING b.c", True),
        ("WITH a AS (DELETE FROM b RETURNING c) INSERT INTO d SELECT c FROM a", False),
        ("WITH a AS (INSERT INTO b VALUES (')') RETURNING c) SELECT c FROM a", True),
        ("SELECT f(';'); INSERT INTO a VALUES (1) RETURNING b", False),
    ],
)
def test_whether_a_statement_gives_rows(statement: str, gives: bool) -> None:
    assert _gives_rows(statement) is gives


def test_a_template_has_a_place_for_each_value() -> None:
    assert _template("SELECT %s, 7 %% 2 LIKE '%%a', %s", ["%s", 1]) == "SELECT %1$s, 7 %% 2 LIKE '%%a', %2$s"
    assert _template("%(b)s %(a)s %(b)s", {"a": "%(b)s", "b": "platform.job"}) == "%2$s %1$s %2$s"


def test_without_citus_it_says_so(configured_database: str) -> None:
    for act in (distribute, read_status):
        with pytest.raises(errors.CitusMissing, match="has no Citus"):
            act()
    for command in ("distribute", "status"):
        result = run(configured_database, "cluster", command)
        assert (result.exit_code, result.output.count("\n")) == (21, 1)


def test_a_service_writes_on_before_the_roles_are_granted_again(empty_database_uri: str) -> None:
    schema.upgrade(empty_database_uri, "0014")
    engine = database.create_engine(empty_database_uri)
    prepare_roles(engine)
    service = login_engine(engine, "platform_test_service_of_before", Role.service)
    schema.upgrade(empty_database_uri)
    with PlatformSession(service) as session, session.begin():
        run_ = make_run(session, make_user(session), status="queued")
        add_note(session, run_, "topic", "message")
        assert len(whole_history(session, run_)) == 2
    service.dispose()
    engine.dispose()
