"""Recording executions and their jobs."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from redun.backends.db import db_retry
from redun.utils import utcnow

from platform_db.integrations.redun.part import Part
from platform_db.provenance.calls import is_silent

# Another process, which this job starts, asks for it.
_SUBRUN = "redun.subrun_root_task"


class Jobs(Part):
    """The methods about executions and jobs."""

    _executions: dict[str, dict[str, Any]]

    @db_retry
    def record_execution(self, exec_id: str, args: list[str]) -> None:
        """Begin an execution; it is recorded with its first job."""
        self._executions[exec_id] = {
            "id": exec_id,
            "args": json.dumps(args),
            "updated_time": None,
            "job_id": None,
            "workflow_id": self.workflow_id,
        }

    @db_retry
    def record_updated_time(self, execution_id: str) -> None:
        """Record the heartbeat of an execution."""
        execution = self._executions.get(execution_id)
        if execution is None:
            super().record_updated_time(execution_id)  # It is another process's.
            return
        execution["updated_time"] = utcnow()
        if execution["job_id"] is not None:
            self.recorder.put("call_execution", execution_id, execution, "record_updated_time")

    @db_retry
    def record_job_start(self, job: Any, now: datetime | None = None) -> None:
        """Record that a job started.

        One whose result is cached is recorded by its end, or by what it calls: until then, no other process
        can ask for it. Where its result is final and it is part of a job that is recorded, it has ended now.
        """
        self.end_transaction()
        if job.was_cached and job.parent_job is not None:
            row = self._start(job, now, "record_job_start")
            if job.call_hash is None or job.call_hash != self._final or job.parent_job.id in self._held:
                self._held[job.id] = row
            else:  # redun ends all of them together, and the writer would begin to work then.
                row |= {"end_time": row["start_time"], "cached": True, "call_hash": job.call_hash}
                self.recorder.put("call_job", job.id, row, "record_job_start")
            return
        self._put_start(job, now, "record_job_start")
        if job.task.fullname == _SUBRUN:
            self.recorder.flush()

    @db_retry
    def record_job_end(self, job: Any, now: datetime | None = None, status: str | None = None) -> None:
        """Record that a job ended, with its start where that was not recorded.

        Nothing is left to record of one that ended when it started.
        """
        now = now or utcnow()
        self.end_transaction()
        row = self._started.pop(job.id, None) or self._put_start(job, now, "record_job_end")
        self._started.pop(job.id, None)
        if row["end_time"] is None:
            row = {**row, "end_time": now, "cached": job.was_cached, "call_hash": job.call_hash}
            self._put(row, "record_job_end")
        if job.call_hash:
            self.latest.add(job)
        execution = self._executions.get(job.execution.id)
        if execution is not None and is_silent(execution, now):  # redun beats when it has nothing to do.
            self.record_updated_time(job.execution.id)
        parent = job.parent_job
        if parent is None or parent.id not in self._started:
            # The end of an execution, or of what another process's job waits for.
            self.recorder.flush()
            if parent is None:
                self._executions.pop(job.execution.id, None)
                self.latest.forget(job.execution.id)
                self.upcoming.clear()

    def _start(self, job: Any, now: datetime | None, method: str) -> dict[str, Any]:
        parent = job.parent_job
        self.put_value(job.task, None, method)
        row = {
            "id": job.id,
            "start_time": now or utcnow(),
            "end_time": None,
            "task_hash": job.task.hash,
            "cached": False,
            "call_hash": None,
            "parent_id": parent.id if parent else None,
            "execution_id": job.execution.id,
        }
        self._started[job.id] = row
        return row

    def _put_start(self, job: Any, now: datetime | None, method: str) -> dict[str, Any]:
        row = self._start(job, now, method)
        if job.parent_job is not None:
            self._put(row, method)
            return row
        with self.recorder.together():
            execution = self._executions[job.execution.id]
            execution["job_id"] = job.id
            self.recorder.put("call_execution", job.execution.id, execution, method)
            self.recorder.put("call_job", job.id, row, method)
        return row

    def _put(self, row: dict[str, Any], method: str) -> None:
        """Record a job, after those that it is part of."""
        rows = [row]
        while (parent := self._held.get(rows[-1]["parent_id"])) is not None:
            rows.append(parent)
        for each in reversed(rows):
            self.recorder.put("call_job", each["id"], each, method)
            self._held.pop(each["id"], None)

    def get_job(self, job_id: str) -> dict[str, Any] | None:
        """Return the ids of a job, of its parent and of its execution."""
        row = self._started.get(job_id)
        if row is not None:
            return {"job_id": row["id"], "parent_id": row["parent_id"], "execution_id": row["execution_id"]}
        found: dict[str, Any] | None = super().get_job(job_id)
        return found
