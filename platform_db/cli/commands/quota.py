"""``platform-db quota``: the jobs that count what users take, limits, and who takes how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import Group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import Duration, json_option, options, user_argument, user_option
from platform_db.cli.progress import show_progress
from platform_db.cli.show import Row, escaped, show_csv, show_row, show_rows

if TYPE_CHECKING:
    from platform_db.quota import CpuReport, DiskReport, UsageReport
    from platform_db.quota.report import UserUse, WorkflowUse

SWITCHED_OFF = (
    "nothing is updated: PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY switches it off "
    "(--override-policy updates in any case)"
)

RESOURCE_COLUMNS = ("user_id", "email", "resource", "unit", "used", "limit", "reserved", "measured_at")
WORKFLOW_COLUMNS = ("user_id", "workflow_id", "name", "status", "disk_bytes", "cpu_ms", "shared_by")

job_options = options(
    user_option("Only this user's"),
    click.option(
        "--stale-after",
        type=Duration(),
        help="Only what was not measured for this long (1h, 30m); also resumes a run that was killed.",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Only this share of the users, so that N machines share the work; I counts from 0 or from 1.",
    ),
    click.option("--dry-run", is_flag=True, help="Find out what would change, and change nothing."),
    click.option("--override-policy", is_flag=True, help="Update even if the policy switches it off."),
    json_option,
)

measuring_options = options(
    click.option("--workers", type=int, help="How many processes read the disk."),
    click.option(
        "--method",
        type=click.Choice(["auto", "scan", "ceph"]),
        default="auto",
        show_default=True,
        help="How to measure.",
    ),
    click.option("--apparent", is_flag=True, help="Add up sizes of files instead of the blocks they occupy."),
    click.option("--gentle", is_flag=True, help="Spare a file system that others wait for."),
)


@click.group(cls=Group)
def quota() -> None:
    """Count the disk space and processing time of users, and limit them."""


@quota.command(example="quota create-default-resources")
def create_default_resources() -> None:
    """Create the resources "processing time" and "shared storage"."""
    from platform_db.models import Resource

    with session_scope() as session:
        created = Resource.initialise_default_resources(session)
    for name in created:
        click.echo(f"created the resource {name}")
    if not created:
        click.echo("nothing to do: the default resources exist already")


@quota.command(example="quota disk-usage-update --stale-after 1h")
@job_options
@measuring_options
def disk_usage_update(as_json: bool, **given: Any) -> None:
    """Measure workspaces, and store what they and their owners take.

    A failure on one workspace leaves its figure as it was; the rest goes on, and the exit code says so.
    """
    done = _update(["disk"], as_json, **given)
    _show(done, as_json, done.disk)


@quota.command(example="quota cpu-usage-update --dry-run")
@job_options
def cpu_usage_update(as_json: bool, **given: Any) -> None:
    """Count the processing time of runs, sessions, services and their owners."""
    done = _update(["cpu"], as_json, **given)
    _show(done, as_json, done.cpu)


@quota.command(example="quota resource-usage-update --shard 1/8")
@job_options
@measuring_options
def resource_usage_update(as_json: bool, **given: Any) -> None:
    """Do both: cpu-usage-update, then disk-usage-update."""
    done = _update(["cpu", "disk"], as_json, **given)
    _show(done, as_json, done if done.disk else None)


@quota.command(example="quota reconcile --fix")
@user_option("Only this user's")
@click.option("--fix", is_flag=True, help="Store what was found.")
@json_option
@measuring_options
def reconcile(user: str | None, fix: bool, as_json: bool, **measuring: Any) -> None:
    """Compute all figures again, and show which are stored differently.

    A line says what is stored, what it should be, and why.
    """
    from platform_db.quota import DiskReport, Measuring, Scope, reconcile

    report = DiskReport()
    scope = Scope(user_id=_user_id(user))
    found = reconcile(session_factory(), scope, Measuring(**measuring), fix=fix, report=report)
    if as_json:
        show_rows(map(asdict, found), as_json)
    else:
        count = 0
        for difference in found:
            count += 1
            of = f"of {difference.resource} of user {difference.user_id}"
            what = f"workspace {difference.path!r}" if difference.path else f"{difference.what} {of}"
            before = "nothing" if difference.before is None else difference.before
            click.echo(f"{what}: {before} -> {difference.now}, because {difference.reason}")
        click.echo(f"{count} differences{' fixed' if fix and count else ''}")
    report.raise_for_problems()


@quota.command(example="quota report --workflows --user ada@example.org")
@user_option("Only this user")
@click.option("--workflows", is_flag=True, help="List each user's workflows, too, the largest first.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: one line per user and resource, or workflow.")
def report(user: str | None, workflows: bool, as_json: bool, as_csv: bool) -> None:
    """Show how much of their quota users have used, as it was last updated."""
    from platform_db.quota.report import report_users, report_workflows

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    user_id = _user_id(user)
    with session_scope() as session:
        users = report_users(session, user_id)

        def runs_of(use: UserUse) -> list[WorkflowUse]:
            return report_workflows(session, use.user_id)

        if as_json:
            show_rows((_as_dict(use, runs_of(use) if workflows else None) for use in users), as_json)
        elif as_csv and workflows:
            show_csv(WORKFLOW_COLUMNS, (_flat(use, run) for use in users for run in runs_of(use)))
        elif as_csv:
            show_csv(
                RESOURCE_COLUMNS,
                ({**vars(use), **vars(r), "unit": r.unit.value} for use in users for r in use.resources),
            )
        elif workflows:
            for use in users:
                show_rows(_table_of_user(use), as_json)
                show_rows(map(vars, runs_of(use)), as_json, _line_of_run)
                click.echo()
        else:
            show_rows((line for use in users for line in _table_of_user(use)), as_json)


@quota.command(example="quota set-limit ada@example.org disk 50GiB")
@user_argument
@click.argument("resource")
@click.argument("amount")
def set_limit(user: str, resource: str, amount: str) -> None:
    """Set USER's limit of RESOURCE to AMOUNT.

    USER is an id or an e-mail address, RESOURCE is cpu, disk or a resource's name, AMOUNT is such as 50GiB,
    100h or unlimited.
    """
    from platform_db.quota import limits, set_limit
    from platform_db.quota.resources import get_resource
    from platform_db.users import find_user

    with session_scope() as session:
        found, about = get_resource(session, resource), find_user(session, user)
        limit = limits.parse_limit(found.unit, amount)
        before = set_limit(session, about, found, limit)
        change = f"{limits.format_limit(found.unit, before)} -> {limits.format_limit(found.unit, limit)}"
        click.echo(escaped(f"{found.name} of {about.email}: {change}"))


@quota.command(example="quota init-default-period --dry-run")
@click.option("--dry-run", is_flag=True, help="Count the users that it would change, and change nothing.")
def init_default_period(dry_run: bool) -> None:
    """Give the default period to every user without a period.

    It is the period of the user's processing time, counted from the creation of the account. Its length is
    PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS.
    """
    from platform_db.models import ResourceType
    from platform_db.quota import get_default_quota_resource, initialise_default_periods

    with session_scope() as session:
        cpu = get_default_quota_resource(session, ResourceType.cpu)
        users = initialise_default_periods(session, cpu, dry_run=dry_run)
    click.echo(f"{len(users)} users {'would get' if dry_run else 'got'} the default period")


def _update(
    types: list[str],
    quiet: bool,
    user: str | None,
    stale_after: timedelta | None,
    shard: str | None,
    dry_run: bool,
    override_policy: bool,
    **measuring: Any,
) -> UsageReport:
    from platform_db.models import ResourceType
    from platform_db.quota import Measuring, Scope, update_usage
    from platform_db.quota.scope import parse_shard

    return update_usage(
        session_factory(),
        [ResourceType(type_) for type_ in types],
        Scope(
            user_id=_user_id(user),
            shard=None if shard is None else parse_shard(shard),
            stale_after=None if stale_after is None else stale_after.total_seconds(),
        ),
        Measuring(**measuring),
        dry_run=dry_run,
        override_policy=override_policy,
        show_progress=partial(show_progress, quiet=quiet),
    )


def _show(done: UsageReport, as_json: bool, report: UsageReport | CpuReport | DiskReport | None) -> None:
    """Print what was updated, and fail where some of it could not be.

    :param report: what to print of it as JSON.
    """
    lines = [_describe_cpu(done.cpu)] if done.cpu else []
    lines += [_describe_disk(done.disk)] if done.disk else []
    row = asdict(report) if report else {"skipped": SWITCHED_OFF}
    show_row(row, as_json, "\n".join(lines) or SWITCHED_OFF)
    done.raise_for_problems()


def _user_id(user: str | None) -> Any:
    if user is None:
        return None
    from platform_db.users import find_user

    with session_scope() as session:
        return find_user(session, user).id_


def _describe_disk(report: DiskReport) -> str:
    from platform_db.units import human_readable_bytes

    parts = [
        f"{count} {what}"
        for count, what in (
            (report.changed, "changed"),
            (report.missing, "without a workspace"),
            (report.incomplete, "only in part readable"),
            (report.failed, "failed"),
            (report.failed_users, "totals failed"),
            (report.newer, "measured or deleted by others meanwhile"),
            (report.stale, "changed while they were read"),
            (report.corrected_totals, "totals corrected"),
        )
        if count or what == "changed"
    ]
    return (
        f"disk: {report.workspaces} workspaces of {report.runs} runs take "
        f"{human_readable_bytes(report.bytes)}; {', '.join(parts)}"
    )


def _describe_cpu(report: CpuReport) -> str:
    periods = f", {report.periods} began a new period" if report.periods else ""
    failed = f", {report.failed_users} users failed" if report.failed_users else ""
    changed = f"{report.figures} figures and {report.totals} totals changed"
    return f"cpu: {report.users} users; {changed}{periods}{failed}"


def _as_dict(use: UserUse, runs: list[WorkflowUse] | None) -> Row:
    found = use.as_dict()
    return found if runs is None else {**found, "workflows": [run.as_dict() for run in runs]}


def _table_of_user(use: UserUse) -> Iterator[Row]:
    for resource in use.resources:
        found = resource.as_dict()
        yield {
            "user": use.email,
            "resource": resource.resource,
            "used": found["usage"]["human_readable"],
            "limit": found["limit"]["human_readable"] if "limit" in found else "unlimited",
            "reserved": resource.human_readable(resource.reserved) if resource.reserved else None,
            "health": found.get("health"),
            "updated": _minute(resource.measured_at),
        }


def _line_of_run(run: Row) -> Row:
    from platform_db.units import human_readable_bytes, human_readable_milliseconds

    return {
        "workflow": run["name"],
        "status": run["status"],
        "disk": None if run["disk"] is None else human_readable_bytes(run["disk"]),
        "processing_time": None if run["cpu"] is None else human_readable_milliseconds(run["cpu"]),
        "method": run["method"],
        "updated": _minute(run["measured_at"]),
        "shared_by": run["shared_by"],
    }


def _flat(use: UserUse, run: WorkflowUse) -> Row:
    return {**vars(run), "user_id": use.user_id, "disk_bytes": run.disk, "cpu_ms": run.cpu}


def _minute(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "never"
