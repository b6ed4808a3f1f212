"""Which tasks calls used, down to the last one: redun's own records do not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def find_subtree_tasks(
    tasks: Mapping[str, str], children: Mapping[str, Sequence[str]], known: Mapping[str, set[str]]
) -> dict[str, set[str]]:
    """Return the tasks that each call used: its own and those of the calls below it.

    :param tasks: the calls, with their own tasks.
    :param children: the calls that each of them made.
    :param known: the answer for further calls, which those may have made.
    """
    found: dict[str, set[str]] = {}
    for root in tasks:
        path = [root]
        while path:  # No recursion: calls may be nested deeper than Python's.
            call = path[-1]
            waits_for = [child for child in children[call] if child in tasks and child not in found]
            if waits_for and call not in found:
                path += waits_for
                continue
            path.pop()
            below = (found.get(child) or known.get(child, set()) for child in children[call])
            found[call] = {tasks[call]}.union(*below)
    return found
