"""Pruning logs: chunk by chunk, run by run, since a single run can have a million of them.

Those of runs go by the month in which their run was made, once all of it is old enough: at once, where its
partition can be cleared (:mod:`platform_db.retention.clear_months`), and otherwise as here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db.database.session import SessionFactory
from platform_db.lifecycle.target import Key
from platform_db.quota.batches import read_pages
from platform_db.quota.pruning import these
from platform_db.retention.archive import write_archive
from platform_db.retention.clear_months import Ids, are_ids
from platform_db.retention.family import FETCHED
from platform_db.retention.rules import ENDED, RetentionRule

# How many runs are looked at in one statement, and how many are locked in one.
LOOK = 1000
LOCK = 200

_THESE = "parent.owner_id = ANY(CAST(:owners AS uuid[])) AND parent.id_ = ANY(CAST(:ids AS uuid[]))"


def prune_log(
    factory: SessionFactory,
    rule: RetentionRule,
    runs: Sequence[Ids],
    archive: Path | None,
    tell: Callable[[int], None],
) -> int:
    """Delete the chunks that the rule names, and return how many are left because others hold their runs.

    It locks the runs and not their chunks, because services have no privilege to lock chunks. So two prunings
    share the work, and neither waits.

    :param runs: those that are looked at.
    :param tell: is called with the number of chunks that went, batch by batch.
    """
    left = 0
    for due in _due(factory, rule, runs):
        parameters = {**these(due), "age": rule.age, "batch": rule.batch}
        while True:
            with factory() as session, session.begin():
                chunks = session.connection().execute(_take(rule), parameters).all()
                gone = _remove(session.connection(), rule, chunks, archive) if chunks else 0
            if not chunks:
                break
            tell(gone)
        left += _count_these(factory, rule, due)
    return left


def count_log(factory: SessionFactory, rule: RetentionRule, runs: Sequence[Ids]) -> int:
    """Return how many chunks the rule names."""
    return sum(_count_these(factory, rule, due) for due in _due(factory, rule, runs))


def _count_these(factory: SessionFactory, rule: RetentionRule, runs: list[Key]) -> int:
    with factory() as session:
        return int(session.connection().scalar(_count(rule), {**these(runs), "age": rule.age}) or 0)


def _remove(
    connection: sa.Connection, rule: RetentionRule, chunks: Sequence[Any], archive: Path | None
) -> int:
    names = ("places", "owners", "parents", "numbers")
    keys: dict[str, Any] = dict(zip(names, map(list, zip(*chunks, strict=True)), strict=True))
    keys |= {"first": min(keys["parents"]), "last": max(keys["parents"])}
    if archive is not None:
        rows = connection.execute(_select(rule), keys, execution_options={"yield_per": FETCHED})
        write_archive(archive, rule.table, ((rule.table, text) for text in rows.scalars()))
    return int(connection.execute(_delete(rule), keys).scalar_one())


def _due(factory: SessionFactory, rule: RetentionRule, runs: Sequence[Ids]) -> Iterator[list[Key]]:
    """Yield the keys of runs that have chunks that are due, in the order of their index."""
    for ids in runs:
        for page in read_pages(factory, _look(rule), {"age": rule.age, **ids}, LOOK):
            if due := [(row.owner_id, row.id_) for row in page if row.due]:
                yield due


def _log_of(rule: RetentionRule) -> tuple[str, str]:
    return rule.log_of or ("", "")


def _is_due(rule: RetentionRule) -> str:
    column = _log_of(rule)[1]
    return f"""
        chunk.owner_id = parent.owner_id AND chunk.{column} = parent.id_
        AND chunk.{rule.since} < now() - CAST(:age AS interval)
    """


def _look(rule: RetentionRule) -> sa.TextClause:
    table = _log_of(rule)[0]
    # With EXISTS the planner may read the whole log once for each page of runs. A log that is older than its
    # run, as an import may leave it, goes when the run is as old.
    return sa.text(f"""
        SELECT owner_id, id_, CASE WHEN created < now() - CAST(:age AS interval) THEN (
                   SELECT true FROM platform.{rule.table} AS chunk WHERE {_is_due(rule)} LIMIT 1
               ) END AS due
        FROM platform.{table} AS parent
        WHERE (CAST(:after AS uuid) IS NULL OR id_ > CAST(:after AS uuid)) AND {are_ids("id_")} AND {ENDED}
        ORDER BY id_ LIMIT :look
        """)


def _count(rule: RetentionRule) -> sa.TextClause:
    table = _log_of(rule)[0]
    return sa.text(f"""
        SELECT count(*) FROM platform.{table} AS parent
        JOIN platform.{rule.table} AS chunk ON {_is_due(rule)}
        WHERE {_THESE} AND parent.{ENDED}
        """)


def _take(rule: RetentionRule) -> sa.TextClause:
    """Return the statement that locks some runs that are free, and names a batch of their chunks."""
    table, column = _log_of(rule)
    return sa.text(f"""
        WITH free AS MATERIALIZED (
            SELECT owner_id, id_ FROM platform.{table} AS parent
            WHERE {_THESE} AND {ENDED}
              AND EXISTS (SELECT FROM platform.{rule.table} AS chunk WHERE {_is_due(rule)})
            ORDER BY owner_id, id_ LIMIT {LOCK}
            FOR NO KEY UPDATE OF parent SKIP LOCKED
        )
        SELECT chunk.ctid::text, chunk.owner_id, chunk.{column}, chunk.number
        FROM free AS parent JOIN platform.{rule.table} AS chunk ON {_is_due(rule)}
        ORDER BY chunk.owner_id, chunk.{column}, chunk.number LIMIT :batch
        """)


def _keys(rule: RetentionRule) -> str:
    return f"""
        unnest(CAST(:places AS tid[]), CAST(:owners AS uuid[]), CAST(:parents AS uuid[]),
               CAST(:numbers AS bigint[])) AS key (place, owner_id, {_log_of(rule)[1]}, number)
    """


def _is_named(rule: RetentionRule) -> str:
    """Return the condition that a chunk is the one of a key."""
    # By its place, too: by the key alone, the planner may read all chunks of a run for each of them. And
    # between constants, so that it looks into no other partition.
    column = _log_of(rule)[1]
    partition = "chunk.workflow_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) AND"
    return f"""{partition if rule.table == "log_chunk" else ""} chunk.ctid = key.place
        AND (chunk.owner_id, chunk.{column}, chunk.number) = (key.owner_id, key.{column}, key.number)
    """


def _select(rule: RetentionRule) -> sa.TextClause:
    # Sorted below the JSON: a chunk's data stays in its place until it is fetched.
    return sa.text(f"""
        SELECT row_to_json(chunk)::text FROM (
            SELECT chunk.* FROM {_keys(rule)} JOIN platform.{rule.table} AS chunk ON {_is_named(rule)}
            ORDER BY chunk.owner_id, chunk.{_log_of(rule)[1]}, chunk.number
        ) AS chunk
        """)


def _delete(rule: RetentionRule) -> sa.TextClause:
    return sa.text(f"""
        WITH gone AS (
            DELETE FROM platform.{rule.table} AS chunk USING {_keys(rule)} WHERE {_is_named(rule)}
            RETURNING chunk.*
        )
        {_TAKE_OFF if rule.table == "log_chunk" else ""}
        SELECT count(*) FROM gone
        """)


# So that a run that is started again has room for its log.
_TAKE_OFF = """
        , freed AS (
            SELECT owner_id, workflow_id, sum(octet_length(data)) AS bytes_ FROM gone GROUP BY 1, 2
        ), size AS (
            SELECT owner_id, workflow_id, freed.bytes_
            FROM platform.log_size JOIN freed USING (owner_id, workflow_id)
            ORDER BY owner_id, workflow_id FOR UPDATE OF log_size
        ), taken_off AS (
            UPDATE platform.log_size SET bytes_ = greatest(0, log_size.bytes_ - size.bytes_) FROM size
            WHERE (log_size.owner_id, log_size.workflow_id) = (size.owner_id, size.workflow_id)
        )
"""
