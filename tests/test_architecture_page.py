"""The map of the rooms is that of the layout, and its walks follow the code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform_db"
PAGE = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
WALKS = [re.findall(r"\* - ``(\w+)``\n     - ``([\w.]+)``", walk) for walk in PAGE.split(":class: walk")[1:]]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module("rooms")


def test_the_map_lists_every_room(rooms: Any) -> None:
    listed = [room for layer in rooms.layers() for room in layer]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}

    assert sorted(listed) == sorted(folders | files)
    assert [room for room in listed if not rooms.purpose(room).endswith(".")] == []


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk[0][1])
def test_a_walk_goes_down_and_comes_back_once(walk: list[tuple[str, str]], rooms: Any) -> None:
    depths = {room: depth for depth, layer in enumerate(rooms.layers()) for room in layer}
    walked = [depths[room] for room, _ in walk]
    bottom = walked.index(max(walked))

    assert walked[: bottom + 1] == sorted(walked[: bottom + 1])
    assert walked[bottom:] == sorted(walked[bottom:], reverse=True)


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk[0][1])
def test_the_stops_of_a_walk_exist(walk: list[tuple[str, str]], session: Session) -> None:
    for room, stop in walk:
        if stop.startswith("platform."):
            assert session.scalar(sa.text("SELECT to_regproc(:stop)"), {"stop": stop}), stop
        else:
            assert stop.startswith(f"{room}.")
            assert callable(pkgutil.resolve_name(f"platform_db.{stop}")), stop
