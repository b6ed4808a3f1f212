"""Which workflow goes first: small ones before large ones, and users with few runs before users with many.

Plain arithmetic on amounts that the caller has read: nothing here asks a database, a cluster or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LOWEST_OVERLOAD_FACTOR = 0.1


def complexity_memory(complexity: Iterable[Sequence[int]]) -> int:
    """Return the bytes that all jobs of all steps need together.

    :param complexity: steps, each as ``(jobs, bytes per job)``.
    """
    return sum(jobs * memory for jobs, memory in complexity)


def complexity_priority(complexity: Sequence[Sequence[int]] | None, cluster_memory: int | None) -> int:
    """Return 0 to 100: the percentage of the cluster's memory that a workflow leaves free.

    Evaluated in floats and cut to an integer as the formula is written, so that every component that
    evaluates it gets the same number: 29 % free is 28, because ``0.29 * 100`` is just below 29.

    :param complexity: steps, each as ``(jobs, bytes per job)``; none gives 0.
    :param cluster_memory: bytes; none, or fewer than the workflow needs, gives 0.
    """
    if not complexity or not cluster_memory or cluster_memory < 0:
        return 0
    memory = complexity_memory(complexity)
    if memory > cluster_memory:
        return 0
    return int(round(1 - memory / cluster_memory, 2) * 100)


def overload_factor(active_runs: int, maximum: int) -> float:
    """Return 1.0 for an owner without active runs, falling to 0.1 at ``maximum`` of them and beyond.

    :param active_runs: how many runs the owner has pending or running.
    :param maximum: ``PLATFORM_DB_MAX_CONCURRENT_WORKFLOWS``; with 0 every owner is at the lowest.
    """
    if active_runs >= maximum:
        return LOWEST_OVERLOAD_FACTOR
    return round(1 - 0.9 * active_runs / maximum, 2)


def workflow_priority(complexity_priority: int, overload_factor: float) -> int:
    """Return 0 to 100: the rounded product of the two. Higher goes first."""
    return round(complexity_priority * overload_factor)
