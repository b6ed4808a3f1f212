"""Whether a database has what the models and the files of SQL say, down to the last trigger.

Both sides come from the server's catalogues: ``catalogue.json`` describes a database that the models and
files made, one object a line, and this module reads the same from the database in question. It parses no SQL
and writes nothing. A test compares the file with the models, the files and the migrations.
``python -m platform_db.schema.compare`` writes it, from the configured database.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from platform_db.database.distribution import is_distributed
from platform_db.schema.placement import expected_when_distributed
from platform_db.schema.status import connect

CATALOGUE = "catalogue.json"


def differences(connection: Connection) -> list[str]:
    """Return what is missing, altered or unknown, such as ``missing trigger guard_update on job``.

    :param connection: to a database whose schema is current; its settings are left as they are.
    """
    expected: dict[str, str] = json.loads(files(__package__).joinpath(CATALOGUE).read_text(encoding="utf-8"))
    expected, stored = (
        {name: _flat(name, text) for name, text in side.items()}
        for side in (expected, read_catalogue(connection))
    )
    if is_distributed(connection):
        expected = expected_when_distributed(expected, stored)
    return sorted(
        [f"missing {name}" for name in expected if name not in stored]
        + [f"altered {name}" for name in expected if stored.get(name, expected[name]) != expected[name]]
        + [f"unknown {name}" for name in stored if name not in expected]
    )


def _flat(name: str, definition: str) -> str:
    """Return a definition as a restored database has it: ``(a OR b) OR c`` is ``a OR b OR c`` there.

    Before PostgreSQL 16 the columns of a view of one table stand behind its name.
    """
    if name.startswith("view "):
        definition = _QUALIFIED.sub("", definition)
    return _NESTED.sub(r"\1\3", definition)


_QUALIFIED = re.compile(r"\b(?!platform\b)\w+\.(?=[\w\"])")


_NESTED = re.compile(r"\((\([^()]*\)(?: (OR|AND) \([^()]*\))+)\)( \2 )")


def read_catalogue(connection: Connection) -> dict[str, str]:
    """Return each object of the schema with its definition, by kind and name.

    Roles, their grants and their policies are left out: they belong to :mod:`platform_db.tenancy`.
    """
    nested = connection.begin_nested() if connection.in_transaction() else connection.begin()
    try:
        # What the server writes of a definition depends on these two; a rollback takes them back.
        connection.execute(sa.text("SET LOCAL search_path = ''"))
        connection.execute(sa.text("SET LOCAL quote_all_identifiers = off"))
        return {
            f"{kind} {name}": definition
            for kind, query in _QUERIES.items()
            for name, definition in connection.execute(sa.text(query.replace(":", r"\:")))
        }
    finally:
        nested.rollback()


_SCHEMA = "(SELECT oid FROM pg_namespace WHERE nspname = 'platform')"


def _owner(column: str) -> str:
    """Return the expression that tells whether the owner of an object differs from the schema's."""
    schemas = "(SELECT nspowner FROM pg_namespace WHERE nspname = 'platform')"
    return f"CASE WHEN {column} <> {schemas} THEN 'of another owner' END"


# Each gives a name and a definition. Alembic's own table is none of the models'.
_QUERIES = {
    "column": f"""
        SELECT relname || '.' || attname,
               concat_ws(' ', format_type(atttypid, atttypmod), 'COLLATE ' || nullif(collname, 'default'),
                         CASE WHEN attstorage <> typstorage THEN concat('STORAGE ', attstorage) END,
                         CASE WHEN attnotnull THEN 'NOT NULL' END,
                         nullif(attidentity, ''), nullif(attgenerated, ''), pg_get_expr(adbin, adrelid))
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        LEFT JOIN pg_collation ON pg_collation.oid = attcollation
        WHERE relnamespace = {_SCHEMA} AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
          AND relname <> 'alembic_version'
        """,
    "table": f"""
        SELECT relname, concat_ws(' ', relkind, relpersistence, CASE WHEN relrowsecurity THEN 'policies' END,
                                  CASE WHEN relforcerowsecurity THEN 'forced' END, reloptions::text,
                                  {_owner("relowner")})
        FROM pg_class
        WHERE relnamespace = {_SCHEMA} AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND relname <> 'alembic_version'
        """,
    # NOT NULL is a constraint of its own from PostgreSQL 18 on; the column says it everywhere.
    "constraint": f"""
        SELECT conname || ' on ' || relname,
               pg_get_constraintdef(pg_constraint.oid) || CASE WHEN convalidated THEN '' ELSE ' NOT VALID' END
        FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
        WHERE connamespace = {_SCHEMA} AND contype <> 'n' AND relname <> 'alembic_version'
        """,
    "index": f"""
        SELECT relname, pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = {_SCHEMA} AND relname <> 'alembic_version_pkc'
        """,
    "trigger": f"""
        SELECT tgname || ' on ' || relname,
               pg_get_triggerdef(pg_trigger.oid) || CASE WHEN tgenabled = 'O' THEN '' ELSE ' DISABLED' END
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = {_SCHEMA} AND NOT tgisinternal
        """,
    "function": f"""
        SELECT format('%s(%s)', proname, pg_get_function_identity_arguments(oid)),
               concat_ws(' ', pg_get_functiondef(oid), {_owner("proowner")})
        FROM pg_proc WHERE pronamespace = {_SCHEMA} AND prokind IN ('f', 'p')
        """,
    "type": f"""
        SELECT typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder)
        FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid WHERE typnamespace = {_SCHEMA} GROUP BY typname
        """,
    "domain": f"""
        SELECT typname,
               concat_ws(' ', format_type(typbasetype, typtypmod), CASE WHEN typnotnull THEN 'NOT NULL' END,
                         typdefault, (SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY conname)
                                      FROM pg_constraint WHERE contypid = pg_type.oid))
        FROM pg_type WHERE typnamespace = {_SCHEMA} AND typtype = 'd'
        """,
    "sequence": """
        SELECT sequencename, concat_ws(' ', data_type, start_value, min_value, max_value, increment_by,
                                       CASE WHEN cycle THEN 'CYCLE' END, cache_size)
        FROM pg_sequences WHERE schemaname = 'platform'
        """,
    # A view is the rule _RETURN: its definition.
    "rule": f"""
        SELECT rulename || ' on ' || relname,
               pg_get_ruledef(pg_rewrite.oid) || CASE WHEN ev_enabled = 'O' THEN '' ELSE ' DISABLED' END
        FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class WHERE relnamespace = {_SCHEMA}
        """,
    # What other schema there is has views alone.
    "view": f"""
        SELECT format('redun.%s', relname),
               concat_ws(' ', relkind, reloptions::text, CASE WHEN relkind = 'v' THEN pg_get_viewdef(oid) END,
                         {_owner("relowner")})
        FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'redun')
        """,
    "statistics": f"""
        SELECT stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxnamespace = {_SCHEMA}
        """,
    "policy": """
        SELECT policyname || ' on ' || tablename, concat_ws(' ', permissive, cmd, qual, with_check)
        FROM pg_policies WHERE schemaname = 'platform' AND roles = '{public}'
        """,
}


if __name__ == "__main__":
    with connect() as configured:
        found = sorted(read_catalogue(configured).items())
    lines = [f"  {json.dumps(name)}: {json.dumps(definition)}" for name, definition in found]
    Path(__file__).with_name(CATALOGUE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
