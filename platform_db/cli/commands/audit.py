"""``platform-db audit``: reading, sealing, verifying, exporting and pruning the audit log."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, TextIO, TypeVar

import click

from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.values import LONGEST_DAYS, Seconds

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    "number",
    "created",
    "user_id",
    "actor_id",
    "action",
    "details",
    "request_id",
    "address",
    "service",
    "id",
)


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Return a time in ISO 8601; without an offset it is UTC."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time such as 2026-11-21T07:30:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def time_option(name: str, help_: str) -> Callable[[F], F]:
    """Return an option that takes a time."""
    return click.option(name, metavar="TIME", callback=parse_time, help=help_)


def filters(command: F) -> F:
    """Add the options by which audit rows are chosen."""
    for option in (
        time_option("--until", "Only what was recorded before this time."),
        time_option("--since", "Only what was recorded at this time or later."),
        click.option("--action", help="Only this action."),
        click.option("--actor", "actor_id", metavar="UUID", help="Only what this user did."),
        click.option("--user", "user_id", metavar="UUID", help="Only what is about this user."),
    ):
        command = option(command)
    return command


@click.group
def audit() -> None:
    """Read, seal, verify and prune the audit log."""


@audit.command(name="list")
@filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(limit: int, as_json: bool, **chosen: Any) -> None:
    """List audit rows, newest first.

    A line says what was done, by whom, from which service and about whom; - where nobody said it.
    """
    from platform_db.audit.reading import as_values, list_audit

    with session_scope() as session:
        for row in list_audit(session, limit=limit, **chosen).rows:
            values = as_values(row)
            if as_json:
                click.echo(json.dumps(values))
            else:
                details = json.dumps(values["details"]) if values["details"] else ""
                who = f"by {values['actor_id'] or '-'} from {values['service'] or '-'}"
                what = f"{values['action']:<18} {who} about {values['user_id']}"
                click.echo(f"{values['created']}  {what}  {details}".rstrip())


@audit.command
@click.option(
    "--wait",
    type=Seconds(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for transactions that may have written rows.",
)
def seal(wait: float) -> None:
    """Seal the rows that are not sealed yet; run it every minute.

    Killed at any time it leaves a chain that verifies.
    """
    from platform_db.audit import seal_audit_log

    result = seal_audit_log(session_factory(), wait=wait)
    left = "; others wait for a transaction that has not ended" if result.waiting else ""
    click.echo(f"{result.seals} new seals cover {result.rows} rows{left}")


@audit.command
@time_option("--since", "Begin with the first seal made at this time or later.")
@click.option(
    "--against",
    type=click.File(encoding="utf-8", errors="replace"),
    help="Compare with seals that were exported earlier.",
)
@click.option(
    "--unsigned-until",
    type=click.IntRange(min=0),
    default=0,
    metavar="SEAL",
    help="Accept seals up to this one unsigned: from before there was a key.",
)
def verify(since: datetime | None, against: TextIO | None, unsigned_until: int) -> None:
    """Check that the log is what was sealed; name the first seal and row that are not."""
    from platform_db.audit import verify_audit_log

    with session_scope() as session:
        result = verify_audit_log(session, since=since, against=against, unsigned_until=unsigned_until)
    click.echo(
        f"{result.seals} seals hold, and {result.rows} rows; retention removed {result.removed_rows} rows of"
        f" {result.removed_seals} seals, {result.unsigned_seals} seals are unsigned,"
        f" {result.unsealed_rows} rows are not sealed yet"
    )
    if result.removed_since_export is not None:
        click.echo(
            f"{result.compared_seals} seals are as they were exported;"
            f" since the last of them retention removed the rows of {result.removed_since_export} seals"
        )


@audit.command
@filters
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
def export(format_: str, **chosen: Any) -> None:
    """Write audit rows to standard output, oldest first."""
    from platform_db.audit import export_audit

    with session_scope() as session:
        rows = export_audit(session, **chosen)
        if format_ == "jsonl":
            for row in rows:
                click.echo(json.dumps(row))
            return
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            details = None if row["details"] is None else json.dumps(row["details"])
            writer.writerow({**row, "details": details})


@audit.command(name="export-seals")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEAL", help="Only those after it.")
def export_seals(after: int) -> None:
    """Write the seals to standard output, one JSON object a line, to be kept elsewhere."""
    from platform_db import audit as library

    with session_scope() as session:
        for exported in library.export_seals(session, after=after):
            click.echo(json.dumps(exported))


@audit.command(name="public-key")
def public_key() -> None:
    """Print the public part of PLATFORM_DB_AUDIT_SIGNING_KEY."""
    from platform_db import audit as library

    click.echo(library.public_key())


@audit.command
@click.option(
    "--older-than",
    type=click.IntRange(min=1, max=LONGEST_DAYS),
    required=True,
    metavar="DAYS",
    help="Keep what is younger.",
)
def prune(older_than: int) -> None:
    """Remove old rows that are sealed; the seals' hashes stay, and the removal is recorded.

    It takes the tables' owner, PLATFORM_DB_MIGRATION_URI.
    """
    from platform_db import database
    from platform_db.audit import prune_audit_log

    before = datetime.now(timezone.utc) - timedelta(days=older_than)
    factory, pruned = session_factory(database.migration_url()), 0
    while True:
        with factory() as session, session.begin():
            seals = prune_audit_log(session, before)
        if not seals:
            break
        pruned += seals
    click.echo(f"removed the rows of {pruned} seals")
