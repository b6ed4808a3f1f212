"""Showing what a migration would do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import click

from platform_db.cli.show import Row, escaped, show_rows
from platform_db.units import human_readable_bytes

SHOWN_SESSIONS = 5

WORK = {
    "catalogue": "changes the catalogue only",
    "scan": "reads all rows",
    "index": "reads and sorts all rows",
    "rewrite": "writes all rows again",
    "write": "changes rows",
    "unknown": "is not known; taken for the worst",
}


def show_preview(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print some lines per statement, or a JSON list with all of them."""
    if as_json:
        show_rows(rows, as_json)
        return
    for revision, statements in groupby(rows, key=lambda row: str(row["revision"])):
        click.echo("\n".join(escaped(line) for line in _lines(revision, list(statements))))
    if not rows:
        click.echo("nothing to do")


def _lines(revision: str, rows: list[Row]) -> Iterator[str]:
    runs = "still runs" if rows[0]["release_before_runs"] else "no longer runs"
    yield f"{revision}: {rows[0]['phase']}; after it the release before {runs}"
    shown = None
    for row in rows:
        if row["table"] is None:
            continue
        size = f"{row['rows']:,} rows, {human_readable_bytes(row['bytes'])}"
        if row["statement"] != shown:
            yield f"  {row['statement']}"
        shown = row["statement"]
        yield f"    {row['lock']} on {row['table']} until the {row['held']} ends: {row['blocks']} wait"
        yield f"    {WORK[row['work']]} ({size}): {row['duration']}"
        if sessions := row["sessions"]:
            more = len(sessions) - SHOWN_SESSIONS
            named = "; ".join(sessions[:SHOWN_SESSIONS]) + (f"; and {more} more" if more > 0 else "")
            yield f"    in its way now: {named}"
    if new := sum(row["table"] is None for row in rows):
        yield f"  {new} statements on new tables and other objects: no lock in another's way, milliseconds"
