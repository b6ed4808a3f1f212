"""Telling the planner of rows that have come, which it would take for few until autovacuum looks."""

from __future__ import annotations

from collections.abc import Iterable

from platform_db.database.session import SessionFactory


def analyze(factory: SessionFactory, tables: Iterable[str]) -> None:
    """Analyze tables of the schema, each in a transaction of its own, however long it takes."""
    for table in dict.fromkeys(tables):
        with factory() as session, session.begin():
            connection = session.connection()
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"ANALYZE platform.{table}")
