"""The table of rules for ``platform-db db prune``: which rows go, and when.

A rule takes the rows of a table with one of its statuses that have been so for the rule's age, and with them
all that belongs to them: what refers to them by a foreign key, and their leases, notes and status changes.
The audit log has no rule here: its rows outlive what they describe. Tokens have none either: only their
history tells when they were revoked, and each leaves an audit row (:func:`platform_db.tokens.purge`).

What a watcher of events may not have seen stays: rows whose history is too young, and ``row_event``, which
tells of creations and deletions. A watcher that has not moved for ``PLATFORM_DB_WATCHER_HOLD_DAYS`` holds
nothing back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from platform_db.states import WORKFLOW

ENDED = f"status IN ({', '.join(sorted(repr(status.value) for status in WORKFLOW.ended))})"
"""What is true of the rows whose logs may go."""


@dataclass(frozen=True)
class RetentionRule:
    """Which rows of a table are pruned, and when.

    :param table: the table.
    :param age: how long ago ``since`` must be.
    :param since: the column that tells since when the row could go.
    :param statuses: the statuses that a row may have to go; None where it has none.
    :param log_of: for a log, the table whose rows it belongs to, and its column that refers to them; only the
        logs of what has ended go.
    :param whole_months: for logs of runs: whether those of all runs that were made in a month go together,
        once the last is old enough, so that they take no time and leave no dead rows.
    :param batch: how many rows go in one transaction.
    :param archive: whether the rows are written to the archive before, where one is given.
    """

    table: str
    age: timedelta
    since: str
    statuses: tuple[str, ...] | None = None
    log_of: tuple[str, str] | None = None
    whole_months: bool = False
    batch: int = 500
    archive: bool = True


RULES: tuple[RetentionRule, ...] = (
    RetentionRule("workflow", timedelta(days=90), "updated", statuses=("deleted",)),
    RetentionRule("interactive_session", timedelta(days=90), "updated", statuses=("deleted",)),
    RetentionRule("service", timedelta(days=90), "updated", statuses=("deleted",)),
    RetentionRule(
        "log_chunk",
        timedelta(days=365),
        "at",
        log_of=("workflow", "workflow_id"),
        whole_months=True,
        batch=2000,
    ),
    RetentionRule("service_log", timedelta(days=90), "at", log_of=("service", "service_id"), batch=2000),
    RetentionRule("task_record", timedelta(days=365), "submitted", batch=1000, archive=False),
    RetentionRule("call_execution", timedelta(days=365), "updated_time", batch=2000, archive=False),
    RetentionRule("call_node", timedelta(days=365), "timestamp", archive=False),
    RetentionRule("value", timedelta(days=1), "seen_at", archive=False),
    RetentionRule("idempotency_key", timedelta(days=30), "updated", batch=2000, archive=False),
    RetentionRule("job_cache", timedelta(days=365), "updated", archive=False),
    RetentionRule("row_event", timedelta(days=30), "at", batch=5000, archive=False),
    RetentionRule("event_failure", timedelta(days=90), "at", batch=5000, archive=False),
)
