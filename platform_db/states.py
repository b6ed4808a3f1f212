"""What may follow what: every status, and every transition between two of them.

This is plain data. The arguments of the database's triggers come from :data:`MACHINES`
(:mod:`platform_db.schema.objects`), the documentation's diagrams too, and a test holds them together.
Setting the status that a row already has is no change, and never an error; the tables leave it out.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from platform_db import errors


class Status(str, enum.Enum):
    """A status: its value is its name, and also what the database stores."""

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def should_cleanup_job(cls, status: Status | str) -> bool:
        """Tell whether what runs for a job is removed once it has this status (see :mod:`platform_db.jobs`).

        :param status: a status, or its name.
        """
        # Found when it is called: this file imports nothing from above.
        cleanup = importlib.import_module("platform_db.jobs.cleanup")
        removed: bool = cleanup.should_cleanup_job(cls(status))
        return removed


class RunStatus(Status):
    """Statuses of a workflow's run, and of sessions and services."""

    created = "created"
    queued = "queued"
    pending = "pending"
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"
    deleted = "deleted"


class JobStatus(Status):
    """Statuses of a job."""

    created = "created"
    queued = "queued"
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"


class UserTokenStatus(Status):
    """Statuses of a token."""

    requested = "requested"
    active = "active"
    revoked = "revoked"


class WorkspaceRetentionRuleStatus(Status):
    """Statuses of a rule that says how long files of a workspace are kept."""

    created = "created"
    active = "active"
    inactive = "inactive"
    pending = "pending"
    applied = "applied"


S = TypeVar("S", bound=Status)


@dataclass(frozen=True)
class Machine(Generic[S]):
    """A status column and its transitions.

    :param entity: the table, which is also the ``entity`` of its rows in ``status_change``.
    :param statuses: the enumeration that the column stores.
    :param transitions: for each status, those that may follow it.
    :param ended: the statuses in which a row is no longer alive.
    :param times: the columns that the guard keeps: start, end and, for a run, stop.
    :param is_leased: whether workers hold leases of its rows.
    """

    entity: str
    statuses: type[S]
    transitions: Mapping[S, frozenset[S]]
    ended: frozenset[S]
    times: tuple[str, ...] = ()
    is_leased: bool = False

    @property
    def alive(self) -> list[S]:
        """The statuses in which a row can still be worked on, in their order."""
        return [status for status in self.statuses if status not in self.ended]

    def status(self, name: S | str) -> S:
        """Return the status of this name.

        :raises errors.UnknownStatus: there is none.
        """
        try:
            return self.statuses(name)
        except ValueError:
            known = ", ".join(self.statuses)
            raise errors.UnknownStatus(f"{self.entity} has no status {str(name)!r}, only {known}") from None

    def allows(self, stored: S, status: S) -> bool:
        """Tell whether ``status`` may be written over ``stored``; over itself it always may."""
        return stored == status or status in self.transitions[stored]

    def sources(self, status: S) -> frozenset[S]:
        """Return the other statuses that ``status`` may follow."""
        return frozenset(s for s in self.statuses if s != status and status in self.transitions[s])

    def way(self, stored: S, status: S) -> list[S] | None:
        """Return the fewest statuses that lead from one to the other, which is the last of them.

        :returns: an empty list from a status to itself, None where no way leads there.
        """
        ways: dict[S, list[S]] = {stored: []}
        for reached in (queue := [stored]):
            for following in self.statuses:
                if following in self.transitions[reached] and following not in ways:
                    ways[following] = [*ways[reached], following]
                    queue.append(following)
        return ways.get(status)

    @property
    def terminal(self) -> frozenset[S]:
        """The statuses that nothing may follow."""
        return frozenset(s for s in self.statuses if not self.transitions[s])


def _machine(
    entity: str, statuses: type[S], follow: dict[str, str], ended: str, times: tuple[str, ...] = ()
) -> Machine[S]:
    """Build a machine from one line of names per status. What has times is worked on, and so leased."""

    def named(names: str) -> frozenset[S]:
        return frozenset(statuses(name) for name in names.split())

    transitions = MappingProxyType({status: named(follow.get(status.value, "")) for status in statuses})
    return Machine(entity, statuses, transitions, named(ended), times, is_leased=bool(times))


RUN_TIMES = ("run_started_at", "run_finished_at", "run_stopped_at")
JOB_TIMES = ("started_at", "finished_at")

_RUN_ENDED = "finished failed stopped deleted"


_SESSION_TRANSITIONS = {
    "created": "queued pending running stopped failed deleted",
    "queued": "pending running stopped failed deleted",
    "pending": "running stopped failed deleted",
    "running": "finished stopped failed deleted",
    "finished": "deleted",
    "failed": "deleted",
    "stopped": "deleted",
}

# REANA documents fewer: created → queued, deleted; queued → pending, failed, deleted; pending → running,
# deleted. The others are what platforms need: an engine that dies while its run is pending, a run that is
# stopped in the queue, a claim that is given back.
WORKFLOW = _machine(
    "workflow",
    RunStatus,
    {
        "created": "queued pending stopped failed deleted",
        "queued": "pending running stopped failed deleted",
        "pending": "queued running stopped failed deleted",
        "running": "finished failed stopped",
        "finished": "running deleted",
        "failed": "running deleted",
        "stopped": "deleted",
    },
    _RUN_ENDED,
    RUN_TIMES,
)

# A job is observed, not commanded, and an observer can miss a step: nearly everything may follow.
JOB = _machine(
    "job",
    JobStatus,
    {
        "created": "queued running finished failed stopped",
        "queued": "running finished failed stopped",
        "running": "finished failed stopped",
    },
    "finished failed stopped",
    JOB_TIMES,
)

INTERACTIVE_SESSION = _machine("interactive_session", RunStatus, _SESSION_TRANSITIONS, _RUN_ENDED, RUN_TIMES)

SERVICE = _machine("service", RunStatus, _SESSION_TRANSITIONS, _RUN_ENDED, RUN_TIMES)

USER_TOKEN = _machine(
    "user_token", UserTokenStatus, {"requested": "active revoked", "active": "revoked"}, "revoked"
)

WORKSPACE_RETENTION_RULE = _machine(
    "workspace_retention_rule",
    WorkspaceRetentionRuleStatus,
    {
        "created": "active inactive",
        "active": "inactive pending",
        "inactive": "active",
        "pending": "applied active inactive",
    },
    "applied",
)

MACHINES: Mapping[str, Machine[Any]] = MappingProxyType(
    {
        machine.entity: machine
        for machine in (WORKFLOW, JOB, INTERACTIVE_SESSION, SERVICE, USER_TOKEN, WORKSPACE_RETENTION_RULE)
    }
)
