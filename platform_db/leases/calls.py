"""Ending the jobs of executions that died: their heartbeat has stopped."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.bounds import require_limit, require_seconds
from platform_db.database.distribution import execute_everywhere
from platform_db.database.session import takes_session

BATCH = 1000


@takes_session
def end_lost_calls(session: Session, older_than: timedelta | float, *, batch: int = BATCH) -> int:
    """End up to ``batch`` running jobs of executions whose heartbeat is older, and return how many.

    Each ends at the last heartbeat, without a call: it is lost. If its execution lives after all, as with a
    clock that is late, the job's own end replaces this one. What has no heartbeat is left alone, and so is a
    job that is locked at this moment.

    :param older_than: in seconds where it is a number. The start of a job is a heartbeat, too. Both are by
        the clock of the execution's machine.
    """
    bounds = {
        "age": timedelta(seconds=require_seconds(older_than, "age of a heartbeat")),
        "batch": require_limit(batch, "batch"),
    }
    return len(execute_everywhere(session.connection(), _END_LOST, bounds))


# What is running is in an index of its own, and little. The latest start is asked for by a range, since only
# the index that has jobs by execution has them in this order: with an equality, one by the time alone would
# do, and lead past all that other executions began since.
_END_LOST = sa.text("""
    WITH lost AS MATERIALIZED (
        SELECT job.owner_id, job.id, execution.updated_time
        FROM platform.call_job AS job
        JOIN platform.call_execution AS execution
          ON execution.owner_id = job.owner_id AND execution.id = job.execution_id
        WHERE job.end_time IS NULL AND execution.updated_time < clock_timestamp() - CAST(:age AS interval)
          AND (SELECT latest.start_time FROM platform.call_job AS latest
               WHERE latest.owner_id = execution.owner_id
                 AND latest.execution_id BETWEEN execution.id AND execution.id
               ORDER BY latest.execution_id DESC, latest.start_time DESC LIMIT 1
              ) < clock_timestamp() - CAST(:age AS interval)
        ORDER BY job.owner_id, job.id LIMIT :batch FOR NO KEY UPDATE OF job SKIP LOCKED
    )
    UPDATE platform.call_job AS job SET end_time = greatest(job.start_time, lost.updated_time)
    FROM lost WHERE job.owner_id = lost.owner_id AND job.id = lost.id
    RETURNING job.id
    """)
