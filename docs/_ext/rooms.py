"""A Sphinx directive that lists the rooms of the package, as the layout has them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from reference import list_table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Rooms(SphinxDirective):
    """``.. rooms::`` lists every room with its purpose, from the top to the bottom."""

    def run(self) -> list[nodes.Node]:
        rows = [("Room", "What it holds")]
        rows += [(f"``{room}``", purpose(room)) for layer in layers() for room in layer]
        return self.parse_text_to_nodes("\n".join(list_table(rows, widths="18 82")))


def layers() -> list[list[str]]:
    """Return the rooms of each layer, from the top to the bottom, as the import contract orders them."""
    _, _, layers = PYPROJECT.read_text(encoding="utf-8").partition("\nlayers = ")
    return [layer.split(" | ") for layer in ast.literal_eval(layers.partition("\n]")[0] + "]")]


def purpose(room: str) -> str:
    """Return the first paragraph of a room's docstring."""
    text = inspect.getdoc(importlib.import_module(f"platform_db.{room}")) or ""
    return " ".join(re.sub(r":mod:`(.*?)`", r"``\1``", text).partition("\n\n")[0].split())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("rooms", Rooms)
    return {"parallel_read_safe": True}
