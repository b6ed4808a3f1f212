"""Pruning executions with their jobs, and the calls that nothing refers to any more."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.database.session import SessionFactory
from platform_db.retention.rules import RetentionRule
from platform_db.sessions import run_transaction

FETCHED = 1000


class Named(NamedTuple):
    """A row that is known by its owner and a hash or another text."""

    owner_id: uuid.UUID
    name: str


def arrays(rows: Sequence[Named]) -> dict[str, list[Any]]:
    """Return the parameters of a statement about these rows."""
    return {"owners": [row.owner_id for row in rows], "names": [row.name for row in rows]}


def prune_executions(
    factory: SessionFactory, rule: RetentionRule, with_them: Counter[str], tell: Callable[[int], None]
) -> int:
    """Delete the executions that the rule names, with their jobs and tags; return how many others hold.

    The jobs of a large one go in several transactions, the last ones first, so that one that is killed leaves
    a smaller execution, which the next run goes on with.

    :param with_them: is added how many jobs went.
    :param tell: is called with the number of executions that went.
    """
    left = 0
    with factory() as session:
        due = [Named(*row) for row in session.connection().execute(_EXECUTIONS, {"age": rule.age})]
    for execution in due:
        parameters = {**execution._asdict(), "age": rule.age, "batch": rule.batch}
        gone = False
        while not gone:
            with factory() as session, session.begin():
                connection = session.connection()
                if connection.execute(_LOCK_EXECUTION, parameters).one_or_none() is None:
                    left += 1
                    break
                jobs = connection.execute(_DELETE_JOBS, parameters).scalars().all()
                with_them["call_job"] += len(jobs)
                tags = [*jobs]
                if gone := len(jobs) < rule.batch:
                    tags += [execution.name, connection.execute(_DELETE_EXECUTION, parameters).scalar_one()]
                    with_them["call_job"] += 1
                connection.execute(_DELETE_TAGS, {"owner_id": execution.owner_id, "entities": tags})
        if gone:
            tell(1)
    return left


def count_executions(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many executions the rule names."""
    with factory() as session:
        return len(session.connection().execute(_EXECUTIONS, {"age": rule.age}).all())


def prune_calls(factory: SessionFactory, rule: RetentionRule, tell: Callable[[int], None]) -> None:
    """Delete the calls that are old enough and that nothing refers to; what others hold is being used.

    With a call go its arguments, and its evaluation, if that was the last call of it. What only it referred
    to follows in the same run, in the same transaction as far as the batch has room. Its values may be pruned
    a day later.

    :param tell: is called with the number of calls that went, batch by batch.
    """
    for page in _old_calls(factory, rule):
        waiting = page
        while waiting:
            batch, waiting = waiting[: rule.batch], waiting[rule.batch :]
            gone, freed = run_transaction(partial(_delete_calls, batch=batch, rule=rule), factory=factory)
            waiting += freed
            if gone:
                tell(gone)


def count_calls(factory: SessionFactory, rule: RetentionRule) -> int:
    """Return how many calls the rule names; what only these refer to is not among them."""
    count = 0
    for page in _old_calls(factory, rule):
        with factory() as session:
            count += len(session.connection().execute(_UNREFERENCED, arrays(page)).all())
    return count


def _old_calls(factory: SessionFactory, rule: RetentionRule) -> Iterator[list[Named]]:
    after = Named(uuid.UUID(int=0), "")
    while True:
        with factory() as session:  # No transaction stays open while the page is pruned.
            found = session.connection().execute(_OLD_CALLS, {**after._asdict(), "age": rule.age}).all()
        if not found:
            return
        page = [Named(*row) for row in found]
        yield page
        after = page[-1]


def _delete_calls(session: Session, batch: list[Named], rule: RetentionRule) -> tuple[int, list[Named]]:
    """Delete those of the calls that are free, and what only they referred to, as far as the batch has room.

    Return how many, and the calls that these referred to.
    """
    connection = session.connection()

    def named(statement: sa.TextClause, rows: list[Named], **more: Any) -> list[Named]:
        return [Named(*row) for row in connection.execute(statement, {**arrays(rows), **more})]

    due = named(_UNREFERENCED, named(_LOCK_CALLS, batch, age=rule.age))
    if not due:
        return 0, []
    at_most = rule.batch // len({call.owner_id for call in due})
    below = named(_BELOW, due, age=rule.age, at_most=at_most, locked_owners=None, locked_names=None)
    if below:
        locked = arrays(named(_LOCK_CALLS, below, age=rule.age))
        # Again: of these alone, and with what others have committed before they were locked.
        of_locked = {"locked_owners": locked["owners"], "locked_names": locked["names"]}
        due += named(_BELOW, due, age=rule.age, at_most=at_most, **of_locked)
    connection.execute(_RELEASE_VALUES, arrays(due))
    freed = {*named(_DELETE_SOURCES, due), *named(_DELETE_EDGES, due)}
    connection.execute(_DELETE_TAGS_OF_CALLS, arrays(due))
    calls = connection.execute(_DELETE_CALLS, arrays(due)).all()
    owners, tasks, arguments = zip(*calls, strict=True)
    evaluated = {"owners": [*owners], "tasks": [*tasks], "arguments": [*arguments]}
    connection.execute(_DELETE_EVALUATIONS, evaluated)
    connection.execute(_MARK_TASKS, evaluated)
    return len(due), sorted(freed.difference(due))


_GIVEN = """unnest(CAST(:owners AS uuid[]), CAST(:names AS text[])) AS given (owner_id, name)"""

# Read whole: an execution is a program that ran, and has a row.
_EXECUTIONS = sa.text("""
    SELECT owner_id, id FROM platform.call_execution AS execution
    WHERE coalesce(updated_time, (
        SELECT coalesce(job.end_time, job.start_time) FROM platform.call_job AS job
        WHERE job.owner_id = execution.owner_id AND job.id = execution.job_id
    )) < now() - CAST(:age AS interval)
    ORDER BY owner_id, id
    """)

_LOCK_EXECUTION = sa.text("""
    SELECT job_id FROM platform.call_execution AS execution
    WHERE owner_id = CAST(:owner_id AS uuid) AND id = :name
      AND (updated_time < now() - CAST(:age AS interval)) IS NOT FALSE
    FOR UPDATE SKIP LOCKED
    """)

# The first job stays with its execution. The last ones go first: a job that goes before those that it called
# changes each of them. By a range, since only the index that has jobs by execution has them in this order.
_DELETE_JOBS = sa.text("""
    DELETE FROM platform.call_job WHERE owner_id = CAST(:owner_id AS uuid) AND ctid = ANY (ARRAY(
        SELECT job.ctid FROM platform.call_job AS job
        WHERE job.owner_id = CAST(:owner_id AS uuid) AND job.execution_id BETWEEN :name AND :name
          AND job.id <> (
            SELECT first.job_id FROM platform.call_execution AS first
            WHERE first.owner_id = CAST(:owner_id AS uuid) AND first.id = :name)
        ORDER BY job.execution_id DESC, job.start_time DESC LIMIT :batch FOR UPDATE
    )) RETURNING id
    """)

_DELETE_EXECUTION = sa.text("""
    DELETE FROM platform.call_execution WHERE owner_id = CAST(:owner_id AS uuid) AND id = :name
    RETURNING job_id
    """)

_DELETE_TAGS = sa.text("""
    DELETE FROM platform.entity_tag
    WHERE owner_id = CAST(:owner_id AS uuid) AND entity_id = ANY (CAST(:entities AS text[]))
      AND entity_type IN ('Execution', 'Job')
    """)

_OLD_CALLS = sa.text(f"""
    SELECT owner_id, call_hash FROM platform.call_node
    WHERE (owner_id, call_hash) > (CAST(:owner_id AS uuid), :name)
      AND timestamp < now() - CAST(:age AS interval)
    ORDER BY owner_id, call_hash LIMIT {FETCHED}
    """)

_LOCK_CALLS = sa.text(f"""
    SELECT node.owner_id, node.call_hash FROM {_GIVEN}
    JOIN platform.call_node AS node ON node.owner_id = given.owner_id AND node.call_hash = given.name
    WHERE node.timestamp < now() - CAST(:age AS interval)
    ORDER BY node.owner_id, node.call_hash FOR UPDATE OF node SKIP LOCKED
    """)

# Scalar queries: each is asked of these calls alone, whatever the planner knows of the tables.
_UNREFERENCED = sa.text(f"""
    SELECT given.owner_id, given.name FROM {_GIVEN}
    WHERE (SELECT true FROM platform.call_job AS job
           WHERE job.owner_id = given.owner_id AND job.call_hash = given.name LIMIT 1) IS NULL
      AND (SELECT true FROM platform.call_edge AS edge
           WHERE edge.owner_id = given.owner_id AND edge.child_id = given.name LIMIT 1) IS NULL
      AND (SELECT true FROM platform.call_argument_source AS source
           WHERE source.owner_id = given.owner_id AND source.result_call_hash = given.name LIMIT 1) IS NULL
    """)

# One level of calls after another: those that only calls of the levels before refer to. A level has all that
# go in an array, since a recursive query can be asked for the rows of the last level alone.
_BELOW = sa.text("""
    WITH RECURSIVE level (owner_id, gone, last) AS (
        SELECT given.owner_id, array_agg(given.name COLLATE "C"), array_agg(given.name COLLATE "C")
        FROM unnest(CAST(:owners AS uuid[]), CAST(:names AS text[])) AS given (owner_id, name)
        GROUP BY given.owner_id
        UNION ALL
        SELECT level.owner_id, level.gone || freed.names, freed.names
        FROM level CROSS JOIN LATERAL (
            SELECT array_agg(below.name) AS names FROM (
                SELECT DISTINCT referred.name FROM (
                    SELECT edge.child_id AS name FROM platform.call_edge AS edge
                    WHERE edge.owner_id = level.owner_id AND edge.parent_id = ANY (level.last)
                    UNION ALL
                    SELECT source.result_call_hash FROM platform.call_argument_source AS source
                    WHERE source.owner_id = level.owner_id AND source.arg_hash = ANY (ARRAY(
                        SELECT argument.arg_hash FROM platform.call_argument AS argument
                        WHERE argument.owner_id = level.owner_id AND argument.call_hash = ANY (level.last)))
                ) AS referred
                WHERE (SELECT node.timestamp FROM platform.call_node AS node
                       WHERE node.owner_id = level.owner_id AND node.call_hash = referred.name
                      ) < now() - CAST(:age AS interval)
                  AND (SELECT true FROM platform.call_job AS job
                       WHERE job.owner_id = level.owner_id AND job.call_hash = referred.name LIMIT 1) IS NULL
                  AND (SELECT true FROM platform.call_edge AS edge
                       WHERE edge.owner_id = level.owner_id AND edge.child_id = referred.name
                         AND edge.parent_id <> ALL (level.gone) LIMIT 1) IS NULL
                  AND (SELECT true FROM platform.call_argument_source AS source
                       WHERE source.owner_id = level.owner_id AND source.result_call_hash = referred.name
                         AND (SELECT argument.call_hash FROM platform.call_argument AS argument
                              WHERE argument.owner_id = level.owner_id
                                AND argument.arg_hash = source.arg_hash
                             ) <> ALL (level.gone) LIMIT 1) IS NULL
                  AND (CAST(:locked_owners AS uuid[]) IS NULL OR (level.owner_id, referred.name) IN (
                       SELECT * FROM unnest(CAST(:locked_owners AS uuid[]), CAST(:locked_names AS text[]))))
                LIMIT :at_most
            ) AS below
        ) AS freed
        WHERE freed.names IS NOT NULL AND cardinality(level.gone) < :at_most
    )
    SELECT owner_id, unnest(last) FROM level WHERE cardinality(gone) > cardinality(last)
    """)

_RELEASE_VALUES = sa.text(f"""
    SELECT platform.release_values(owner_id, array_agg(DISTINCT value_hash)) FROM (
        SELECT node.owner_id, node.value_hash FROM {_GIVEN}
        JOIN platform.call_node AS node ON node.owner_id = given.owner_id AND node.call_hash = given.name
        UNION ALL
        SELECT argument.owner_id, argument.value_hash FROM {_GIVEN}
        JOIN platform.call_argument AS argument
          ON argument.owner_id = given.owner_id AND argument.call_hash = given.name
        UNION ALL
        SELECT tag.owner_id, tag.value #>> '{{}}' FROM {_GIVEN}
        JOIN platform.entity_tag AS tag ON tag.owner_id = given.owner_id AND tag.entity_id = given.name
        WHERE tag.key = 'redun.context'
    ) AS released GROUP BY owner_id ORDER BY owner_id
    """)

_DELETE_SOURCES = sa.text(f"""
    DELETE FROM platform.call_argument_source AS source USING platform.call_argument AS argument
    JOIN {_GIVEN}
      ON argument.owner_id = given.owner_id AND argument.call_hash = given.name
    WHERE source.owner_id = argument.owner_id AND source.arg_hash = argument.arg_hash
    RETURNING source.owner_id, source.result_call_hash
    """)

_DELETE_EDGES = sa.text(f"""
    DELETE FROM platform.call_edge AS edge USING {_GIVEN}
    WHERE edge.owner_id = given.owner_id AND edge.parent_id = given.name
    RETURNING edge.owner_id, edge.child_id
    """)

_DELETE_TAGS_OF_CALLS = sa.text(f"""
    DELETE FROM platform.entity_tag AS tag USING {_GIVEN}
    WHERE tag.owner_id = given.owner_id AND tag.entity_id = given.name AND tag.entity_type = 'CallNode'
    """)

_DELETE_CALLS = sa.text(f"""
    DELETE FROM platform.call_node AS node USING {_GIVEN}
    WHERE node.owner_id = given.owner_id AND node.call_hash = given.name
    RETURNING node.owner_id, node.task_hash, node.args_hash
    """)

# So that a call that is made again can be told from one that is new.
_MARK_TASKS = sa.text("""
    WITH called AS MATERIALIZED (
        SELECT task.owner_id, task.hash
        FROM (
            SELECT DISTINCT * FROM unnest(CAST(:owners AS uuid[]), CAST(:tasks AS text[]))
        ) AS given (owner_id, hash)
        JOIN platform.call_task AS task ON task.owner_id = given.owner_id AND task.hash = given.hash
        ORDER BY task.owner_id, task.hash FOR NO KEY UPDATE OF task
    )
    UPDATE platform.call_task AS task SET calls_pruned_at = now()
    FROM called WHERE task.owner_id = called.owner_id AND task.hash = called.hash
    """)

# What is being written is used, and a batch that writes it may wait for a call that goes here.
_DELETE_EVALUATIONS = sa.text("""
    WITH free AS MATERIALIZED (
        SELECT evaluation.owner_id, evaluation.eval_hash, evaluation.value_hash
        FROM (SELECT DISTINCT owner_id, task_hash, args_hash
              FROM unnest(CAST(:owners AS uuid[]), CAST(:tasks AS text[]), CAST(:arguments AS text[]))
                AS given (owner_id, task_hash, args_hash)) AS given
        JOIN platform.evaluation
          ON evaluation.owner_id = given.owner_id AND evaluation.task_hash = given.task_hash
             AND evaluation.args_hash = given.args_hash
        WHERE (SELECT true FROM platform.call_node AS node
               WHERE node.owner_id = given.owner_id AND node.task_hash = given.task_hash
                 AND node.args_hash = given.args_hash LIMIT 1) IS NULL
        ORDER BY evaluation.owner_id, evaluation.eval_hash FOR UPDATE OF evaluation SKIP LOCKED
    ), gone AS (
        DELETE FROM platform.evaluation USING free
        WHERE evaluation.owner_id = free.owner_id AND evaluation.eval_hash = free.eval_hash
        RETURNING evaluation.owner_id, evaluation.value_hash
    )
    SELECT platform.release_values(owner_id, array_agg(value_hash)) FROM gone
    GROUP BY owner_id ORDER BY owner_id
    """)
