"""Pruning: deleting what the rules name, in small transactions that skip locked rows.

Each batch locks its rows and what belongs to them unless they are locked (``SKIP LOCKED``), writes them to
the archive if there is one, takes them out of their owners' totals, deletes them, and commits. Parents go
with their children in one transaction, so a pruning that is killed leaves no orphan, and the next one goes
on. Two at once share the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from platform_db import errors
from platform_db.audit import record_action
from platform_db.bounds import require_limit, require_seconds
from platform_db.database.distribution import factories_of_groups
from platform_db.database.session import SessionFactory
from platform_db.events.checkpoints import HELD_SINCE, hold, stale_watchers
from platform_db.lifecycle.target import Key
from platform_db.models import NOBODY, AuditLogAction
from platform_db.quota.batches import read_pages
from platform_db.quota.pruning import lock_owners, take_out, these
from platform_db.retention.archive import write_archive
from platform_db.retention.cache_limit import evict_beyond_limit
from platform_db.retention.clear_months import (
    Ids,
    add_partitions,
    clear_months,
    count_months,
    runs_to_prune,
)
from platform_db.retention.family import Family
from platform_db.retention.prune_calls import count_calls, count_executions, prune_calls, prune_executions
from platform_db.retention.prune_events import count_old_events, delete_old_events
from platform_db.retention.prune_log import count_log, prune_log
from platform_db.retention.prune_value_files import prune_value_files
from platform_db.retention.prune_values import count_values, prune_values
from platform_db.retention.rules import RULES, RetentionRule
from platform_db.states import MACHINES
from platform_db.tasks.pruning import delete_old_tasks

# How many rows are looked at in one statement.
LOOK = 5000

# How often to come back for rows that were locked.
PASSES = 3

Progress = Callable[[str, int], None]
"""Is told the table, and how many of its rows are gone so far."""


@dataclass
class Pruned:
    """What a run of pruning did to one table.

    :param rows: how many rows went, or in a dry run: would go.
    :param with_them: how many rows of other tables went with them.
    :param left: how many should have gone, but were locked, they or what belongs to them.
    :param not_waited_for: the watchers of events that may not have seen what went: their checkpoints have not
        moved for too long.
    """

    table: str
    rows: int = 0
    left: int = 0
    with_them: Counter[str] = field(default_factory=Counter)
    not_waited_for: tuple[str, ...] = ()


def choose_rules(
    tables: Iterable[str] = (),
    *,
    older_than: timedelta | None = None,
    batch: int | None = None,
    rules: Sequence[RetentionRule] = RULES,
) -> list[RetentionRule]:
    """Return the rules of these tables (none is all), with another age or batch size if asked.

    An age that is asked for is kept to: no row stays until others may go with it.

    :raises errors.InvalidArgument: a table has no rule, or the age or the batch size is out of bounds.
    """
    names = list(tables)
    known = {rule.table for rule in rules}
    if unknown := sorted(set(names) - known):
        raise errors.InvalidArgument(
            f"there is no rule for {', '.join(unknown)}; choose from {', '.join(sorted(known))}"
        )
    if older_than is not None:
        require_seconds(older_than, "age")
    if batch is not None:
        require_limit(batch, "batch size")
    return [
        replace(rule, age=older_than, whole_months=False, batch=batch or rule.batch)
        if older_than is not None
        else replace(rule, batch=batch or rule.batch)
        for rule in rules
        if not names or rule.table in names
    ]


def prune(
    factory: SessionFactory,
    rules: Sequence[RetentionRule] = RULES,
    *,
    dry_run: bool = False,
    archive: Path | None = None,
    value_store: Path | None = None,
    progress: Progress | None = None,
) -> list[Pruned]:
    """Delete what the rules name, each batch in a transaction of its own, and tell what went.

    An audit row says how many rows of a table went, once they have, also where an error ends it half-way.

    :param dry_run: only count.
    :param archive: a directory for the rules that archive: a file ``TABLE-….jsonl.gz`` for each batch is
        written and safe on disk before the batch is deleted. What is killed between the two leaves rows
        that the next run archives again.
    :param value_store: redun's ``value_store_path``, a directory. With values go the files in it that have no
        row and are a day old.
    :raises errors.StorageMissing: there is no directory ``value_store``.
    """
    results = [Pruned(rule.table) for rule in rules]
    with factory() as session:
        stale = stale_watchers(session)
        groups = factories_of_groups(factory, session)
    for rule, result in zip(rules, results, strict=True):
        if _is_watched(rule):
            result.not_waited_for = stale
        if dry_run:
            runs = runs_to_prune(factory, rule)
            result.rows = sum(_count_some(some, rule, runs) for some in _factories(factory, groups, rule))
            result.rows += count_months(factory, rule)
            continue
        try:
            if rule.table == "log_chunk":
                add_partitions(factory)
                clear_months(factory, rule, archive, _teller(rule, result, progress))
            runs = runs_to_prune(factory, rule)
            for _ in range(PASSES):
                left = 0
                for some in _factories(factory, groups, rule):
                    result.left = 0
                    _one_pass(some, rule, runs, result, archive if rule.archive else None, progress)
                    left += result.left
                result.left = left
                if not left:
                    break
            if rule.table == "value" and value_store is not None:
                result.with_them["value file"] += prune_value_files(factory, value_store)
            if rule.table == "interactive_session" and groups != [factory]:
                _release_digests(factory)
        finally:
            _record(factory, rule, result)
    return results


def require_finished(results: Iterable[Pruned]) -> None:
    """Raise an error where something is left that should have gone.

    :raises errors.PartialFailure: says how much of what.
    """
    left = [f"{result.left} of {result.table}" for result in results if result.left]
    if left:
        raise errors.PartialFailure(f"left because others had them locked: {', '.join(left)}")


def _factories(
    factory: SessionFactory, groups: Sequence[SessionFactory], rule: RetentionRule
) -> Sequence[SessionFactory]:
    """Return what makes the sessions of all rows, or of those of some owners each."""
    # What is of no owner, and what does that itself.
    return [factory] if rule.table in ("event_failure", "value") else groups


def _release_digests(factory: SessionFactory) -> None:
    """Release the digests of deleted sessions' secrets where tables are distributed, and no trigger does."""
    with factory() as session, session.begin():
        session.connection().execute(_RELEASE_DIGESTS)


_RELEASE_DIGESTS = sa.text("""
    DELETE FROM platform.secret_digest WHERE entity = 'interactive_session'
      AND entity_id NOT IN (SELECT id_ FROM platform.interactive_session)
    """)


def _count_some(factory: SessionFactory, rule: RetentionRule, runs: Sequence[Ids]) -> int:
    if rule.log_of is not None:
        return count_log(factory, rule, runs)
    if rule.table == "task_record":
        return sum(delete_old_tasks(factory, rule.age, batch=rule.batch, dry_run=True))
    if rule.table in _COUNTS:
        return _COUNTS[rule.table](factory, rule)
    return sum(map(len, _due(factory, rule)))


_COUNTS: dict[str, Callable[[SessionFactory, RetentionRule], int]] = {
    "row_event": count_old_events,
    "event_failure": count_old_events,
    "call_execution": count_executions,
    "call_node": count_calls,
    "value": count_values,
}


def _record(factory: SessionFactory, rule: RetentionRule, result: Pruned) -> None:
    """Write one audit row for each table and run, however many batches the run took."""
    if not result.rows and not result.with_them.total():
        return
    details = {
        "table": rule.table,
        "rows": result.rows,
        "with_them": {table: rows for table, rows in result.with_them.items() if rows},
        "older_than_seconds": int(rule.age.total_seconds()),
    }
    with factory() as session, session.begin():
        record_action(session, NOBODY, AuditLogAction.apply_retention, details)


def _teller(rule: RetentionRule, result: Pruned, progress: Progress | None) -> Callable[[int], None]:
    """Return what takes the number of rows that went."""

    def tell(rows: int) -> None:
        result.rows += rows
        if progress:
            progress(rule.table, result.rows)

    return tell


def _one_pass(
    factory: SessionFactory,
    rule: RetentionRule,
    runs: Sequence[Ids],
    result: Pruned,
    archive: Path | None,
    progress: Progress | None,
) -> None:
    tell = _teller(rule, result, progress)
    if rule.log_of is not None:
        result.left = prune_log(factory, rule, runs, archive, tell)
        return
    if rule.table == "task_record":
        for rows in delete_old_tasks(factory, rule.age, batch=rule.batch):
            tell(rows)
        result.left = _count_some(factory, rule, runs)
        return
    if rule.table in ("row_event", "event_failure"):
        for rows in delete_old_events(factory, rule):
            tell(rows)
        return
    if rule.table == "call_execution":
        result.left = prune_executions(factory, rule, result.with_them, tell)
        return
    if rule.table == "call_node":
        prune_calls(factory, rule, tell)
        return
    if rule.table == "value":
        result.left = prune_values(factory, rule, tell)
        return
    for due in _due(factory, rule):
        for start in range(0, len(due), rule.batch):
            with factory() as session, session.begin():
                gone, left = _prune_batch(
                    session.connection(), rule, due[start : start + rule.batch], archive
                )
            rows = gone.pop(rule.table, 0)
            result.with_them.update(gone)
            result.left += left
            tell(rows)
    if rule.table == "job_cache":
        result.left += evict_beyond_limit(factory, rule.batch, tell)


def _prune_batch(
    connection: sa.Connection, rule: RetentionRule, keys: list[Key], archive: Path | None
) -> tuple[Counter[str], int]:
    """Delete those of the rows that are still due and free; return what went, and how many are left."""
    family = Family.of(rule.table)
    parameters = {**_parameters(rule), **these(keys)}
    locked = [(row.owner_id, row.id_) for row in connection.execute(_lock(rule), parameters)]
    still = connection.execute(_count(rule), parameters).scalar() or 0
    free = family.lock(connection, locked)
    if archive is not None and free:
        write_archive(archive, rule.table, family.rows(connection, free))
    # Only now, since writing an archive takes its time: a service that ends a run needs its owner's totals.
    free = lock_owners(connection, rule.table, free)
    take_out(connection, rule.table, free)
    gone = family.delete(connection, free)
    return gone, still - gone[rule.table]


def _due(factory: SessionFactory, rule: RetentionRule) -> Iterator[list[Key]]:
    """Yield the keys of the rows that are due, page by page in the order of their index, owner by owner."""
    for page in read_pages(factory, _look(rule), _parameters(rule), LOOK):
        yield sorted((row.owner_id, row.id_) for row in page if row.due)


def _is_watched(rule: RetentionRule) -> bool:
    """Tell whether watchers hear of the table's rows."""
    return rule.table in MACHINES or rule.table == "row_event"


def _parameters(rule: RetentionRule) -> dict[str, Any]:
    return {"age": rule.age, **({"hold": hold()} if _is_watched(rule) else {})}


def _is_candidate(rule: RetentionRule) -> str:
    """Return what an index tells of a row."""
    if rule.statuses is None:
        return "true"
    statuses = ", ".join(f"'{status}'" for status in rule.statuses)
    return f"pruned.status IN ({statuses})"


def _is_due(rule: RetentionRule) -> str:
    due = f"pruned.{rule.since} < now() - CAST(:age AS interval)"
    if rule.table == "job_cache":
        due += """ AND NOT EXISTS (
            SELECT FROM platform.job_cache_use AS used
            WHERE used.owner_id = pruned.owner_id AND used.job_cache_id = pruned.id_
              AND used.last_hit_at >= now() - CAST(:age AS interval))"""
    if _is_watched(rule):
        due += f" AND pruned.updated < {HELD_SINCE} AND NOT EXISTS ({_unseen(rule)})"
    return due


def _unseen(rule: RetentionRule) -> str:
    """Return what selects entries of the history of a row, and of what belongs to it, that a watcher may not
    have seen."""
    return " UNION ALL ".join(
        f"""SELECT FROM {member.source}
            WHERE root.owner_id = pruned.owner_id AND root.id_ = pruned.id_
              AND {member.alias}.at >= {HELD_SINCE}"""
        for member in Family.of(rule.table).members
        if member.table in ("status_change", "note")
    )


def _look(rule: RetentionRule) -> sa.TextClause:
    # Ids are ordered in time, so by their index old rows come first, each row is looked at once, and what was
    # deleted a moment ago is not walked through again and again.
    return sa.text(f"""
        SELECT owner_id, id_, ({_is_due(rule)}) AS due FROM platform.{rule.table} AS pruned
        WHERE (CAST(:after AS uuid) IS NULL OR id_ > CAST(:after AS uuid)) AND {_is_candidate(rule)}
        ORDER BY id_ LIMIT :look
        """)


def _still_due(rule: RetentionRule) -> str:
    return f"""
        FROM platform.{rule.table} AS pruned
        WHERE owner_id = ANY(CAST(:owners AS uuid[])) AND id_ = ANY(CAST(:ids AS uuid[]))
          AND {_is_candidate(rule)} AND {_is_due(rule)}
    """


def _count(rule: RetentionRule) -> sa.TextClause:
    return sa.text(f"SELECT count(*) {_still_due(rule)}")


def _lock(rule: RetentionRule) -> sa.TextClause:
    locking = "ORDER BY owner_id, id_ FOR UPDATE OF pruned SKIP LOCKED"
    return sa.text(f"SELECT owner_id, id_ {_still_due(rule)} {locking}")
