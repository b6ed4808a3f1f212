"""What becomes of a row whose worker died, by its kind, its status and a policy.

===================  =======================  ============  =============
Row                  Status                   ``fail``      ``requeue``
===================  =======================  ============  =============
workflow             created, queued          released      released
workflow             pending                  queued        queued
workflow             running                  failed        restarted
job                  created, queued          released      released
job                  running                  failed        restarted
interactive_session  created, queued          released
interactive_session  pending                  released
interactive_session  running                  failed
service              created, queued          released
service              pending                  released
service              running                  failed
===================  =======================  ============  =============

*released*
   It keeps its status and loses its lease: another worker can take it. A job loses its phase.
*queued*
   Nothing was started, so it goes back to the queue as it is, and waits there: 10 seconds, then 20, then 40.
   After the third time it fails.
*failed*
   The reason in its history says how its worker was lost.
*restarted*
   It fails, since what was started cannot be queued again, and a restart of it is queued: of a run another
   run, in the same workspace, which waits 10 seconds, then 20, then 40; of a job another job of its run, at
   once. After three restarts it only fails.

With the policy ``nothing`` it is left as it is, with its lease. Instead of failing or being restarted, a run
that was asked to stop is stopped, and so is a job whose run was asked or has stopped.

A policy is chosen by the row's table. Runs of one type, and their jobs, can have one of their own, as
``workflow:TYPE``. These are the policies at the start of a node:

=======================================  ============
Row                                      Policy
=======================================  ============
workflow, job                            ``fail``
workflow:service, workflow:daemon        ``requeue``
interactive_session, service             ``fail``
=======================================  ============
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from platform_db import errors
from platform_db.states import Status


class Policy(str, enum.Enum):
    """What recovery does with a row whose worker died (see :mod:`platform_db.leases.policies`)."""

    fail = "fail"
    requeue = "requeue"
    nothing = "nothing"


class Action(enum.Enum):
    """What becomes of one row."""

    released = enum.auto()
    queued = enum.auto()
    failed = enum.auto()
    restarted = enum.auto()
    stopped = enum.auto()


Policies = Mapping[str, Policy | str]
"""A policy for each table, or for ``workflow:TYPE``; what is not there is left alone."""

_TYPE = "workflow:"

_SESSION = {
    "created": Action.released,
    "queued": Action.released,
    "pending": Action.released,
    "running": None,
}

# By table and status; None is what the policy says.
_TABLE: Mapping[str, Mapping[str, Action | None]] = {
    "workflow": {
        "created": Action.released,
        "queued": Action.released,
        "pending": Action.queued,
        "running": None,
    },
    "job": {"created": Action.released, "queued": Action.released, "running": None},
    "interactive_session": _SESSION,
    "service": _SESSION,
}

# What has a queue to go back to.
_QUEUED = ("workflow", "job")

DEFAULT_POLICIES: Policies = MappingProxyType(dict.fromkeys(_TABLE, Policy.fail))
"""Where a worker has been silent for too long."""

NODE_POLICIES: Policies = MappingProxyType(
    {**DEFAULT_POLICIES, "workflow:service": Policy.requeue, "workflow:daemon": Policy.requeue}
)
"""Where a node starts again. Override one of them by ``{**NODE_POLICIES, "workflow:ops": "nothing"}``."""


class Chosen:
    """The policies of one call.

    :raises errors.InvalidArgument: a policy that the kind of row does not have.
    """

    def __init__(self, policies: Policies) -> None:
        self.by_table: dict[str, Policy] = {}
        self.by_type: dict[str, Policy] = {}
        for kind, policy in policies.items():
            type_ = kind.removeprefix(_TYPE) if kind.startswith(_TYPE) else None
            table = kind if type_ is None else "workflow"
            if table not in _TABLE:
                raise errors.InvalidArgument(
                    f"there are no leases of {kind!r}; choose from {', '.join(_TABLE)}, {_TYPE}TYPE"
                )
            possible = [p.value for p in Policy if p is not Policy.requeue or table in _QUEUED]
            if policy not in possible:
                given = getattr(policy, "value", policy)
                raise errors.InvalidArgument(
                    f"{given!r} is no policy for a {kind}; choose from {', '.join(possible)}"
                )
            if type_ is None:
                self.by_table[table] = Policy(policy)
            else:
                self.by_type[type_] = Policy(policy)

    @property
    def restart_runs(self) -> bool:
        """Whether some runs are to be restarted."""
        return Policy.requeue in (self.by_table.get("workflow"), *self.by_type.values())

    def parameters(self, table: str) -> dict[str, object]:
        """Return what a statement leaves alone: the rows of other types than these, and of these types."""
        return {
            "typed": list(self.by_type),
            "typed_left": [type_ for type_, policy in self.by_type.items() if policy is Policy.nothing],
            "others_left": self.by_table.get(table, Policy.nothing) is Policy.nothing,
        }

    def action(self, table: str, type_: str | None, status: Status | str, *, stopping: bool) -> Action:
        """Return what becomes of a row that is not left alone.

        :param type_: the type of the run, where it is one or a job of one.
        :param stopping: whether the run was asked to stop, or has stopped.
        """
        action = _TABLE[table][str(status)]
        if action is not None:
            return action
        if stopping:
            return Action.stopped
        policy = self.by_table.get(table, Policy.nothing)
        if type_ is not None:
            policy = self.by_type.get(type_, policy)
        return Action.restarted if policy is Policy.requeue else Action.failed
