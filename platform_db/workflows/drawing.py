"""Writing a graph in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

COLOURS = {"finished": "palegreen", "failed": "lightpink", "stopped": "lightgrey", "running": "lightblue"}


def as_dot(nodes: Mapping[str, tuple[str, str]], edges: Iterable[tuple[str, str, str]]) -> str:
    """Return a digraph.

    :param nodes: the label and the status of each node, by its id.
    :param edges: from which id to which, and the label.
    """
    lines = [
        f"{_quoted(id_)} [label={_quoted(label, status)} fillcolor={COLOURS.get(status, 'white')}]"
        for id_, (label, status) in nodes.items()
    ]
    lines += [
        f"{_quoted(parent)} -> {_quoted(child)}" + (f" [label={_quoted(name)}]" if name else "")
        for parent, child, name in edges
    ]
    return "\n".join(["digraph {", "  node [shape=box style=filled]", *(f"  {line};" for line in lines), "}"])


LINE_BREAK = "\\n"


def _quoted(*lines: str) -> str:
    r"""Return a quoted string of these lines, in which nothing of them has a meaning of its own.

    Graphviz reads ``\N`` and entities such as ``&lt;`` in labels, and it takes no control characters.
    """
    return f'"{LINE_BREAK.join(map(_escaped, lines))}"'


def _escaped(text: str) -> str:
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
