"""``platform-db db``: whether the database can be used, what it holds, and what may go."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.listing import show_page
from platform_db.cli.options import duration_option, json_option, limit_option
from platform_db.cli.other_database import refuse_password
from platform_db.cli.show import Row, columns, escaped, show_row, show_rows

db = group("db")


@db.command(example="db check --deep")
@click.option("--deep", is_flag=True, help="Also read all rows, and name those that contradict each other.")
@json_option
def check(deep: bool, as_json: bool) -> None:
    """Check that this release runs on the schema and no secret key is missing.

    The exit code says it, too. Secret keys are checked where one is configured. What guard allow allows is
    printed. --deep also finds triggers, functions, indexes, policies and privileges that are not those of the
    release, and prints for each what to do.
    """
    from platform_db import errors
    from platform_db.health.check import check_database

    try:
        health = check_database(deep=deep)
    except errors.PlatformDBError as error:
        if not as_json:
            raise
        show_row({"state": error.code, "message": str(error), "hint": error.hint}, as_json)
        raise click.exceptions.Exit(error.exit_code) from None
    text = f"{health.state}: the database is at revision {health.revision}"
    if health.revision != health.head:
        text += f", which this release ({health.head}) runs on"
    for finding in health.findings or ():
        text += f"\n{finding.check}: {finding.count}"
        text += "".join(f"\n  {escaped(example)}" for example in finding.examples)
    if deep and not health.findings:
        text += (
            "; all rows agree with each other, and all triggers, functions, policies and privileges are there"
        )
    for extra in health.extra_transitions:
        text += f"\nextra transition: {extra['entity']} from {extra['from']} to {extra['to']}"
        text += escaped(f" ({extra['reason']})")
    show_row(asdict(health), as_json, text)
    health.raise_for_problems()


@db.command(example="db compact --dry-run")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
def compact(dry_run: bool) -> None:
    """Vacuum tables with dead rows, and rebuild bloated indexes.

    Reads and writes go on meanwhile.
    """
    from platform_db.health import compact as health

    if not health.compact(dry_run=dry_run, report=click.echo):
        click.echo("nothing to do")


@db.command(example="db copy --to postgresql://platform_owner@db/platform")
@click.option(
    "--to",
    "uri",
    metavar="URI",
    envvar="PLATFORM_DB_TARGET_URI",
    show_envvar=True,
    required=True,
    callback=refuse_password,
    help="The database to copy to, by its owner's login. Its password comes from the variable, PGPASSWORD or "
    "~/.pgpass.",
)
@click.option(
    "--batch", type=int, default=10_000, show_default=True, help="Rows that one transaction brings."
)
@json_option
def copy(uri: str, batch: int, as_json: bool) -> None:
    """Copy everything to another database: an embedded one to a server, for instance.

    The target is migrated and empty, or a former copy, which is brought to what has changed since. The source
    is read in one snapshot and never written; stop its services before the last run. What arrives is
    compared. It can be killed at any time: the next run does the rest. Roles and privileges are the target's
    own. It takes the tables' owner: PLATFORM_DB_MIGRATION_URI.
    """
    from platform_db import database, schema
    from platform_db.cli.progress import show_progress
    from platform_db.transfer.copying import copy_database
    from platform_db.transfer.report import Report

    source, target = database.migration_url(), database.resolve_url(uri)
    if uri.startswith("embedded:"):
        schema.upgrade_new(database.create_engine(target))
    report = Report()
    with show_progress("rows", quiet=as_json) as progress:
        missing = copy_database(source, target, report, progress=progress, rows_per_page=batch)
    shown = columns("table", "rows", "written", "removed")
    show_rows(map(shown, report.summary()), as_json, shown)
    if missing:
        keys = ", ".join(missing)
        click.echo(
            f"the copied secrets need the secret key with id {keys}, which is not configured here", err=True
        )


@db.command(example="db get job 0198c2f1-5d4e-7b60")
@click.argument("table")
@click.argument("key", metavar="ID|KEY...", nargs=-1, required=True)
@click.option("--full", is_flag=True, help="Do not cut long values.")
@json_option
def get(table: str, key: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Show a row of TABLE, but no secret.

    It is named by its ID or the beginning of that, or by its KEY as db keys shows it, or with / between its
    parts.
    """
    from platform_db.health.rows import read_row

    with session_scope() as session:
        show_row(read_row(session, table, *key, full=full), as_json)


@db.command(example="db keys job --prefix 0198c2f1-5d4e-7b60-8b01-2f6e5d4c3b2a/0198")
@click.argument("table")
@click.option("--prefix", default="", metavar="KEY", help="Only keys that begin so, parts separated by /.")
@limit_option
@click.option("--cursor", help="Go on where the page before ended, with the same options.")
@json_option
def keys(table: str, as_json: bool, **page: Any) -> None:
    """List the primary keys of TABLE in their order.

    That of most tables is the owner's id, then the row's.
    """
    from platform_db.health.rows import list_keys

    with session_scope() as session:
        found = list_keys(session, table, **page)
    show_page(found, found.rows, as_json, dict)


@db.command(example="db prune --older-than 180d --dry-run", is_job=True)
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@click.option("--table", "tables", multiple=True, help="Only this table; may be given more than once.")
@duration_option("--older-than", "Another age than the rules': 90d, 12h, 30m", in_days=True)
@click.option("--batch-size", type=int, help="Rows in one transaction.")
@click.option(
    "--archive",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what goes into files in this directory first.",
)
@click.option(
    "--value-store",
    type=click.Path(file_okay=False, path_type=Path),
    help="redun's value_store_path: delete also the files in it whose values are gone.",
)
@json_option
def prune(
    tables: tuple[str, ...], older_than: timedelta | None, batch_size: int | None, as_json: bool, **how: Any
) -> None:
    """Delete old rows by the retention rules, with all that belongs to them.

    The documentation lists the rules. Audit rows stay. It can be stopped at any time, and run again.
    """
    from platform_db import retention

    rules = retention.choose_rules(tables, older_than=older_than, batch=batch_size)
    results = retention.prune(session_factory(), rules, **how)
    rows = (
        {
            "table": r.table,
            "rows": r.rows,
            "with_them": r.with_them.total(),
            "left": r.left,
            "not_waited_for": r.not_waited_for,
        }
        for r in results
    )
    show_rows(rows, as_json, columns("table", "rows", "with_them", "left"))
    if stale := sorted({name for result in results for name in result.not_waited_for}):
        click.echo(
            escaped(f"not waited for, since their checkpoints have not moved for long: {', '.join(stale)}"),
            err=True,
        )
    retention.require_finished(results)


@db.command(example="db create")
def create() -> None:
    """Create the configured database on its server, in UTF-8, where it is missing.

    It takes a login that may create databases: PLATFORM_DB_MIGRATION_URI's, where that is set.
    """
    from platform_db import database

    created = database.create_database()
    click.echo("created the database" if created else "nothing to do: the database exists")


@db.command(example="db reset --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Empty an embedded database: delete all that it holds, and make its schema again.

    Any other database is refused. Connections to it end. The server's roles, the secret key and workspaces
    stay.
    """
    from platform_db import database, embedded, errors, sessions

    directory = database.embedded_directory()
    if directory is None:
        url = database.hide_secrets(database.database_url())
        raise errors.Refused(f"only an embedded database can be reset, and {url} is none")
    if not embedded.exists(directory):
        click.echo(f"nothing to do: there is no database in {directory}")
        return
    if not yes:
        click.confirm(f"Delete everything in the database in {directory}?", abort=True, err=True)
    embedded.reset(directory)
    sessions.get_engine()  # This gives it its schema, as at the first use.
    click.echo(f"emptied the database in {directory}")


@db.command(example="db stats")
@json_option
def stats(as_json: bool) -> None:
    """Show sizes, dead rows, unused indexes, cache hits and statuses."""
    from platform_db.health.stats import read_stats

    with session_scope() as session:
        found = read_stats(session)
    if as_json:
        show_row(found, as_json)
        return
    show_row({"size": found["size"], "cache_hits": found["cache_hits"]}, as_json)
    click.echo()
    show_rows(found["tables"], as_json)
    click.echo("\nindexes that were never used:")
    show_rows(found["unused_indexes"], as_json)
    click.echo("\nstatuses:")
    show_row(found["statuses"], as_json)


@db.command(example="db tables")
@json_option
def tables(as_json: bool) -> None:
    """List the tables with their rows, size and oldest row, the largest first.

    The size is that with indexes. ~ marks an estimate: up to 10,000 rows are counted.
    """
    from platform_db.health.tables import read_tables
    from platform_db.units import human_readable_bytes

    with session_scope() as session:
        found = read_tables(session)

    def shown(row: Row) -> Row:
        rows = f"{'' if row['is_exact'] else '~'}{row['rows']:,}"
        return {
            "table": row["name"],
            "rows": rows,
            "size": human_readable_bytes(row["size"]),
            "oldest": row["oldest"],
        }

    show_rows(map(asdict, found), as_json, shown)


@db.command(example="db url")
@click.option("--show-password", is_flag=True, help="Print passwords, too.")
def url(show_password: bool) -> None:
    """Print the URL of the configured database, as psql and pg_dump take it."""
    from platform_db import database

    found = database.database_url().set(drivername="postgresql")
    click.echo(found.render_as_string(hide_password=False) if show_password else database.hide_secrets(found))


@db.command(example="db version")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of the server, the schema and platform-db."""
    from platform_db.health.check import read_versions

    show_row(read_versions(), as_json)


@db.command(example="db wait --migrated --timeout 5m")
@duration_option("--timeout", "Give up after this time", default="60s")
@click.option("--migrated", is_flag=True, help="Wait until the schema is current, too.")
def wait(timeout: timedelta, migrated: bool) -> None:
    """Wait until the database can be reached.

    The exit code is that of the last thing that was in the way.
    """
    from platform_db import schema

    found = schema.wait_until_ready(timeout=timeout.total_seconds(), migrated=migrated)
    click.echo(f"the database is reachable, its schema {found.state.value}")
