"""``platform-db db prune``, ``stats``, ``compact`` and ``get``."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import click

from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.show import as_json_option, show_row, show_rows

AGE_UNITS = {"": "days", "d": "days", "h": "hours", "m": "minutes"}


def parse_age(text: str) -> timedelta:
    """Read an age such as ``90`` or ``90d`` (days), ``12h`` (hours) or ``30m`` (minutes)."""
    found = re.fullmatch(r"(\d{1,6})([dhm]?)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no age; write 90d, 12h or 30m", param_hint="--older-than")
    return timedelta(**{AGE_UNITS[found[2]]: int(found[1])})


@click.command
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@click.option("--table", "tables", multiple=True, help="Only this table; may be given more than once.")
@click.option(
    "--older-than", type=parse_age, metavar="AGE", help="Another age than the rules': 90d, 12h, 30m."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows in one transaction.")
@click.option(
    "--archive",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what goes into files in this directory first.",
)
@as_json_option
def prune(
    dry_run: bool,
    tables: tuple[str, ...],
    older_than: timedelta | None,
    batch_size: int | None,
    archive: Path | None,
    as_json: bool,
) -> None:
    """Delete rows whose time has come, with all that belongs to them.

    Which rows go after which time, the documentation lists. Audit rows stay. It can be stopped at any time,
    and run again.
    """
    from platform_db import retention

    rules = retention.choose_rules(tables, older_than=older_than, batch=batch_size)
    results = retention.prune(session_factory(), rules, dry_run=dry_run, archive=archive)
    rows = [
        {
            "table": result.table,
            "rows": result.rows,
            "with_them": result.with_them.total(),
            "left": result.left,
        }
        for result in results
    ]
    show_rows(rows, as_json)
    retention.require_finished(results)


@click.command
@as_json_option
def stats(as_json: bool) -> None:
    """Show sizes, rows, dead rows, unused indexes, cache hits and how many rows have which status."""
    from platform_db.health.stats import read_stats

    with session_scope() as session:
        found = read_stats(session)
    if as_json:
        click.echo(json.dumps(found))
        return
    show_row({"size": found["size"], "cache_hits": found["cache_hits"]}, as_json)
    click.echo()
    show_rows(found["tables"], as_json)
    click.echo("\nindexes that were never used:")
    show_rows(found["unused_indexes"], as_json)
    click.echo("\nstatuses:")
    show_row(found["statuses"], as_json)


@click.command
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
def compact(dry_run: bool) -> None:
    """Vacuum what has dead rows, and build bloated indexes anew, without stopping anybody."""
    from platform_db.health import compact as health

    if not health.compact(dry_run=dry_run, report=click.echo):
        click.echo("nothing to do")


@click.command
@click.argument("table")
@click.argument("id_", metavar="ID")
@as_json_option
def get(table: str, id_: str, as_json: bool) -> None:
    """Show the row of TABLE with this ID, or with an id that begins so."""
    from platform_db.query.lookup import describe, find_by_prefix, model_of

    with session_scope() as session:
        show_row(describe(find_by_prefix(session, model_of(table), id_)), as_json)
