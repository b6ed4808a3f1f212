"""Showing rows: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a table with a line per row, or a JSON list."""
    if as_json:
        click.echo(json.dumps(list(rows), default=str))
        return
    if not rows:
        click.echo("none")
        return
    names = list(rows[0])
    texts = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    for line in ([name.upper().replace("_", " ") for name in names], *texts):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_row(row: Mapping[str, Any], as_json: bool) -> None:
    """Print a line per value, or a JSON object."""
    if as_json:
        click.echo(json.dumps(dict(row), default=str))
        return
    width = max(map(len, row))
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    """Return a value as one line without control characters, which a row may have from anybody."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
