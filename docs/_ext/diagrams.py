"""Sphinx directives that draw what the code says: states and their transitions, tables and their keys."""

from __future__ import annotations

from html import escape
from typing import Any

import sqlalchemy as sa
from docutils import nodes
from layered import STYLE, Graph, Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from platform_db.models import Base
from platform_db.states import MACHINES

CHARACTER = 7.3  # width of one in the drawings' font, roughly
ROW = 17.0


class StateDiagram(SphinxDirective):
    """``.. state-diagram:: workflow`` draws the statuses of a table and what may follow what."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        machine = MACHINES[self.arguments[0]]
        boxes = [_state(s.value, terminal=s in machine.terminal) for s in machine.statuses]
        edges = [(s.value, f.value) for s, following in machine.transitions.items() for f in following]
        return [_drawing(Graph(boxes, edges), f"Statuses of {machine.entity}")]


class EntityDiagram(SphinxDirective):
    """``.. entity-diagram:: user token`` draws the tables of these modules of ``platform_db.models``.

    Each with its key columns, and an arrow to every table that it refers to.
    """

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        concepts = self.arguments[0].split()
        own = [
            table
            for concept in concepts
            for mapper in Base.registry.mappers
            if mapper.class_.__module__ == f"{Base.__module__.rpartition('.')[0]}.{concept}"
            for table in mapper.tables
        ]
        edges = {
            (key.referred_table.name, table.name)
            for table in own
            for key in table.foreign_key_constraints
            if key.referred_table is not table
        }
        mentioned = {name for edge in edges for name in edge} | {table.name for table in own}
        boxes = [
            _table(table, in_full=table in own)
            for table in Base.metadata.sorted_tables
            if table.name in mentioned
        ]
        return [_drawing(Graph(boxes, edges, arrow_at="start"), f"Tables: {', '.join(concepts)}")]


def _state(name: str, *, terminal: bool) -> Node:
    width, height = 84.0, 30.0
    radius = 6
    head = f'<rect class="head" width="{width:g}" height="{height:g}" rx="{radius}"/>' if terminal else ""
    return Node(
        name,
        width,
        height,
        f'{head}<rect class="box" width="{width:g}" height="{height:g}" rx="{radius}"/>'
        f'<text x="{width / 2:g}" y="{height / 2 + 4.5:g}" text-anchor="middle">{escape(name)}</text>',
    )


def _table(table: sa.Table, *, in_full: bool) -> Node:
    foreign = {column.name for key in table.foreign_key_constraints for column in key.columns}
    keys = [c for c in table.columns if c.primary_key or c.name in foreign] if in_full else []
    labels = [(c.name, " ".join(["PK"] * c.primary_key + ["FK"] * (c.name in foreign))) for c in keys]
    longest = max([len(table.name) * 1.05, *(len(name) + len(mark) + 2 for name, mark in labels)])
    width = 20 + CHARACTER * longest
    height = 26 + (len(labels) * ROW + 6 if labels else 0)
    rows = "".join(
        f'<text x="8" y="{41 + number * ROW:g}">{escape(name)}</text>'
        f'<text class="faint" x="{width - 8:g}" y="{41 + number * ROW:g}" text-anchor="end">{mark}</text>'
        for number, (name, mark) in enumerate(labels)
    )
    return Node(
        table.name,
        width,
        height,
        f'<rect class="head" width="{width:g}" height="26" rx="3"/>'
        f'<rect class="box" width="{width:g}" height="{height:g}" rx="3"/>'
        f'<text x="8" y="18" font-weight="600">{escape(table.name)}</text>{rows}',
    )


def _drawing(graph: Graph, title: str) -> nodes.Node:
    return nodes.raw("", f"<p>{graph.to_svg(escape(title, quote=True))}</p>", format="html")


def add_style(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document) -> None:
    """Put the drawings' style into a page's head."""
    context["metatags"] = context.get("metatags", "") + f"<style>{STYLE}</style>"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the drawings' style."""
    app.add_directive("state-diagram", StateDiagram)
    app.add_directive("entity-diagram", EntityDiagram)
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True}
