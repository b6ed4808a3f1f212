"""No line of a diagram goes through a box."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from platform_db.states import MACHINES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
Point = tuple[float, float]


@pytest.fixture
def diagrams(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module("diagrams")


def drawings(diagrams: Any) -> Iterator[tuple[str, str]]:
    """Yield the title and the source of every diagram of the documentation."""
    yield from ((f"statuses of {name}", diagrams.state_graph(machine)) for name, machine in MACHINES.items())
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for concepts in re.findall(r"entity-diagram:: (.*)", text):
            yield f"tables of {concepts}", diagrams.entity_graph(concepts.split())
        for graph in re.findall(r"^   digraph \{.*?^   \}", text, re.DOTALL | re.MULTILINE):
            yield f"the picture of {page.name}", graph


def test_no_line_goes_through_a_box(diagrams: Any) -> None:
    program = which("graphviz-pure", path=str(Path(sys.executable).parent)) or which("dot")
    if program is None:
        pytest.skip("neither the extra docs nor graphviz is installed")

    for title, source in drawings(diagrams):
        plain = subprocess.run(
            [program, "-Tplain", *diagrams.STYLE], input=source, capture_output=True, text=True, check=True
        ).stdout
        boxes, lines = read(plain)
        assert boxes, title
        for ends, points in lines:
            crossed = {name for name, box in boxes.items() for point in points if is_inside(point, box)}
            assert crossed <= set(ends), f"{title}: {' -> '.join(ends)} goes through {crossed - set(ends)}"


def read(plain: str) -> tuple[dict[str, tuple[float, ...]], list[tuple[list[str], list[Point]]]]:
    """Return the boxes (middle, width, height) and the lines (ends, points on the curve) of a drawing."""
    boxes, lines = {}, []
    for kind, *words in (line.split() for line in plain.splitlines()):
        if kind == "node":
            boxes[words[0]] = tuple(map(float, words[1:5]))
        elif kind == "edge":
            numbers = list(map(float, words[3 : 3 + 2 * int(words[2])]))
            lines.append((words[:2], list(curve(list(zip(numbers[::2], numbers[1::2], strict=True))))))
    return boxes, lines


def curve(controls: list[Point]) -> Iterator[Point]:
    """Yield points on a curve of cubic Bézier pieces."""
    for start in range(0, len(controls) - 1, 3):
        piece = controls[start : start + 4]
        for step in range(21):
            t = step / 20
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            yield (
                sum(weight * x for weight, (x, _) in zip(weights, piece, strict=True)),
                sum(weight * y for weight, (_, y) in zip(weights, piece, strict=True)),
            )


def is_inside(point: Point, box: tuple[float, ...]) -> bool:
    x, y, width, height = box
    return abs(point[0] - x) < width / 2 and abs(point[1] - y) < height / 2
