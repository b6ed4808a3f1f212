"""The migrated database and the models are the same, as the server's own catalogues tell it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from platform_db import database
from platform_db.identifiers import SCHEMA
from platform_db.models import Base
from platform_db.schema import ddl

CATALOGUES = {
    "columns": """
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
               pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
          AND NOT attisdropped""",
    "tables": """
        SELECT relname, relkind, reloptions, relrowsecurity, relforcerowsecurity, relpersistence
        FROM pg_class WHERE relnamespace = 'platform'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'platform'::regnamespace""",
    "indexes": """
        SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid), indisunique, indisvalid
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = 'platform'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(pg_trigger.oid), tgenabled
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = 'platform'::regnamespace AND NOT tgisinternal""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid), prosecdef, provolatile, proacl
        FROM pg_proc WHERE pronamespace = 'platform'::regnamespace""",
    "enumerations": """
        SELECT typname, array_agg(enumlabel ORDER BY enumsortorder)
        FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid
        WHERE typnamespace = 'platform'::regnamespace GROUP BY typname""",
    "policies": """
        SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check
        FROM pg_policies WHERE schemaname = 'platform'""",
    "grants": """
        SELECT relname, relacl::text FROM pg_class
        WHERE relnamespace = 'platform'::regnamespace AND relacl IS NOT NULL""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'platform'",
}


@pytest.fixture
def model_catalogues(empty_database_uri: str) -> dict[str, set[Any]]:
    """Create the models' tables and objects, without any migration, and read the catalogues."""
    engine = database.create_engine(empty_database_uri)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        for statement in ddl.before_tables():
            run(connection, statement)
        Base.metadata.create_all(connection)
        for statement in ddl.after_tables():
            run(connection, statement)
    catalogues = read_catalogues(engine)
    engine.dispose()
    return catalogues


def run(connection: sa.Connection, statement: str) -> sa.CursorResult[Any]:
    """Run a statement in which neither ``:`` nor ``%`` means a parameter."""
    return connection.exec_driver_sql(statement.replace("%", "%%"))


def read_catalogues(engine: sa.Engine) -> dict[str, set[Any]]:
    with engine.connect() as connection:
        return {
            name: {
                tuple(map(str, row)) for row in run(connection, query) if "alembic_version" not in str(row)
            }
            for name, query in CATALOGUES.items()
        }


def test_the_migrations_make_what_the_models_say(
    engine: sa.Engine, model_catalogues: dict[str, set[Any]]
) -> None:
    migrated = read_catalogues(engine)
    for name, rows in model_catalogues.items():
        assert rows == migrated[name], name
    assert migrated["triggers"]
    assert migrated["functions"]


@pytest.mark.parametrize(
    ("change", "catalogue"),
    [
        ("ALTER TABLE platform.job DROP CONSTRAINT ck_job_finished_has_end", "constraints"),
        ("DROP INDEX platform.ix_workflow_in_progress", "indexes"),
        ("ALTER TABLE platform.job DISABLE TRIGGER guard_job_update", "triggers"),
        ("ALTER TABLE platform.workflow ALTER name DROP NOT NULL", "columns"),
        ("ALTER FUNCTION platform.touch() SECURITY DEFINER", "functions"),
        ("GRANT EXECUTE ON FUNCTION platform.refuse_known_user_token_token() TO PUBLIC", "functions"),
        ("GRANT SELECT ON platform.job TO PUBLIC", "grants"),
    ],
)
def test_a_difference_is_found(
    engine: sa.Engine, model_catalogues: dict[str, set[Any]], change: str, catalogue: str
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(change)
    assert read_catalogues(engine)[catalogue] != model_catalogues[catalogue]


def test_every_tenant_table_starts_its_keys_with_the_tenant() -> None:
    for mapper in Base.registry.mappers:
        model, table = mapper.class_, mapper.local_table
        if model.tenant_column is None:
            continue
        owner = table.c[model.tenant_column]
        assert not owner.nullable
        assert isinstance(owner.type, sa.Uuid)
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
