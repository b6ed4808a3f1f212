"""Steps of revisions that work on large tables beside readers and writers, and go on where they were stopped.

Each runs outside the revision's transaction, in transactions of its own: what comes before it in the revision
is committed first. Written out (``--sql``, ``--dry-run``), it is its plain statements.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection

from platform_db.identifiers import SCHEMA

BATCH = 10_000

KEY = ("owner_id", "id_")


def create_index(name: str, on: str, *, unique: bool = False) -> None:
    """Create an index beside readers and writers; one that was stopped half-way is dropped and made again.

    :param on: the table with what is indexed, without its schema: ``job (owner_id, phase)``.
    """
    with op.get_context().autocommit_block():
        looks = not op.get_context().as_sql
        if looks and op.get_bind().scalar(_IS_VALID, {"name": f"{SCHEMA}.{name}"}):
            return
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {SCHEMA}.{name}")
        op.execute(f"CREATE {'UNIQUE ' * unique}INDEX CONCURRENTLY {name} ON {SCHEMA}.{on}")


def drop_index(name: str) -> None:
    """Drop an index beside readers and writers."""
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {SCHEMA}.{name}")


def backfill(table: str, values: str, where: str, *, key: tuple[str, ...] = KEY, batch: int = BATCH) -> None:
    """Change rows in batches, each a short transaction, in the order of their keys.

    Writers wait for one batch at most. A run that was stopped leaves its batches done: the next one finds
    only what is left.

    :param table: without its schema.
    :param values: what ``SET`` sets: ``phase = 'none'``.
    :param where: what is true of a row until it was changed: ``phase IS NULL``.
    :param key: the columns of its primary key.
    :param batch: rows in one transaction.
    """
    with op.get_context().autocommit_block():
        if op.get_context().as_sql:
            op.execute(f"UPDATE {SCHEMA}.{table} SET {values} WHERE {where}")
        else:
            _backfill(op.get_bind(), f"{SCHEMA}.{table}", values, where, key, batch)


def _backfill(
    connection: Connection, table: str, values: str, where: str, key: tuple[str, ...], batch: int
) -> None:
    columns = ", ".join(key)
    after: dict[str, object] = {}
    while True:
        place = f"AND ({columns}) > ({', '.join(f':{name}' for name in key)})" if after else ""
        last = connection.execute(
            sa.text(f"""
                WITH batch AS (
                    SELECT {columns} FROM {table} WHERE ({where}) {place}
                    ORDER BY {columns} LIMIT {batch} FOR NO KEY UPDATE
                ), changed AS (
                    UPDATE {table} AS old SET {values} FROM batch
                    WHERE {" AND ".join(f"old.{name} = batch.{name}" for name in key)}
                )
                SELECT {columns} FROM batch ORDER BY {", ".join(f"{name} DESC" for name in key)} LIMIT 1
                """),
            after,
        ).one_or_none()
        if last is None:
            return
        after = last._asdict()


_IS_VALID = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
