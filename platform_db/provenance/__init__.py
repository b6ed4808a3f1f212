"""Provenance: calls of tasks, their arguments and results, kept to be found again and to be explained."""

from platform_db.provenance.calls import Call, CallStore, Task
from platform_db.provenance.lineage import Argument, Direction, Step, lineage
from platform_db.provenance.misses import ChangedArgument, Miss, Reason, explain_miss
from platform_db.provenance.reading import Execution, describe, find_entity, list_executions
from platform_db.provenance.recorder import Recorder, recorder_of
from platform_db.provenance.values import Result

__all__ = [
    "Argument",
    "Call",
    "CallStore",
    "ChangedArgument",
    "Direction",
    "Execution",
    "Miss",
    "Reason",
    "Recorder",
    "Result",
    "Step",
    "Task",
    "describe",
    "explain_miss",
    "find_entity",
    "lineage",
    "list_executions",
    "recorder_of",
]
