"""Laying out a small directed graph in layers, left to right, and drawing it as SVG.

An edge that skips layers runs through lanes: one lane per target, which every edge to that target joins.
So lines merge, but one never has to ask where a line goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

GAP_X = 56.0
GAP_Y = 18.0
LANE = 12.0
BACK = 9.0
MARGIN = 8.0

STYLE = """
.diagram { max-width: 100%; height: auto; color: #57606a; font: 13px ui-sans-serif, system-ui, sans-serif; }
.diagram .box { fill: none; stroke: currentColor; }
.diagram .head { fill: currentColor; fill-opacity: 0.14; stroke: none; }
.diagram .line { fill: none; stroke: currentColor; stroke-width: 1.3; }
.diagram .arrow { fill: currentColor; stroke: none; }
.diagram text { fill: var(--color-foreground-primary, #24292f); }
.diagram .faint { fill: var(--color-foreground-secondary, #57606a); font-size: 11px; }
@media print { .diagram text { fill: #000; } }
"""


@dataclass
class Node:
    """A box. Its place is that of its middle, and known after the layout."""

    name: str
    width: float
    height: float
    drawing: str  # SVG, drawn with the box's upper left corner as its origin
    x: float = 0.0
    y: float = 0.0
    layer: int = 0


@dataclass
class Graph:
    """Nodes in their natural order, which also is the order in each layer, and edges between them.

    :param arrow_at: whether an edge's arrow points at its ``end`` or at its ``start``.
    """

    nodes: Sequence[Node]
    edges: Iterable[tuple[str, str]]
    arrow_at: str = "end"
    lanes: dict[str, float] = field(default_factory=dict)

    def to_svg(self, title: str) -> str:
        """Return the drawing as one ``<svg>`` element."""
        self._by_name = {node.name: node for node in self.nodes}
        order = {node.name: number for number, node in enumerate(self.nodes)}
        edges = set(self.edges)
        forward = sorted(
            (e for e in edges if order[e[0]] < order[e[1]]), key=lambda e: (order[e[1]], order[e[0]])
        )
        backward = sorted(e for e in edges if order[e[0]] > order[e[1]])
        self._assign_layers(forward)
        self._place_nodes()
        self._place_lanes(forward)
        lines: dict[str, None] = {}
        arrows: list[str] = []
        for start, end in forward:
            lines.update(dict.fromkeys(self._route(start, end)))
            if self.arrow_at == "start":
                arrows.append(_arrow(self._by_name[start], at_right=True))
            else:
                arrows.append(_arrow(self._by_name[end], at_right=False))
        for start, end in backward:
            # Beside the way forward, and with an arrow of its own, lest it be read into other lines.
            first, last = self._by_name[start], self._by_name[end]
            x1, x2 = first.x - first.width / 2, last.x + last.width / 2
            lines[_curve(x1, first.y - BACK, x2, last.y - BACK)] = None
            arrows.append(_arrow(last, at_right=True, above=BACK))
        drawn = [f'<path class="line" d="{line}"/>' for line in lines] + sorted(set(arrows))
        for node in self.nodes:
            left, top = node.x - node.width / 2, node.y - node.height / 2
            drawn.append(f'<g transform="translate({left:g} {top:g})">{node.drawing}</g>')
        left, top, width, height = self._extent()
        return (
            f'<svg class="diagram" role="img" aria-label="{title}" width="{width:g}" height="{height:g}" '
            f'viewBox="{left:g} {top:g} {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{title}</title>{''.join(drawn)}</svg>"
        )

    def _assign_layers(self, forward: Sequence[tuple[str, str]]) -> None:
        for start, end in forward:  # sorted by the end's place in the natural order: starts come first
            self._by_name[end].layer = max(self._by_name[end].layer, self._by_name[start].layer + 1)

    def _layers(self) -> list[list[Node]]:
        count = 1 + max(node.layer for node in self.nodes)
        return [[node for node in self.nodes if node.layer == layer] for layer in range(count)]

    def _place_nodes(self) -> None:
        left = 0.0
        for layer in self._layers():
            width = max(node.width for node in layer)
            top = -(sum(node.height for node in layer) + GAP_Y * (len(layer) - 1)) / 2
            for node in layer:
                node.x, node.y = left + width / 2, top + node.height / 2
                top += node.height + GAP_Y
            left += width + GAP_X

    def _place_lanes(self, forward: Sequence[tuple[str, str]]) -> None:
        """Give each target of edges that skip layers a height which is free in all the layers it crosses."""
        taken: dict[int, list[tuple[float, float]]] = {
            number: [(n.y - n.height / 2 - LANE, n.y + n.height / 2 + LANE) for n in layer]
            for number, layer in enumerate(self._layers())
        }
        crossed: dict[str, set[int]] = {}
        for start, end in forward:
            skipped = range(self._by_name[start].layer + 1, self._by_name[end].layer)
            crossed.setdefault(end, set()).update(skipped)
        for end, layers in sorted(crossed.items(), key=lambda item: len(item[1])):
            if not layers:
                continue
            wanted = self._by_name[end].y
            heights = (wanted + sign * LANE * step for step in range(200) for sign in (1, -1))
            height = next(
                y for y in heights if all(not low < y < high for n in layers for low, high in taken[n])
            )
            self.lanes[end] = height
            for number in layers:
                taken[number].append((height - LANE, height + LANE))

    def _route(self, start: str, end: str) -> Iterable[str]:
        first, last = self._by_name[start], self._by_name[end]
        x, y = first.x + first.width / 2, first.y
        for layer in range(first.layer + 1, last.layer):
            members = self._layers()[layer]
            width = max(node.width for node in members)
            lane = self.lanes[end]
            yield _curve(x, y, members[0].x - width / 2, lane)
            yield f"M{members[0].x - width / 2:g} {lane:g}h{width:g}"
            x, y = members[0].x + width / 2, lane
        yield _curve(x, y, last.x - last.width / 2, last.y)

    def _extent(self) -> tuple[float, float, float, float]:
        left = min(n.x - n.width / 2 for n in self.nodes) - MARGIN
        right = max(n.x + n.width / 2 for n in self.nodes) + MARGIN
        top = min([*(n.y - n.height / 2 for n in self.nodes), *self.lanes.values()]) - MARGIN
        bottom = max([*(n.y + n.height / 2 for n in self.nodes), *self.lanes.values()]) + MARGIN
        return left, top, right - left, bottom - top


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"


def _arrow(node: Node, *, at_right: bool, above: float = 0.0) -> str:
    """Return an arrow head that touches the node's right or left side, so far above its middle."""
    x, step = (node.x + node.width / 2, 8) if at_right else (node.x - node.width / 2, -8)
    return f'<path class="arrow" d="M{x:g} {node.y - above:g}l{step} -4v8z"/>'
