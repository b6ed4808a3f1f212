"""Which functions of the package send statements that name no owner, and why.

A name is a function's, a module's or a room's, below ``platform_db``. A function that takes a row or its id,
and was given the id alone, is no part of the list: ``tests/named_owners.py`` knows it by its ``Target``.
"""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    "a person on the command line gives an id": ("cli.commands", "cli.runs"),
    "the demonstration has a database of its own": ("cli.demonstration",),
    "the owner is looked up: by a secret's digest, the id of a reservation, or the parent of a new row": (
        "tokens.finding",
        "lifecycle.target._owner_where_it_counts",
        "quota.reservations._key_of",
        "models.flush._owners",
    ),
    "what others share with a user is theirs": (
        "workflows.find.get_workflow",
        "workflows.sharing.list_shared",
    ),
    "a list has the rows of all owners where its filter names none": ("query",),
    "events, and the rows of the audit log, have places among those of all owners": (
        "audit.reading",
        "audit.retention",
        "audit.sealing",
        "audit.verification",
        "events.place",
        "events.reading",
    ),
    "a worker takes and recovers the rows of any owner": (
        "leases.calls",
        "leases.counting",
        "leases.recovery",
        "queue.claiming",
        "queue.status",
    ),
    "a job begins with the candidates of all owners; what it does with them names each": (
        "quota.batches.read_pages",
        "quota.disk_update",
        "quota.periods",
        "quota.reservations.release_expired_reservations",
        "retention.cache_limit",
        "retention.clear_months",
        "retention.prune._release_digests",
        "retention.prune_calls._old_calls",
        "retention.prune_calls.count_executions",
        "retention.prune_calls.prune_executions",
        "retention.prune_events",
        "retention.prune_values._seen",
        "retention.workspaces.apply_retention_rules",
        "tasks.pruning.delete_old_tasks",
        "tokens.keys",
        "tokens.lifecycle._in_batches",
        "tokens.lifecycle._long_revoked",
        "tokens.rotation",
    ),
    "a directory belongs to every owner's run that sees it": (
        "quota.mounted",
        "retention.workspaces._take",
        "retention.workspaces.names",
        "retention.workspaces.pace",
    ),
    "a new resource is for all users": ("models.resource.create_defaults",),
    "a flush writes what its caller has given as a value, a query too": ("models.log_sizes.store_sizes",),
    "it speaks of all users": ("health", "metrics", "quota.report.report_users"),
    "it brings or copies a whole database": ("integrations.reana", "migrations", "transfer"),
}
