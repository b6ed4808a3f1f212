"""``platform-db quota``: the jobs that count what users take, limits, and who takes how much."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from platform_db.cli.commands.quota_report import init_default_period, report, set_limit
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.progress import show_progress
from platform_db.cli.values import duration_seconds

if TYPE_CHECKING:
    from platform_db.quota import CpuReport, Difference, DiskReport, Measuring, Scope

Command = TypeVar("Command", bound=Callable[..., Any])

SWITCHED_OFF = (
    "nothing is updated: PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY switches it off "
    "(--override-policy updates in any case)"
)


def options(*given: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several."""

    def decorate(command: Command) -> Command:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


def _shard(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    from platform_db.quota.scope import parse_shard

    try:
        return None if value is None else parse_shard(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

job_options = options(
    click.option("--user", metavar="USER", help="Only this user's, by id or e-mail address."),
    click.option(
        "--stale-after",
        callback=duration_seconds,
        metavar="DURATION",
        help="Only what was not measured for so long (1h, 30m); also resumes a run that was killed.",
    ),
    click.option(
        "--shard",
        callback=_shard,
        metavar="I/N",
        help="Only this share of the users, so that N machines share the work; I counts from 0 or from 1.",
    ),
    click.option("--dry-run", is_flag=True, help="Find out what would change, and change nothing."),
    click.option("--override-policy", is_flag=True, help="Update even if the policy switches it off."),
    json_option,
)

measuring_options = options(
    click.option("--workers", type=click.IntRange(min=1), help="How many processes read the disk."),
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


@click.group
def quota() -> None:
    """Count what users take of the disk and of processing time."""


@quota.command
def create_default_resources() -> None:
    """Create the resources "processing time" and "shared storage"."""
    from platform_db.models import Resource

    with session_scope() as session:
        created = Resource.initialise_default_resources(session)
    for name in created:
        click.echo(f"created the resource {name}")
    if not created:
        click.echo("nothing to do: the default resources exist already")


@quota.command
@job_options
@measuring_options
def disk_usage_update(override_policy: bool, as_json: bool, **given: Any) -> None:
    """Measure workspaces, and store what they and their owners take.

    A failure on one workspace leaves its figure as it was; the rest goes on, and the exit code says so.
    """
    if _is_switched_off(override_policy, as_json):
        return
    done = _update_disk(given, as_json)
    _print(as_json, asdict(done), _describe_disk(done))
    done.raise_for_problems()


@quota.command
@job_options
def cpu_usage_update(override_policy: bool, as_json: bool, **given: Any) -> None:
    """Bring the processing time of runs, sessions, services and their owners up to date."""
    if _is_switched_off(override_policy, as_json):
        return
    done = _update_cpu(given, as_json)
    _print(as_json, asdict(done), _describe_cpu(done))


@quota.command
@job_options
@measuring_options
def resource_usage_update(override_policy: bool, as_json: bool, **given: Any) -> None:
    """Do both: cpu-usage-update, then disk-usage-update."""
    if _is_switched_off(override_policy, as_json):
        return
    cpu = _update_cpu(given, as_json)
    disk = _update_disk(given, as_json)
    _print(
        as_json,
        {"cpu": asdict(cpu), "disk": asdict(disk)},
        f"{_describe_cpu(cpu)}\n{_describe_disk(disk)}",
    )
    disk.raise_for_problems()


@quota.command
@click.option("--user", metavar="USER", help="Only this user's, by id or e-mail address.")
@click.option("--fix", is_flag=True, help="Store what was found.")
@json_option
@measuring_options
def reconcile(user: str | None, fix: bool, as_json: bool, **given: Any) -> None:
    """Compute everything anew, and show what is stored differently: old -> new, and why."""
    from platform_db.quota import DiskReport, Measuring, reconcile

    report, found = DiskReport(), 0
    scope = _scope({"user": user, "shard": None, "stale_after": None})
    for difference in reconcile(session_factory(), scope, Measuring(**given), fix=fix, report=report):
        found += 1
        value = {**asdict(difference), "user_id": str(difference.user_id)}
        _print(as_json, value, _describe_difference(difference))
    if not as_json:
        click.echo(f"{found} differences{' fixed' if fix and found else ''}")
    report.raise_for_problems()


def _describe_difference(difference: Difference) -> str:
    of = f"of {difference.resource} of user {difference.user_id}"
    what = f"workspace {difference.path!r}" if difference.path else f"{difference.what} {of}"
    before = "nothing" if difference.before is None else difference.before
    return f"{what}: {before} -> {difference.now}, because {difference.reason}"


quota.add_command(report)
quota.add_command(set_limit)
quota.add_command(init_default_period)


def _is_switched_off(override: bool, as_json: bool) -> bool:
    from platform_db.quota.policy import is_periodic_update_on

    if is_periodic_update_on(override):
        return False
    _print(as_json, {"skipped": SWITCHED_OFF}, SWITCHED_OFF)
    return True


def _update_disk(given: dict[str, Any], quiet: bool) -> DiskReport:
    from platform_db.quota import Measuring, release_expired_reservations, update_disk_usage

    sessions = session_factory()
    scope = _scope(given)
    measuring: Measuring = Measuring(given["workers"], given["method"], given["apparent"], given["gentle"])
    if not given["dry_run"]:
        release_expired_reservations(sessions)
    with show_progress("workspaces", quiet=quiet) as progress:
        return update_disk_usage(sessions, scope, measuring, dry_run=given["dry_run"], progress=progress)


def _update_cpu(given: dict[str, Any], quiet: bool) -> CpuReport:
    from platform_db.quota import release_expired_reservations, update_cpu_usage

    sessions = session_factory()
    scope = _scope(given)
    if not given["dry_run"]:
        release_expired_reservations(sessions)
    with show_progress("users", quiet=quiet) as progress:
        return update_cpu_usage(sessions, scope, dry_run=given["dry_run"], progress=progress)


def _scope(given: dict[str, Any]) -> Scope:
    from platform_db.quota import Scope
    from platform_db.quota.resources import find_user

    user_id = None
    if given["user"] is not None:
        with session_scope() as session:
            user_id = find_user(session, given["user"]).id_
    return Scope(user_id=user_id, shard=given["shard"], stale_after=given["stale_after"])


def _describe_disk(report: DiskReport) -> str:
    from platform_db.units import human_readable_bytes

    parts = [
        f"{count} {what}"
        for count, what in (
            (report.changed, "changed"),
            (report.missing, "without a workspace"),
            (report.incomplete, "only in part readable"),
            (report.failed, "failed"),
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
    return f"cpu: {report.users} users; {report.figures} figures and {report.totals} totals changed{periods}"


def _print(as_json: bool, value: Any, text: str) -> None:
    click.echo(json.dumps(value) if as_json else text)
