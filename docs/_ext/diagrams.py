"""Sphinx directives that draw what the code says: states and their transitions, tables and their keys."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import sqlalchemy as sa
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.graphviz import graphviz
from sphinx.util.docutils import SphinxDirective

from platform_db.models import Base
from platform_db.states import MACHINES, Machine

# What every drawing begins with, as arguments of the program that draws. Dark text on light boxes and grey
# lines between them are readable on a light page and on a dark one. Tables without a line stand side by side.
STYLE = [
    *(
        "-Gbgcolor=transparent",
        "-Grankdir=LR",
        "-Gnodesep=0.25",
        "-Granksep=0.5",
        "-Gpack=16",
        "-Gpackmode=array_i4",
    ),
    *(
        "-Nshape=box",
        "-Nstyle=rounded,filled",
        "-Nfillcolor=#f6f8fa",
        "-Ncolor=#6e7781",
        "-Nfontcolor=#24292f",
    ),
    *("-Nfontname=Helvetica", "-Nfontsize=12", "-Ecolor=#6e7781", "-Earrowsize=0.7"),
    *("-Efontname=Helvetica", "-Efontsize=11", "-Efontcolor=#6e7781"),
]
HEAD = "#d0d7de"


class StateDiagram(SphinxDirective):
    """``.. state-diagram:: workflow`` draws the statuses of a table and what may follow what."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        machine = MACHINES[self.arguments[0]]
        return [_drawing(state_graph(machine), f"Statuses of {machine.entity}")]


class EntityDiagram(SphinxDirective):
    """``.. entity-diagram:: user token`` draws the tables of these modules of ``platform_db.models``.

    Each with its key columns, and an arrow to every table that it refers to.
    """

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        concepts = self.arguments[0].split()
        return [_drawing(entity_graph(concepts), f"Tables: {', '.join(concepts)}")]


def state_graph(machine: Machine[Any]) -> str:
    """Return the DOT source of the statuses of a table; a darker box is an end."""
    order = list(machine.statuses)
    boxes = [f'{s} [fillcolor="{HEAD}"]' if s in machine.terminal else str(s) for s in order]
    edges = [
        # A way back does not move the boxes.
        f"{s} -> {f}" + (" [constraint=false]" if order.index(f) < order.index(s) else "")
        for s in order
        for f in order
        if f in machine.transitions[s]
    ]
    return _digraph([*boxes, *edges])


def entity_graph(concepts: Iterable[str]) -> str:
    """Return the DOT source of the tables of these modules, and of those that they refer to."""
    modules = {f"{Base.__module__.rpartition('.')[0]}.{concept}" for concept in concepts}
    own = {table for m in Base.registry.mappers if m.class_.__module__ in modules for table in m.tables}
    edges = {
        (table.name, key.referred_table.name)
        for table in own
        for key in table.foreign_key_constraints
        if key.referred_table is not table
    }
    mentioned = {name for edge in edges for name in edge} | {table.name for table in own}
    boxes = [
        f"{table.name} [shape=plain style=solid label={_table(table, in_full=table in own)}]"
        for table in Base.metadata.sorted_tables
        if table.name in mentioned
    ]
    # The table that is referred to stands left of those that refer to it.
    return _digraph([*boxes, *(f"{to} -> {start} [dir=back]" for start, to in sorted(edges))])


def _table(table: sa.Table, *, in_full: bool) -> str:
    foreign = {column.name for key in table.foreign_key_constraints for column in key.columns}
    keys = [c for c in table.columns if c.primary_key or c.name in foreign] if in_full else []
    rows = "".join(
        f'<tr><td align="left">{escape(column.name)}</td><td align="right"><font point-size="10">'
        f"{' '.join(['PK'] * column.primary_key + ['FK'] * (column.name in foreign))}</font></td></tr>"
        for column in keys
    )
    return (
        '<<table border="1" cellborder="0" cellspacing="0" cellpadding="4" bgcolor="#f6f8fa">'
        f'<tr><td colspan="2" align="left" bgcolor="{HEAD}"><b>{escape(table.name)}</b></td></tr>'
        f"{rows}</table>>"
    )


def _digraph(lines: Iterable[str]) -> str:
    return "\n".join(["digraph {", *lines, "}"])


def _drawing(code: str, title: str) -> nodes.Node:
    return graphviz("", code=code, options={}, alt=title)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.setup_extension("sphinx.ext.graphviz")
    app.add_directive("state-diagram", StateDiagram)
    app.add_directive("entity-diagram", EntityDiagram)
    return {"parallel_read_safe": True}
