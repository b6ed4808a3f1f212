"""Finding a row by its key takes the whole key, also for an owner whom the tables' statistics do not know.

Where they say that an owner has no rows, all indexes that begin with the owner are the same to the planner,
and it may read all of the owner's rows to find one.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from platform_db.schema.objects import tenant_columns
from tests.every_table import fill

ROWS = 2000  # of each table: so many that no two plans are the same by chance
OTHER = {"bigint": "7", "integer": "7", "bytea": "7", "platform.entity_kind": "job"}  # than UUIDs and texts
GENERATED_FROM = {"digest": "parameters"}
TABLES = [table for table in tenant_columns() if table != "user_"]


class Index(NamedTuple):
    """An index: its columns, and whether it has all rows."""

    name: str
    columns: list[str]
    is_whole: bool = True


def test_a_key_is_looked_up_by_all_its_columns(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        fill(session)
    slow = []
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = 'replica'")
        for table in TABLES:
            multiply(connection, table)
        connection.exec_driver_sql("ANALYZE")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for table in TABLES:
            for key in keys_of(connection, table):
                used = index_of(connection, table, key) if key.is_whole else key
                if used.columns[0] == "owner_id" and not set(used.columns[:2]) <= set(key.columns):
                    slow.append(f"{key.name} of {table}: {used.name}")
    assert slow == []


def multiply(connection: sa.Connection, table: str) -> None:
    """Add rows of three owners that differ from one that is there by their keys."""
    types = column_types(connection, table)
    values = {}
    for key in keys_of(connection, table):
        # Some rows have the same parent.
        *parents, last = [GENERATED_FROM.get(name, name) for name in key.columns]
        values |= {name: value_of(types[name], "n / 20") for name in parents if name not in values}
        values[last] = value_of(types[last], "n")
    values["owner_id"] = value_of("uuid", "n %% 3")
    given = ", ".join(f"'{name}', {value}" for name, value in values.items())
    stored, copied = ", ".join(types), ", ".join(f"copy.{name}" for name in types)
    connection.exec_driver_sql(f"""
        INSERT INTO platform.{table} ({stored}) OVERRIDING SYSTEM VALUE
        SELECT {copied} FROM (SELECT * FROM platform.{table} LIMIT 1) AS one
        CROSS JOIN generate_series(100, 99 + {ROWS}) AS n
        CROSS JOIN LATERAL jsonb_populate_record(
            NULL::platform.{table}, to_jsonb(one) || (
                SELECT jsonb_object_agg(key, value) FROM jsonb_each(jsonb_build_object({given}))
                WHERE to_jsonb(one) -> key <> 'null'
            )
        ) AS copy
        ON CONFLICT DO NOTHING
    """)


def value_of(type_: str, number: str) -> str:
    """Return the SQL of a value that differs by a number."""
    if type_ == "uuid":
        return f"md5(({number})::text)::uuid"
    if type_ == "bytea":
        return f"sha256(({number})::text::bytea)"
    return f"({number})::text" if type_ == "text" else number


def column_types(connection: sa.Connection, table: str) -> dict[str, str]:
    """Return the type of each column that is stored as it is given."""
    rows = connection.exec_driver_sql(f"""
        SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = 'platform.{table}'::regclass
          AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    """)
    return {row.attname: row.format_type for row in rows}


def keys_of(connection: sa.Connection, table: str) -> list[Index]:
    """Return the unique indexes of a table."""
    rows = connection.exec_driver_sql(f"""
        SELECT relname, indpred IS NULL FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = 'platform.{table}'::regclass AND indisunique
    """).all()
    return [Index(name, columns_of(connection, name), is_whole) for name, is_whole in rows]


def columns_of(connection: sa.Connection, index: str) -> list[str]:
    """Return the columns of an index."""
    return list(
        connection.exec_driver_sql(f"""
            SELECT DISTINCT attname, attnum FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relname = '{index}' AND relnamespace::regnamespace::text LIKE 'platform%%' ORDER BY attnum
        """).scalars()
    )


def index_of(connection: sa.Connection, table: str, key: Index) -> Index:
    """Return the index by which one row is looked for, of an owner who is not known."""
    types = column_types(connection, table)
    values = {name: OTHER.get(types.get(name, ""), str(uuid.uuid4())) for name in key.columns}
    equal = " AND ".join(f"{name} = '{value}'" for name, value in values.items())
    (plan,) = connection.exec_driver_sql(
        f"EXPLAIN (FORMAT json) SELECT * FROM platform.{table} WHERE {equal}"
    ).scalar_one()
    node = plan["Plan"]
    while "Plans" in node:
        node = node["Plans"][0]
    name = node["Index Name"]
    return Index(name, columns_of(connection, name))
