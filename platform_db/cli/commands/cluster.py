"""``platform-db cluster``: the database on several machines."""

from __future__ import annotations

import click

from platform_db.cli.command import group
from platform_db.cli.options import json_option
from platform_db.cli.show import Row, show_rows

cluster = group(
    "cluster",
    "Citus keeps each tenant's rows on one machine. Both commands take a direct connection to its"
    " coordinator, as the owner of the tables: PLATFORM_DB_MIGRATION_URI. They end with exit code 21 where"
    " the database has no Citus.",
)


@cluster.command(example="cluster distribute --dry-run")
@click.option("--dry-run", is_flag=True, help="Only print the statements.")
def distribute(dry_run: bool) -> None:
    """Distribute the tables that are not distributed yet.

    All tables are locked until it ends, and all of it is one transaction. Run it again after each migration,
    after roles create, and when a node was added.
    """
    from platform_db.cluster import distribute

    statements = distribute(report=click.echo, dry_run=dry_run)
    if dry_run:
        click.echo("\n".join(f"{statement};" for statement in statements))
    if not statements:
        click.echo("nothing to do: all is where it should be")


@cluster.command(example="cluster status")
@json_option
def status(as_json: bool) -> None:
    """Show where each table is, where it should be and why, and what nodes lack."""
    from platform_db.cluster import read_status

    found = read_status()
    rows: list[Row] = [
        {
            "table": table.name,
            "is": table.placement.value,
            "should_be": table.wanted.value,
            "shards": table.shards
            if as_json
            else " ".join(f"{n} on {node}" for node, n in table.shards.items()),
            "reason": table.reason,
        }
        for table in found.tables
    ]
    show_rows(rows, as_json)
    for node, functions in found.missing_functions.items():
        click.echo(f"{node} lacks {', '.join(functions)}: run platform-db cluster distribute", err=True)
    if not as_json:
        click.echo()
        show_rows([{"node": node, "bytes": size} for node, size in found.sizes.items()], False)
