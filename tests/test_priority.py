"""Which workflow goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_db.priority import complexity_memory, complexity_priority, overload_factor, workflow_priority

GIB = 1024**3
steps = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2**44)), max_size=10)
memories = st.integers(1, 2**60)
counts = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("complexity", "cluster_memory", "priority"),
    [
        (None, 100 * GIB, 0),
        ([], 100 * GIB, 0),
        ([(1, GIB)], None, 0),
        ([(1, GIB)], 0, 0),
        ([(1, GIB)], -1, 0),
        ([(8, 5 * GIB)], 100 * GIB, 60),
        ([[8, 5 * GIB], [5, 2 * GIB]], 100 * GIB, 50),
        ([(1, 100 * GIB)], 100 * GIB, 0),
        ([(2, 100 * GIB)], 100 * GIB, 0),
        ([(0, GIB)], 100 * GIB, 100),
    ],
)
def test_the_more_memory_is_left_free_the_higher(complexity, cluster_memory, priority):
    assert complexity_priority(complexity, cluster_memory) == priority


@pytest.mark.parametrize(
    ("active_runs", "maximum", "factor"),
    [(0, 30, 1.0), (15, 30, 0.55), (29, 30, 0.13), (30, 30, 0.1), (31, 30, 0.1), (0, 0, 0.1), (5, 0, 0.1)],
)
def test_the_more_runs_an_owner_has_the_lower(active_runs, maximum, factor):
    assert overload_factor(active_runs, maximum) == factor


def test_the_priority_is_the_rounded_product():
    assert workflow_priority(60, 0.55) == 33
    assert workflow_priority(99, 0.1) == 10
    assert workflow_priority(0, 1.0) == 0


@given(steps, memories)
def test_a_complexity_priority_is_a_percentage_and_follows_the_formula(complexity, cluster_memory):
    priority = complexity_priority(complexity, cluster_memory)
    memory = sum(jobs * bytes_ for jobs, bytes_ in complexity)
    assert complexity_memory(complexity) == memory
    assert 0 <= priority <= 100
    if complexity and memory <= cluster_memory:
        assert priority == int(round(1 - memory / cluster_memory, 2) * 100)
    else:
        assert priority == 0


@given(steps, steps, memories)
def test_a_further_step_never_raises_the_priority(complexity, more, cluster_memory):
    if complexity:
        assert complexity_priority(complexity + more, cluster_memory) <= complexity_priority(
            complexity, cluster_memory
        )


@given(counts, counts)
def test_a_factor_lies_between_a_tenth_and_one_and_never_rises(active_runs, maximum):
    factor = overload_factor(active_runs, maximum)
    assert 0.1 <= factor <= 1
    assert overload_factor(active_runs + 1, maximum) <= factor


@given(st.integers(0, 100), counts, counts)
def test_a_workflow_priority_is_no_higher_than_its_complexity_allows(priority, active_runs, maximum):
    assert 0 <= workflow_priority(priority, overload_factor(active_runs, maximum)) <= priority
