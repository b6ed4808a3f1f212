"""The migrated database has what the models and the files of SQL say, as the server itself tells it."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import sqlalchemy as sa

from platform_db import database, schema
from platform_db.database.id_column import Id
from platform_db.models import Base
from platform_db.schema import compare, objects


def make_from_models(engine: sa.Engine) -> None:
    """Create the models' tables and the objects of the files, without any migration."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA platform")
        for statement in objects.before_tables():
            run(connection, statement)
        Base.metadata.create_all(connection)
        for table in Base.metadata.sorted_tables:
            if storage := table.info.get("storage"):
                run(connection, f"ALTER TABLE {table.fullname} SET ({storage})")
        for statement in objects.after_tables():
            run(connection, statement)


def run(connection: sa.Connection, statement: str) -> None:
    """Run a statement in which neither ``:`` nor ``%`` means a parameter."""
    connection.exec_driver_sql(statement.replace("%", "%%"))


def test_the_migrations_make_what_the_models_and_files_say(
    engine: sa.Engine, empty_database_uri: str
) -> None:
    other = database.create_engine(empty_database_uri)
    make_from_models(other)
    with other.connect() as models, engine.connect() as migrated:
        made, stored = compare.read_catalogue(models), compare.read_catalogue(migrated)
    other.dispose()
    assert {name: made.get(name) for name in {*made, *stored}} == stored


def test_the_expected_catalogue_is_that_of_a_migrated_database(engine: sa.Engine) -> None:
    expected = json.loads(files("platform_db.schema").joinpath(compare.CATALOGUE).read_text(encoding="utf-8"))
    with engine.connect() as connection:
        assert compare.read_catalogue(connection) == expected, "run: python -m platform_db.schema.compare"


def test_every_file_of_sql_is_used() -> None:
    names = {path.name.removesuffix(".sql") for path in files("platform_db.schema").joinpath("sql").iterdir()}
    assert names == {*objects.BEFORE_TABLES, *objects.AFTER_TABLES}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("ALTER TABLE platform.job DROP CONSTRAINT ck_job_finished_has_end", "missing constraint ck_job_fin"),
        ("ALTER TABLE platform.job ADD CHECK (job_name <> 'x')", "unknown constraint"),
        ("DROP INDEX platform.ix_workflow_in_progress", "missing index ix_workflow_in_progress"),
        ("CREATE INDEX own ON platform.job (job_name)", "unknown index own"),
        ("ALTER TABLE platform.job DISABLE TRIGGER guard_update", "altered trigger guard_update on job"),
        ("DROP TRIGGER guard_update ON platform.job", "missing trigger guard_update on job"),
        ("ALTER TABLE platform.workflow ALTER name DROP NOT NULL", "altered column workflow.name"),
        ("ALTER TABLE platform.workflow ADD COLUMN own text", "unknown column workflow.own"),
        ("ALTER FUNCTION platform.stamp_row() SECURITY DEFINER", "altered function stamp_row()"),
        ("CREATE TABLE platform.own ()", "unknown table own"),
        ("ALTER TABLE platform.job DISABLE ROW LEVEL SECURITY", "altered table job"),
        ("DROP POLICY tenant ON platform.job", "missing policy tenant on job"),
        ("ALTER TYPE platform.run_status ADD VALUE 'own'", "altered type run_status"),
        ("ALTER TABLE platform.job SET (fillfactor = 50)", "altered table job"),
        ("CREATE RULE own AS ON DELETE TO platform.job DO INSTEAD NOTHING", "unknown rule own on job"),
        ("ALTER SEQUENCE platform.history_number CYCLE MAXVALUE 5", "altered sequence history_number"),
        ('ALTER TABLE platform.job ALTER job_name TYPE text COLLATE "C"', "altered column job.job_name"),
        ("CREATE DOMAIN platform.own AS text", "unknown domain own"),
        ("CREATE STATISTICS platform.own ON status, deleted FROM platform.job", "unknown statistics own"),
        ("CREATE VIEW platform.own AS SELECT 1", "unknown rule _RETURN on own"),
        ("ALTER TABLE platform.note OWNER TO pg_monitor", "altered table note"),
        ("ALTER SEQUENCE platform.history_number OWNER TO pg_monitor", "altered table history_number"),
        ("ALTER FUNCTION platform.stamp_row() OWNER TO pg_monitor", "altered function stamp_row()"),
    ],
)
def test_a_difference_is_found(engine: sa.Engine, change: str, difference: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(change)
    with engine.connect() as connection:
        assert any(found.startswith(difference) for found in compare.differences(connection))


@pytest.mark.parametrize("setting", ["search_path = platform, public", "quote_all_identifiers = on"])
def test_settings_of_the_role_make_no_difference(engine: sa.Engine, database_uri: str, setting: str) -> None:
    with engine.begin() as connection:
        name = database.normalise_url(database_uri).database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET {setting}")
    engine.dispose()
    schema.require_agreement(database_uri)
    with engine.connect() as connection:
        before = connection.exec_driver_sql("SHOW search_path").scalar_one()
        assert compare.differences(connection) == []
        assert connection.exec_driver_sql("SHOW search_path").scalar_one() == before


def test_every_tenant_table_starts_its_keys_with_the_tenant() -> None:
    for mapper in Base.registry.mappers:
        table = mapper.local_table
        if "owner_id" not in table.columns:
            continue
        owner = table.c["owner_id"]
        assert not owner.nullable
        assert isinstance(owner.type, Id)
        assert next(iter(table.primary_key.columns)) is owner, table.name
        for constraint in table.constraints:
            if isinstance(constraint, sa.ForeignKeyConstraint) and len(constraint.columns) > 1:
                assert owner in constraint.columns.values(), constraint.name
                assert constraint.ondelete != "SET NULL"


def test_every_foreign_key_of_a_tenant_table_has_an_index_to_delete_by(engine: sa.Engine) -> None:
    """Without one, deleting a parent scans the child table."""
    unindexed = """
        SELECT conrelid::regclass::text || ' ' || conname FROM pg_constraint AS c
        WHERE contype = 'f' AND connamespace = 'platform'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_index
            WHERE indrelid = conrelid
              AND (string_to_array(indkey::text, ' ')::int2[])[1:cardinality(conkey)] @> conkey
        )"""
    with engine.connect() as connection:
        missing = set(connection.exec_driver_sql(unindexed).scalars())
    # Resources are never deleted, and sharing finds its user by an index of its own.
    assert {name for name in missing if "resource_id" not in name} == set()
