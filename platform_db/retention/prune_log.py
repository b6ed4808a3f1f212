"""Pruning logs: chunk by chunk, run by run, since a single run can have a million of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.retention.archive import write_archive
from platform_db.retention.rules import RetentionRule
from platform_db.types import SCHEMA

Progress = Callable[[str, int], None]
"""Is told the table, and how many of its rows are gone so far."""

# How many runs are looked at in one statement.
LOOK = 1000


def prune_log(
    factory: Callable[[], Session],
    rule: RetentionRule,
    *,
    dry_run: bool,
    archive: Path | None,
    progress: Progress | None,
) -> int:
    """Delete the chunks that the rule names, or count them, and return how many there were.

    Chunks are not locked first: what has ended is written by nobody, and services may not change chunks.
    """
    gone, after, looked = 0, uuid.UUID(int=0), LOOK
    while looked == LOOK:
        with factory() as session:
            rows = session.connection().execute(
                _look(rule), {"age": rule.age, "after": str(after), "look": LOOK}
            )
            parents = rows.all()
        looked = len(parents)
        after = parents[-1].id_ if parents else after
        due = [str(row.id_) for row in parents if row.due]
        batch = rule.batch if due else 0
        while batch:
            with factory() as session, session.begin():
                parameters: dict[str, Any] = {"ids": due, "age": rule.age, "batch": rule.batch}
                if dry_run:
                    gone += session.connection().execute(_count(rule), parameters).scalar() or 0
                    break
                rows = session.connection().execute(_delete(rule, archive is not None), parameters)
                texts = list(rows.scalars())
                if archive is not None and texts:
                    write_archive(archive, rule.table, ((rule.table, text) for text in texts))
            gone += len(texts)
            batch = rule.batch if len(texts) == rule.batch else 0
            if progress:
                progress(rule.table, gone)
    return gone


def _log_of(rule: RetentionRule) -> tuple[str, str]:
    table, column = rule.log_of or ("", "")
    return table, column


def _is_due(rule: RetentionRule, parent: str) -> str:
    column = _log_of(rule)[1]
    return f"""
        chunk.owner_id = {parent}.owner_id AND chunk.{column} = {parent}.id_
        AND chunk.{rule.since} < now() - CAST(:age AS interval)
    """


def _look(rule: RetentionRule) -> sa.TextClause:
    table = _log_of(rule)[0]
    return sa.text(
        f"""
        SELECT id_, EXISTS (SELECT FROM {SCHEMA}.{rule.table} AS chunk WHERE {_is_due(rule, "parent")}) AS due
        FROM {SCHEMA}.{table} AS parent
        WHERE id_ > CAST(:after AS uuid) AND status IN ('finished', 'failed', 'stopped', 'deleted')
        ORDER BY id_ LIMIT :look
        """
    )


def _due_chunks(rule: RetentionRule) -> str:
    table = _log_of(rule)[0]
    return f"""
        FROM {SCHEMA}.{table} AS parent JOIN {SCHEMA}.{rule.table} AS chunk ON {_is_due(rule, "parent")}
        WHERE parent.id_ = ANY(CAST(:ids AS uuid[]))
          AND parent.status IN ('finished', 'failed', 'stopped', 'deleted')
    """


def _count(rule: RetentionRule) -> sa.TextClause:
    return sa.text(f"SELECT count(*) {_due_chunks(rule)}")


def _delete(rule: RetentionRule, archived: bool) -> sa.TextClause:
    column = _log_of(rule)[1]
    of_chunk = f"chunk.owner_id, chunk.{column}, chunk.id_"
    return sa.text(
        f"""
        WITH due AS MATERIALIZED (
            SELECT {of_chunk} {_due_chunks(rule)}
            ORDER BY {of_chunk} LIMIT :batch
        )
        , gone AS (
            DELETE FROM {SCHEMA}.{rule.table} AS chunk USING due
            WHERE (chunk.owner_id, chunk.{column}, chunk.id_) = (due.owner_id, due.{column}, due.id_)
            RETURNING chunk.*
        )
        {_TAKE_OFF if rule.table == "log_chunk" else ""}
        SELECT {"row_to_json(gone)::text" if archived else "CAST(NULL AS text)"} FROM gone
        """
    )


# So that a run that is started again has room for its log.
_TAKE_OFF = f"""
        , freed AS (
            SELECT owner_id, workflow_id, sum(octet_length(data)) AS bytes_ FROM gone GROUP BY 1, 2
        ), size AS (
            SELECT owner_id, workflow_id, freed.bytes_
            FROM {SCHEMA}.log_size JOIN freed USING (owner_id, workflow_id)
            ORDER BY owner_id, workflow_id FOR UPDATE OF log_size
        ), taken_off AS (
            UPDATE {SCHEMA}.log_size SET bytes_ = greatest(0, log_size.bytes_ - size.bytes_) FROM size
            WHERE (log_size.owner_id, log_size.workflow_id) = (size.owner_id, size.workflow_id)
        )
"""
