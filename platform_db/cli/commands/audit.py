"""``platform-db audit``: reading, sealing, verifying, exporting and pruning the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import Time, duration_option, json_option, limit_option, options, user_option
from platform_db.cli.show import columns, show_csv, show_rows

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

COLUMNS = (
    *("number", "created", "user_id", "actor_id", "action"),
    *("details", "request_id", "address", "service", "id"),
)

filters = options(
    user_option("Only what is about this user"),
    user_option("Only what this user did", "--actor"),
    click.option("--action", help="Only this action."),
    click.option("--since", type=Time(), help="Only what was recorded at this time or later."),
    click.option("--until", type=Time(), help="Only what was recorded before this time."),
)

audit = group("audit")


@audit.command("list", example="audit list --user ada@example.org --since 2026-11-21")
@filters
@limit_option
@json_option
def list_(limit: int, as_json: bool, **chosen: Any) -> None:
    """List audit rows, newest first."""
    from platform_db.audit.reading import as_values, list_audit

    table = columns("created", "action", "actor_id", "service", "user_id", "details")
    with session_scope() as session:
        rows = list_audit(session, limit=limit, **_filters(session, chosen)).rows
        show_rows(map(as_values, rows), as_json, table)


@audit.command(example="audit seal", is_job=True)
def seal() -> None:
    """Seal the rows that are not sealed yet; run it every minute.

    Killed at any time it leaves a chain that verifies.
    """
    from platform_db.audit import seal_audit_log

    result = seal_audit_log(session_factory())
    click.echo(f"{result.seals} new seals cover {result.rows} rows")


@audit.command(example="audit verify --since 2026-11-01", is_job=True)
@click.option("--since", type=Time(), help="Begin with the first seal made at this time or later.")
@click.option(
    "--against",
    type=click.File(encoding="utf-8", errors="replace"),
    help="Compare with seals that were exported earlier.",
)
@click.option(
    "--unsigned-until",
    type=int,
    default=0,
    metavar="SEAL",
    help="Accept seals up to this one unsigned: from before there was a key.",
)
def verify(since: datetime | None, against: TextIO | None, unsigned_until: int) -> None:
    """Check that the log is what was sealed.

    It names the first seal and the first row that are not.
    """
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


@audit.command(example="audit export --format csv --since 2026-11-01")
@filters
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
def export(format_: str, **chosen: Any) -> None:
    """Write audit rows to standard output, oldest first."""
    from platform_db.audit import export_audit

    with session_scope() as session:
        rows = export_audit(session, **_filters(session, chosen))
        if format_ == "csv":
            written = ({**row, "details": row["details"] and json.dumps(row["details"])} for row in rows)
            show_csv(COLUMNS, written)
        else:
            _show_lines(rows)


@audit.command("export-seals", example="audit export-seals --after 1200")
@click.option("--after", type=int, default=0, metavar="SEAL", help="Only those after it.")
def export_seals(after: int) -> None:
    """Write the seals to standard output, one JSON object a line.

    Keep them where the database's administrators cannot write.
    """
    from platform_db import audit as library

    with session_scope() as session:
        _show_lines(library.export_seals(session, after=after))


@audit.command("public-key", example="audit public-key")
def public_key() -> None:
    """Print the public part of PLATFORM_DB_AUDIT_SIGNING_KEY."""
    from platform_db import audit as library

    click.echo(library.public_key())


@audit.command(example="audit prune --older-than 730d", is_job=True)
@duration_option("--older-than", "Keep what is younger", in_days=True, required=True)
def prune(older_than: timedelta) -> None:
    """Remove old rows that are sealed; the seals' hashes stay.

    The removal is recorded. Only the tables' owner may do it: PLATFORM_DB_MIGRATION_URI.
    """
    from platform_db import database
    from platform_db.audit import prune_audit_log

    pruned = prune_audit_log(session_factory(database.migration_url()), older_than)
    click.echo(f"removed the rows of {pruned} seals")


def _show_lines(rows: Iterable[Any]) -> None:
    for row in rows:
        click.echo(json.dumps(row))


def _filters(session: Session, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what the library takes: users by their ids. A user who was deleted has no address any more."""
    from platform_db.users import find_user

    for option in ("user", "actor"):
        user = chosen.pop(option)
        by_address = user is not None and "@" in user
        chosen[f"{option}_id"] = find_user(session, user).id_ if by_address else user
    return chosen
