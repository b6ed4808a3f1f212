"""``platform-db quota``: the jobs that count what users take, limits, and who takes how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import duration_option, json_option, options, user_argument, user_option
from platform_db.cli.outcomes import note_drift
from platform_db.cli.progress import show_progress
from platform_db.cli.show import Row, escaped, show_csv, show_row, show_rows

if TYPE_CHECKING:
    from platform_db.quota import CpuReport, Difference, DiskReport
    from platform_db.quota.report import ResourceUse, StoredBytes, UserUse, WorkflowUse

SWITCHED_OFF = (
    "nothing is updated: PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY switches it off "
    "(--override-policy updates in any case)"
)

RESOURCE_COLUMNS = ("user_id", "email", "resource", "unit", "used", "limit", "reserved", "measured_at")
WORKFLOW_COLUMNS = ("user_id", "workflow_id", "name", "status", "disk_bytes", "cpu_ms", "shared_by")

DISK_COUNTS = {
    "changed": "changed",
    "missing": "without a workspace",
    "incomplete": "only in part readable",
    "failed": "failed",
    "failed_users": "totals failed",
    "newer": "measured or deleted by others meanwhile",
    "stale": "changed while they were read",
    "corrected_totals": "totals corrected",
}

METHODS = click.Choice(["auto", "scan", "ceph"])

job_options = options(
    user_option("Only this user's"),
    duration_option(
        "--stale-after",
        "Only what was not measured for this long (1h, 30m); also resumes a run that was killed",
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
    click.option("--method", type=METHODS, default="auto", show_default=True, help="How to measure."),
    click.option("--apparent", is_flag=True, help="Add up sizes of files instead of the blocks they occupy."),
    click.option("--gentle", is_flag=True, help="Spare a file system that others wait for."),
)

quota = group("quota")


@quota.command(example="quota create-default-resources")
def create_default_resources() -> None:
    """Create the resources "processing time", "shared storage" and "database storage"."""
    from platform_db.models import Resource

    with session_scope() as session:
        created = Resource.initialise_default_resources(session)
    lines = "\n".join(f"created the resource {name}" for name in created)
    click.echo(lines or "nothing to do: the default resources exist already")


@quota.command(example="quota disk-usage-update --stale-after 1h", is_job=True)
@job_options
@measuring_options
def disk_usage_update(**given: Any) -> None:
    """Measure workspaces, and store what they and their owners take.

    A failure on one workspace leaves its figure as it was; the rest goes on, and the exit code says so.
    """
    _update("disk", **given)


@quota.command(example="quota cpu-usage-update --dry-run", is_job=True)
@job_options
def cpu_usage_update(**given: Any) -> None:
    """Count the processing time of runs, sessions, services and their owners."""
    _update("cpu", **given)


@quota.command(example="quota resource-usage-update --shard 1/8", is_job=True)
@job_options
@measuring_options
def resource_usage_update(**given: Any) -> None:
    """Do both: cpu-usage-update, then disk-usage-update."""
    _update("cpu", "disk", **given)


@quota.command(example="quota reconcile --fix", is_job=True)
@user_option("Only this user's")
@click.option("--fix", is_flag=True, help="Store what was found.")
@json_option
@measuring_options
def reconcile(user: str | None, fix: bool, as_json: bool, **measuring: Any) -> None:
    """Compute all figures again, and show which are stored differently.

    A line says what is stored, what it should be, and why.
    """
    from platform_db.quota import DiskReport, Measuring, Scope, reconcile
    from platform_db.quota.resources import DEFAULT_NAMES

    report = DiskReport()
    scope = Scope(user_id=_user_id(user))
    differences = reconcile(session_factory(), scope, Measuring(**measuring), fix=fix, report=report)
    wrong_totals = dict.fromkeys(DEFAULT_NAMES.values(), 0)

    def counted() -> Iterator[Difference]:
        for difference in differences:
            if difference.what == "total":
                wrong_totals[difference.resource] += 1
            yield difference

    found = counted()
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
    note_drift(wrong_totals)
    report.raise_for_problems()


@quota.command(example="quota report --workflows --user ada@example.org")
@user_option("Only this user")
@click.option("--workflows", is_flag=True, help="List each user's workflows, too, the largest first.")
@click.option(
    "--stored", is_flag=True, help="Add up the bytes of results, tasks and values, too; it reads all of them."
)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: one line per user and resource, or workflow.")
def report(user: str | None, workflows: bool, stored: bool, as_json: bool, as_csv: bool) -> None:
    """Show how much of their quota users have used, as it was last updated."""
    from platform_db.quota.report import report_stored, report_users, report_workflows

    if as_csv and (as_json or stored):
        raise click.UsageError("--csv excludes --json and --stored")
    user_id = _user_id(user)
    with session_scope() as session:
        users = report_users(session, user_id)

        def runs_of(use: UserUse) -> list[WorkflowUse]:
            return report_workflows(session, use.user_id)

        def stored_of(use: UserUse) -> StoredBytes | None:
            return report_stored(session, use.user_id) if stored else None

        if as_json:
            show_rows(
                (_as_dict(use, runs_of(use) if workflows else None, stored_of(use)) for use in users), as_json
            )
        elif as_csv and workflows:
            show_csv(WORKFLOW_COLUMNS, (_flat(use, run) for use in users for run in runs_of(use)))
        elif as_csv:
            rows = ({**vars(use), **vars(r), "unit": r.unit.value} for use in users for r in use.resources)
            show_csv(RESOURCE_COLUMNS, rows)
        elif workflows:
            for use in users:
                show_rows(_table_of_user(use, stored_of(use)), as_json)
                show_rows(map(_line_of_run, runs_of(use)), as_json)
                click.echo()
        else:
            show_rows((line for use in users for line in _table_of_user(use, stored_of(use))), as_json)


@quota.command(example="quota set-limit ada@example.org disk 50GiB")
@user_argument
@click.argument("resource")
@click.argument("amount")
def set_limit(user: str, resource: str, amount: str) -> None:
    """Set USER's limit of RESOURCE to AMOUNT.

    USER is an id or an e-mail address, RESOURCE is cpu, disk, database or a resource's name, AMOUNT is such
    as 50GiB, 100h or unlimited.
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
    *types: str,
    as_json: bool,
    user: str | None,
    stale_after: timedelta | None,
    shard: str | None,
    dry_run: bool,
    override_policy: bool,
    **measuring: Any,
) -> None:
    """Update usage, print what was updated, and fail where some of it could not be."""
    from platform_db.models import ResourceType
    from platform_db.quota import Measuring, Scope, update_usage
    from platform_db.quota.resources import DEFAULT_NAMES
    from platform_db.quota.scope import parse_shard

    done = update_usage(
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
        show_progress=partial(show_progress, quiet=as_json),
    )
    lines = [_describe_cpu(done.cpu)] if done.cpu else []
    lines += [_describe_disk(done.disk)] if done.disk else []
    row = asdict(done) if len(types) > 1 else asdict(done)[types[0]]
    show_row(row if lines else {"skipped": SWITCHED_OFF}, as_json, "\n".join(lines) or SWITCHED_OFF)
    if done.disk:
        note_drift({DEFAULT_NAMES[ResourceType.disk]: done.disk.corrected_totals})
    done.raise_for_problems()


def _user_id(user: str | None) -> Any:
    if user is None:
        return None
    from platform_db.users import find_user

    with session_scope() as session:
        return find_user(session, user).id_


def _describe_disk(report: DiskReport) -> str:
    from platform_db.units import human_readable_bytes

    counts = {what: getattr(report, name) for name, what in DISK_COUNTS.items()}
    parts = [f"{count} {what}" for what, count in counts.items() if count or what == "changed"]
    found = f"{report.workspaces} workspaces of {report.runs} runs take {human_readable_bytes(report.bytes)}"
    return f"disk: {found}; {', '.join(parts)}"


def _describe_cpu(report: CpuReport) -> str:
    periods = f", {report.periods} began a new period" if report.periods else ""
    failed = f", {report.failed_users} users failed" if report.failed_users else ""
    changed = f"{report.figures} figures and {report.totals} totals changed"
    return f"cpu: {report.users} users; {changed}{periods}{failed}"


def _as_dict(use: UserUse, runs: list[WorkflowUse] | None, stored: StoredBytes | None) -> Row:
    return {
        **use.as_dict(),
        **({} if runs is None else {"workflows": [run.as_dict() for run in runs]}),
        **({} if stored is None else {"stored": stored.as_dict()}),
    }


def _table_of_user(use: UserUse, stored: StoredBytes | None) -> Iterator[Row]:
    for resource in use.resources:
        found = resource.as_dict()
        yield {
            "user": use.email,
            "resource": resource.resource,
            "used": found["usage"]["human_readable"],
            "limit": found["limit"]["human_readable"] if "limit" in found else "unlimited",
            "reserved": resource.human_readable(resource.reserved) if resource.reserved else None,
            "health": found.get("health"),
            "updated": _minute(resource),
        }
    for name, size in stored.as_dict().items() if stored else ():
        yield {
            "user": use.email,
            "resource": name.replace("_", " "),
            "used": size["human_readable"],
            "limit": None,
            "reserved": None,
            "health": None,
            "updated": "now",
        }


def _line_of_run(run: WorkflowUse) -> Row:
    found = run.as_dict()
    return {
        "workflow": run.name,
        "status": run.status,
        "disk": found["disk"] and found["disk"]["human_readable"],
        "processing_time": found["cpu"] and found["cpu"]["human_readable"],
        "method": run.method,
        "updated": _minute(run),
        "shared_by": run.shared_by,
    }


def _flat(use: UserUse, run: WorkflowUse) -> Row:
    return {**vars(run), "user_id": use.user_id, "disk_bytes": run.disk, "cpu_ms": run.cpu}


def _minute(use: ResourceUse | WorkflowUse) -> str:
    return f"{use.measured_at:%Y-%m-%d %H:%M}" if use.measured_at else "never"
