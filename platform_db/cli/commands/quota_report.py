"""``platform-db quota``: who uses how much, and how much they may."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from platform_db.cli.database import session_scope

if TYPE_CHECKING:
    from rich.table import Table

    from platform_db.quota.report import UserUse, WorkflowUse

HEALTH_COLOURS = {"healthy": "green", "warning": "yellow", "critical": "red"}


@click.command
@click.option("--user", metavar="USER", help="Only this user, by id or e-mail address.")
@click.option("--workflows", is_flag=True, help="List each user's workflows, too, the biggest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of users.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: one line per user and resource, or workflow.")
def report(user: str | None, workflows: bool, as_json: bool, as_csv: bool) -> None:
    """Show who uses how much of their quota, as it was last updated."""
    from platform_db.quota.report import report_users, report_workflows
    from platform_db.quota.resources import find_user

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    with session_scope() as session:
        user_id = None if user is None else find_user(session, user).id_
        rows = (
            (use, report_workflows(session, use.user_id) if workflows else None)
            for use in report_users(session, user_id)
        )
        if as_json:
            _print_json(rows)
        elif as_csv:
            _print_csv(rows, workflows)
        else:
            _print_tables(rows)


Rows = Iterable[tuple["UserUse", "list[WorkflowUse] | None"]]


def _print_json(rows: Rows) -> None:
    separator = "["
    for use, runs in rows:
        value = use.as_dict()
        if runs is not None:
            value["workflows"] = [run.as_dict() for run in runs]
        click.echo(f"{separator}{json.dumps(value)}", nl=False)
        separator = ",\n "
    click.echo("]" if separator != "[" else "[]")


def _print_csv(rows: Rows, workflows: bool) -> None:
    writer = csv.writer(sys.stdout)
    if workflows:
        writer.writerow(("user_id", "workflow_id", "name", "status", "disk_bytes", "cpu_ms", "shared_by"))
    else:
        writer.writerow(("user_id", "email", "resource", "unit", "used", "limit", "reserved", "measured_at"))
    for use, runs in rows:
        for run in runs or ():
            writer.writerow(
                (use.user_id, run.workflow_id, run.name, run.status, run.disk, run.cpu, run.shared_by)
            )
        for r in use.resources if runs is None else ():
            writer.writerow(
                (use.user_id, use.email, r.resource, r.unit.value, r.used, r.limit, r.reserved, r.measured_at)
            )


def _print_tables(rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("User", "Resource", "Used", "Limit", "Reserved", "Health", "Updated", box=None)
    for use, runs in rows:
        for resource in use.resources:
            found = resource.as_dict()
            health = found.get("health", "")
            table.add_row(
                Text(use.email),
                resource.resource,
                found["usage"]["human_readable"],
                found["limit"]["human_readable"] if "limit" in found else "unlimited",
                resource.human_readable(resource.reserved) if resource.reserved else "",
                Text(health, style=HEALTH_COLOURS.get(health, "")),
                _time(resource.measured_at),
            )
        if runs is not None:
            console.print(table)
            console.print(_workflow_table(runs))
            console.print()
            table = Table("User", "Resource", "Used", "Limit", "Reserved", "Health", "Updated", box=None)
    if table.row_count:
        console.print(table)


def _workflow_table(runs: list[WorkflowUse]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("  Workflow", "Status", "Disk", "Processing time", "Method", "Updated", "", box=None)
    for run in runs:
        found = run.as_dict()
        table.add_row(
            Text(f"  {run.name}"),
            run.status,
            found["disk"]["human_readable"] if found["disk"] else "",
            found["cpu"]["human_readable"] if found["cpu"] else "",
            run.method or "",
            _time(run.measured_at),
            f"workspace shared by {run.shared_by} runs" if run.shared_by > 1 else "",
        )
    return table


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "never"


@click.command
@click.argument("user")
@click.argument("resource")
@click.argument("amount")
def set_limit(user: str, resource: str, amount: str) -> None:
    """Set USER's limit of RESOURCE to AMOUNT.

    USER is an id or an e-mail address, RESOURCE is cpu, disk or a resource's name, AMOUNT is such as 50GiB,
    100h or unlimited.
    """
    from platform_db.quota import limits, set_limit
    from platform_db.quota.resources import find_user, get_resource

    with session_scope() as session:
        found, about = get_resource(session, resource), find_user(session, user)
        try:
            limit = limits.parse_limit(found.unit, amount)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="AMOUNT") from None
        before = set_limit(session, about, found, limit)
        change = f"{limits.format_limit(found.unit, before)} -> {limits.format_limit(found.unit, limit)}"
        click.echo(f"{found.name} of {about.email}: {change}")


@click.command
@click.option("--dry-run", is_flag=True, help="Find out whom it would change, and change nothing.")
def init_default_period(dry_run: bool) -> None:
    """Give the default period to the processing time of every user who has none.

    Periods are counted from the creation of the user's account; their length is that of
    PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS.
    """
    from platform_db.models import ResourceType
    from platform_db.quota import get_default_quota_resource, initialise_default_periods

    with session_scope() as session:
        users = initialise_default_periods(session, get_default_quota_resource(session, ResourceType.cpu))
        if dry_run:
            session.rollback()
    click.echo(f"{len(users)} users {'would get' if dry_run else 'got'} the default period")
