"""Measuring with GNU ``du``: a second opinion from a program that everybody knows.

Two passes over a batch give exact figures for each workspace in it. Given several arguments, ``du`` counts a
hard link, or a directory named or nested twice, only at the first of them; with ``--count-links`` it counts
everything each time it meets it. What ``du`` would say of a workspace alone lies between the two. Where they
agree, that is the figure; where they do not, the workspace is measured by a ``du`` of its own.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence

from platform_db.workspaces.measurement import Measurement, Outcome, WorkspaceError, refusal, workspace_error

COMMAND = ("du", "--summarize", "--null", "--block-size=1")
VANISHED = b"No such file or directory"
# From this release on, --apparent-size leaves out what a file system shows as the size of a directory.
FIRST_RELEASE_WITH_MEANINGFUL_APPARENT_SIZES = (9, 2)


@functools.cache
def release() -> tuple[int, int] | None:
    """Return the release of GNU ``du``, or nothing if there is none or ``du`` is another program."""
    program = shutil.which("du")
    if program is None:
        return None
    result = subprocess.run([program, "--version"], capture_output=True, check=False)  # noqa: S603
    match = re.match(rb"du \(GNU coreutils\) ([0-9]+)\.([0-9]+)", result.stdout)
    return (int(match[1]), int(match[2])) if match else None


def require(apparent: bool) -> None:
    """Refuse to go on where ``du`` cannot give the figures that the other methods give.

    :raises WorkspaceError: there is no GNU ``du``, or it is too old for apparent sizes.
    """
    found = release()
    if found is None:
        raise WorkspaceError("method du needs GNU du, which is not installed")
    if apparent and found < FIRST_RELEASE_WITH_MEANINGFUL_APPARENT_SIZES:
        raise WorkspaceError("method du needs coreutils 9.2 or newer for apparent sizes; use method scan")


def measure_batch(paths: Sequence[bytes], apparent: bool, gentle: bool = False) -> list[Outcome]:
    """Measure each of ``paths`` as ``du`` would measure it alone, in the order given.

    :param gentle: let ``du`` run at the lowest priority, and afterwards sleep for as long as it took.
    """
    started = time.monotonic()
    measured = _measure_batch(paths, apparent, gentle)
    if gentle:
        time.sleep(time.monotonic() - started)
    return measured


def _measure_batch(paths: Sequence[bytes], apparent: bool, gentle: bool) -> list[Outcome]:
    outcomes = [refusal(path) for path in paths]
    readable = [path for path, outcome in zip(paths, outcomes, strict=True) if outcome is None]
    every_link, complaints = _run(readable, apparent, gentle, "--count-links")
    first_links, more_complaints = _run(readable, apparent, gentle)
    figures: dict[bytes, int] = {}
    # A complaint names a file, not the workspace that it is in.
    if not complaints and not more_complaints:
        figures = {path: size for path, size in every_link.items() if first_links.get(path) == size}
    return [
        outcome
        or (Measurement(figures[path], "du", apparent) if path in figures else _alone(path, apparent, gentle))
        for path, outcome in zip(paths, outcomes, strict=True)
    ]


def _alone(path: bytes, apparent: bool, gentle: bool) -> Outcome:
    figures, complaints = _run([path], apparent, gentle)
    first_complaint = complaints[0] if complaints else None
    if path not in figures:
        return refusal(path) or workspace_error(path, None, first_complaint or "du gave no figure")
    return Measurement(figures[path], "du", apparent, len(complaints), first_complaint)


def _run(
    paths: Sequence[bytes], apparent: bool, gentle: bool, *options: str
) -> tuple[dict[bytes, int], list[str]]:
    """Return the figure of each path that got one, and what ``du`` could not read."""
    if not paths:
        return {}, []
    command = [*(("nice", "--adjustment=19") if gentle else ()), *COMMAND, *options]
    if apparent:
        command.append("--apparent-size")
    # A path given as an argument may be long, but not start with a dash.
    names = [path if path.startswith(b"/") else b"./" + path for path in paths]
    alone = len(names) == 1
    result = subprocess.run(  # noqa: S603
        [*command, "--", names[0]] if alone else [*command, "--files0-from=-"],
        input=b"" if alone else b"\0".join(names) + b"\0",
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    given = dict(zip(names, paths, strict=True))
    figures = {}
    for line in result.stdout.split(b"\0"):
        size, separator, name = line.partition(b"\t")
        if separator and name in given:
            figures[given[name]] = int(size)
    complaints = [
        line.removeprefix(b"du: ").decode(errors="backslashreplace")
        for line in result.stderr.splitlines()
        if line.startswith(b"du: ") and not line.endswith(VANISHED)
    ]
    return figures, complaints
