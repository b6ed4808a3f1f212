"""Where each table is when Citus distributes the database over several machines, and what differs there.

A tenant's rows are on one node: its tables are distributed by ``owner_id``, and co-located. What every node
asks for is a reference table, which each node has a copy of. What is left stays on the coordinator.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from importlib.resources import files

from platform_db.models import Base
from platform_db.schema.scripts import read_statements


class Placement(str, enum.Enum):
    """Where the rows of a table are."""

    distributed = "distributed"
    reference = "reference"
    local = "local"


REFERENCE = {
    "user_": "what a tenant owns refers to it",
    "resource": "what a tenant uses refers to it",
    "extra_transition": "the guard reads it on every node",
    "event_checkpoint": "what no watcher has seen is not pruned on any node",
    "audit_seal": "each node keeps the audit rows of seals that are kept",
}
"""Tables with a copy on every node, and why."""

LOCAL = {
    "audit_chain": "the sealer's own",
    "audit_seal_digests": "one chain for all tenants",
    "event_failure": "a watcher reads the events of all tenants",
    "prune_mark": "a job's own",
    "secret_digest": "a secret is unique over all tenants",
    "task_lease": "a job's own",
    "task_outcome": "a job's own",
    "user_token": "a value is looked up before its owner is known",
    "user_token_last_use": "it is written where the token was looked up",
}
"""Tables that stay on the coordinator, and why."""

COORDINATOR_FUNCTIONS = {
    "add_log_partitions": "a partition has rows of all tenants",
    "clear_log_partition": "a partition has rows of all tenants",
    "log_partitions": "it reads the coordinator's catalogue",
    "collect_audit_rows": "it locks the chain of seals",
    "estimate_runs": "it reads the coordinator's statistics",
    "settled_number": "it asks all nodes",
    "hold_shards": "it holds them before a node is asked",
}
"""Functions that no other node calls, and why."""

SEQUENCES = {
    "history_number": ("note", "number"),
    "log_number": ("log_chunk", "number"),
    "quota_version": ("workflow_resource", "version"),
}
"""Sequences that every node draws from, each with a column that has such numbers."""

TRIGGERS = {
    "release_executions": "workflow",
    "release_children": "call_job",
}
"""Triggers in place of ``ON DELETE SET NULL``, with their tables."""

SETTINGS = {
    "citus.propagate_set_commands": "local",  # SET LOCAL reaches the nodes: the tenant, the actor.
    "citus.allow_nested_distributed_execution": "on",  # Functions on a node read reference tables.
    "citus.multi_shard_modify_mode": "sequential",  # A transaction may also change reference tables.
    "synchronous_commit": "on",  # A shard is moved up to what its node has written to the disk's log.
}
"""Settings of a distributed database."""


def placements() -> dict[str, Placement]:
    """Return where each table is to be, parents first."""
    return {table.name: _placement(table.name) for table in Base.metadata.sorted_tables}


def _placement(table: str) -> Placement:
    if table in REFERENCE:
        return Placement.reference
    return Placement.local if table in LOCAL else Placement.distributed


def cluster_statements() -> list[str]:
    """Return the statements that create the functions of a distributed database."""
    return read_statements(files(__package__) / "cluster.sql")


def trigger_statements() -> dict[str, str]:
    """Return the statements that create the triggers of a distributed database, by name."""
    return {
        name: f"CREATE TRIGGER {name} AFTER DELETE ON platform.{table}"
        " FOR EACH ROW EXECUTE FUNCTION platform.release_reference()"
        for name, table in TRIGGERS.items()
    }


def expected_when_distributed(expected: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """Return what a distributed database is to have, of what any other has.

    :param expected: the definitions by kind and name, as ``compare.read_catalogue`` gives them.
    :param stored: those of the database.
    """
    there = dict(expected)
    for table, placement in placements().items():
        if placement is not Placement.distributed:
            continue
        for name, definition in expected.items():
            if not name.endswith(f" on {table}") or not name.startswith("constraint "):
                continue
            constraint = name.split(" ")[1]
            if unique := re.match(r"UNIQUE \((.*)\)", definition):
                if "owner_id" not in unique[1].split(", "):
                    del there[name]
                    index = f"index {constraint}"
                    there[index] = there[index].replace("UNIQUE ", "", 1)
            elif "ON DELETE SET NULL" in definition:
                there[name] = without_set_null(definition)
    bodies = {_name_of(text): text.partition("$$")[2].removesuffix("$$") for text in cluster_statements()}
    for name, definition in stored.items():
        kind, _, rest = name.partition(" ")
        if kind == "function" and (body := bodies.pop(rest.partition("(")[0], None)) is not None:
            there[name] = definition if body in definition else body
        elif kind == "trigger" and rest.partition(" ")[0] in TRIGGERS:
            there[name] = definition
    return there | {f"function {name}()": body for name, body in bodies.items()}


def without_set_null(definition: str) -> str:
    """Return a foreign key's definition that leaves what ``ON DELETE SET NULL`` does to a trigger.

    It is looked at when the transaction ends: the trigger fires after the row is deleted.
    """
    return re.sub(r" ON DELETE SET NULL \(\w+\)", "", definition) + " DEFERRABLE INITIALLY DEFERRED"


def _name_of(function: str) -> str:
    found = re.search(r"FUNCTION platform\.(\w+)", function)
    assert found is not None, function  # noqa: S101 # the file has functions alone
    return found[1]
