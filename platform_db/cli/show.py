"""Showing what a command found: a table or text for people, one JSON document or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any

import click

# The table's columns are as wide as the first rows need; so many stay in memory.
ROWS_AT_A_TIME = 1000

COLOURS = {"healthy": "green", "warning": "yellow", "critical": "red"}

Row = Mapping[str, Any]


def show_rows(rows: Iterable[Row], as_json: bool, table: Callable[[Row], Row] = lambda row: row) -> None:
    """Print a table with a line per row, or a JSON list.

    :param table: what people see of a row.
    """
    if as_json:
        separator = "["
        for row in rows:
            click.echo(f"{separator}{json.dumps(row, default=_as_json)}", nl=False)
            separator = ",\n "
        click.echo("[]" if separator == "[" else "]")
        return
    remaining = map(table, rows)
    widths: list[int] = []
    while page := list(islice(remaining, ROWS_AT_A_TIME)):
        lines = [[_text(value) for value in row.values()] for row in page]
        if not widths:
            names = [name.upper().replace("_", " ") for name in page[0]]
            widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
            lines = [names, *lines]
        for line in lines:
            click.echo("  ".join(map(_cell, line, widths)).rstrip())
    if not widths:
        click.echo("none")


def columns(*names: str) -> Callable[[Row], Row]:
    """Return what gives these columns of a row alone."""
    return lambda row: {name: row[name] for name in names}


def show_row(row: Row, as_json: bool, text: str | None = None) -> None:
    """Print a text, by default a line per value, or a JSON object."""
    if as_json:
        click.echo(json.dumps(row, default=_as_json))
    elif text is not None:
        click.echo(text)
    else:
        width = max(map(len, row), default=0)
        for name, value in row.items():
            click.echo(f"{name:<{width}}  {'none' if value is None else _text(value)}")


def show_csv(names: Sequence[str], rows: Iterable[Row]) -> None:
    """Print CSV with these columns."""
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def escaped(text: str) -> str:
    """Return a text as one line without control characters, which any tenant may have stored."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _as_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _cell(text: str, width: int) -> str:
    padded = text.ljust(width)
    return click.style(padded, fg=COLOURS[text]) if text in COLOURS else padded


def _text(value: Any) -> str:
    if value is None:
        return ""
    return escaped(value if isinstance(value, str) else json.dumps(value, default=str))
