"""Whether the database has the models' functions, triggers and policies, which Alembic does not compare.

The server rewrites what it stores, so the two are compared by what it keeps: a function by its body, a
trigger by the words of its definition, a policy by its name.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from platform_db.schema import ddl

Objects = dict[str, tuple[object, ...]]
"""By kind and name, such as ``trigger guard_job_update on job``: what must be the same in both."""


def differences(connection: Connection) -> list[str]:
    """Return what is missing, altered or unknown, such as ``missing trigger guard_job_update on job``.

    Functions and policies beyond the models' are left out: the former do nothing by themselves, as triggers
    do, and roles have policies of their own.

    :param connection: to a database whose schema is current.
    """
    expected, stored = _expected(), _stored(connection)
    return sorted(
        [f"missing {name}" for name in expected if name not in stored]
        + [f"altered {name}" for name in expected if stored.get(name, expected[name]) != expected[name]]
        + [f"unknown {name}" for name in stored if name not in expected and name.startswith("trigger")]
    )


def _expected() -> Objects:
    """Read the statements of the models."""
    objects: Objects = {}
    for statement in (*ddl.before_tables(), *ddl.after_tables()):
        head, *body = statement.split("$$")
        head = head.replace("platform.", "")
        if match := re.match(r"CREATE FUNCTION (\w+)", head):
            source = body[0] if body else _words(re.split(r"\bRETURN\b", head, maxsplit=1)[1])
            objects[f"function {match[1]}"] = ("SECURITY DEFINER" in head, source)
        elif match := re.match(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+)\b.*?\bON (\w+)", head, re.DOTALL):
            objects[f"trigger {match[1]} on {match[2]}"] = (True, *_trigger_words(head))
        elif match := re.match(r"CREATE POLICY (\w+) ON (\w+)", head):
            objects[f"policy {match[1]} on {match[2]}"] = ()
        elif match := re.match(r"ALTER TABLE (\w+) ENABLE ROW LEVEL SECURITY", head):
            objects[f"row level security on {match[1]}"] = ()
    return objects


def _stored(connection: Connection) -> Objects:
    """Read the server's catalogues."""
    objects: Objects = {
        f"function {name}": (is_definer, source or _words(expression.partition("RETURN")[2]))
        for name, is_definer, source, expression in connection.execute(_FUNCTIONS)
    }
    for name, table, enabled, definition in connection.execute(_TRIGGERS):
        objects[f"trigger {name} on {table}"] = (enabled, *_trigger_words(definition))
    for name, table in connection.execute(_POLICIES):
        objects[f"policy {name} on {table}"] = ()
    for table in connection.execute(_ROW_LEVEL_SECURITY).scalars():
        objects[f"row level security on {table}"] = ()
    return objects


def _trigger_words(definition: str) -> tuple[list[str], list[str]]:
    """Return the words that say when a trigger fires, and those of its condition and its function.

    The server has an order of its own for the events, and other words for ``IN`` and ``BETWEEN``.
    """
    event, _, action = definition.partition("FOR EACH")
    return sorted(_words(event)), sorted({*_words(action)} - _REWRITTEN)


def _words(text: str) -> list[str]:
    """Return names, numbers and strings, without the schema and the casts that the server adds."""
    bare = re.sub(r"::[\w.]+", "", text).replace("platform.", "").lower()
    return re.findall(r"'[^']*'|\w+", bare)


_REWRITTEN = {"all", "and", "any", "array", "between", "in", "not", "or"}

_FUNCTIONS = sa.text(
    """
    SELECT proname, prosecdef, prosrc, coalesce(pg_get_function_sqlbody(oid), '')
    FROM pg_proc WHERE pronamespace = to_regnamespace('platform')
    """
)

_TRIGGERS = sa.text(
    """
    SELECT tgname, relname, tgenabled IN ('O', 'A'), pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = to_regnamespace('platform') AND NOT tgisinternal
    """
)

_POLICIES = sa.text("SELECT policyname, tablename FROM pg_policies WHERE schemaname = 'platform'")

_ROW_LEVEL_SECURITY = sa.text(
    "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('platform') AND relrowsecurity"
)
