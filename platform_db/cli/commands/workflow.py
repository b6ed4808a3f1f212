"""``platform-db workflow``: showing runs, with results and graph, and recovering those of dead workers."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.listing import list_options, read_filter, show_page
from platform_db.cli.options import Time, duration_option, json_option, user_option
from platform_db.cli.runs import find_job, find_owner, find_run, find_run_of, owner_option, run_options
from platform_db.cli.show import Row, show_row, show_rows
from platform_db.states import WORKFLOW

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.lifecycle import TransitionResult
    from platform_db.models import Workflow

runs_argument = click.argument("runs", nargs=-1, required=True, metavar="RUN...")
reason_option = click.option("--reason", help="Why, for the history.")

workflow = group(
    "workflow",
    "A run is named by its id or its beginning or, with --user, by its name: name, name.2 or name.2.1.",
)


@workflow.command("list", example="workflow list --user ada@example.org --status failed --label team=a")
@owner_option
@click.option("--all-users", is_flag=True, help="Look at all users' runs, even where no index serves it.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="SELECTOR",
    help="Such as team=a,gpu in (a100,h100),!old; may be repeated.",
)
@list_options("-created")
@json_option
def list_(
    user: str | None,
    all_users: bool,
    statuses: tuple[str, ...],
    name: str | None,
    since: datetime | None,
    filters: tuple[str, ...],
    labels: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """List runs, newest first: those of USER, or those of all users."""
    from sqlalchemy.orm import joinedload

    from platform_db import errors
    from platform_db.models import Workflow
    from platform_db.query import find

    if user is not None and all_users:
        raise click.UsageError("choose one of --user and --all-users")
    wanted = read_filter(statuses, name, since, filters)
    with session_scope() as session:
        if user is not None:
            wanted = {**wanted, "owner_id": find_owner(session, user)}
        with_owners = [joinedload(Workflow.owner)]
        selector = ",".join(labels)
        try:
            page = find(
                session, Workflow, wanted, labels=selector, scan=all_users, options=with_owners, **chosen
            )
        except errors.Refused as error:
            raise errors.Refused(str(error), hint="name one with --user, or give --all-users") from None
        show_page(page, map(_summary, page.rows), as_json, _as_people_read)


@workflow.command(example="workflow show analysis.2 --user ada@example.org")
@run_options
@json_option
def show(run: str, user: str | None, as_json: bool) -> None:
    """Show RUN."""
    from platform_db.query import describe

    with session_scope() as session:
        found = find_run(session, run, user)
        row = {**describe(found), "run_number": found.run_number}
        del row["specification"]
        show_row(row, as_json)


@workflow.command(example="workflow versions analysis --user ada@example.org")
@run_options
@json_option
def versions(run: str, user: str | None, as_json: bool) -> None:
    """List the versions of RUN, the oldest first."""
    from platform_db.workflows import list_versions

    with session_scope() as session:
        found, after = find_run(session, run, user), 0
        rows: list[Row] = []
        while page := list_versions(session, found, after=after):
            rows += [version.as_dict() for version in page]
            after = page[-1].number
    show_rows(rows, as_json, lambda row: {**row, "labels": _labels_as_people_read(row["labels"])})


@workflow.command(example="workflow specification analysis --user ada@example.org --version 1")
@run_options
@click.option("--version", "number", type=int, metavar="NUMBER", help="This version; by default the latest.")
def specification(run: str, user: str | None, number: int | None) -> None:
    """Print the specification of RUN in JSON."""
    from platform_db.workflows import get_version

    with session_scope() as session:
        found = get_version(session, find_run(session, run, user), number)
    click.echo(json.dumps(found.specification, indent=2, ensure_ascii=False))


@workflow.command(example="workflow history analysis --user ada@example.org --since 2026-11-21T07:30:00Z")
@run_options
@click.option("--since", type=Time(), help="Leave out what was before this time.")
@click.option("--level", type=click.Choice(["workflow", "job"]), help="Only the run's own, or its jobs'.")
@json_option
def history(run: str, user: str | None, since: datetime | None, level: Any, as_json: bool) -> None:
    """Show the status changes and notes of RUN and its jobs."""
    from platform_db.lifecycle import whole_history

    def table(row: Row) -> Row:
        return {
            "at": row["at"],
            "entity": row["entity"],
            "id": row["entity_id"],
            "what": row.get("topic") or f"{row['from_status']} → {row['to_status']}{_mark(row)}",
            "why": row.get("message") or row.get("reason"),
            "who": row.get("actor"),
        }

    with session_scope() as session:
        entries = whole_history(session, find_run(session, run, user), since=since, level=level)
    show_rows((entry.as_dict() for entry in entries), as_json, table)


def _mark(change: Row) -> str:
    """Return what let a change of a status through, where it was not the states."""
    return " (override)" if change["overridden"] else " (extra)" if change.get("extra") else ""


@workflow.command(example="workflow logs analysis --user ada@example.org --follow")
@run_options
@click.option("--tail", type=int, metavar="LINES", help="Only the last lines.")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
def logs(run: str, user: str | None, tail: int | None, follow: bool) -> None:
    """Print the log of RUN, byte by byte as it was written."""
    from platform_db import logs as stored
    from platform_db.models import Workflow

    if follow and tail is not None:
        raise click.UsageError("choose one of --tail and --follow")
    with session_scope() as session:
        found = find_run(session, run, user)
        run_id = found.id_
        if tail is not None:
            click.echo(stored.read_log_tail(session, found, tail), nl=False)
            return
    for data in stored.stream_log(session_factory(), run_id, follow=follow, model=Workflow):
        click.echo(data, nl=False)


@workflow.command(example="workflow stop fit.1 fit.2 --user ada@example.org --reason 'wrong input'")
@runs_argument
@owner_option
@reason_option
@click.option("--force", is_flag=True, help="Set what is running to stopped, too, without asking its worker.")
@json_option
def stop(runs: tuple[str, ...], user: str | None, reason: str | None, force: bool, as_json: bool) -> None:
    """Stop runs: those that wait at once; the workers of those that are running are asked to.

    Each run is stopped, asked or refused by itself; where one is refused, or not found, the exit code is 9.
    workflow recover stops what has not stopped within its grace time.
    """
    from platform_db.workflows import cancel_workflows

    with session_scope() as session:
        found, rows = _find_runs(session, runs, user)
        results = cancel_workflows(session, found, reason=reason, force=force)
        rows += _rows_of(found, results)
    for row in rows:
        row["asked"] = row["status"] == "running"
    _show_results(rows, as_json, "stopped")


@workflow.command(example="workflow delete fit.1 fit.2 --user ada@example.org")
@runs_argument
@owner_option
@reason_option
@json_option
def delete(runs: tuple[str, ...], user: str | None, reason: str | None, as_json: bool) -> None:
    """Mark runs as deleted; db prune removes them later.

    Each run is deleted or refused by itself; where one is refused, or not found, the exit code is 9.
    """
    from platform_db.workflows import delete_workflows

    with session_scope() as session:
        found, rows = _find_runs(session, runs, user)
        rows += _rows_of(found, delete_workflows(session, found, reason=reason))
    _show_results(rows, as_json, "deleted")


@workflow.command(
    "set-status", example="workflow set-status fit.2 failed --user ada@example.org --reason lost"
)
@click.argument("run")
@click.argument("status")
@owner_option
@reason_option
@click.option("--override", is_flag=True, help="Also where the states do not allow it; needs --reason.")
def set_status(run: str, status: str, user: str | None, reason: str | None, override: bool) -> None:
    """Set the status of RUN, where its state allows that."""
    _set_status(run, user, status, reason, override)


@workflow.command(example="workflow overview --user ada@example.org")
@user_option("Whose runs", required=True)
@json_option
def overview(user: str, as_json: bool) -> None:
    """Show a user's runs at a glance."""
    from platform_db.models import ResourceUnit
    from platform_db.users import find_user
    from platform_db.workflows import overview

    with session_scope() as session:
        found = overview(session, find_user(session, user))
    shown = {
        "runs": found.total,
        **{status.value: runs for status, runs in found.by_status.items()},
        "run_time": ResourceUnit.human_readable_unit(ResourceUnit.milliseconds, found.duration),
        "latest": found.latest and f"{found.latest.name} ({found.latest.status})",
    }
    show_row(found.as_dict() if as_json else shown, as_json)


@workflow.command(example="workflow graph analysis --user ada@example.org --format dot")
@run_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "dot", "json"]),
    default="text",
    show_default=True,
    help="A table, the language of Graphviz, or one JSON object.",
)
def graph(run: str, user: str | None, form: str) -> None:
    """Show which jobs of RUN depend on which, and their statuses."""
    from platform_db.workflows import graph

    with session_scope() as session:
        found = graph(session, find_run(session, run, user))
    if form == "text":
        show_rows(found.as_rows(), as_json=False)
    else:
        show_row(found.as_dict(), form == "json", found.as_dot())


@workflow.command(example="workflow result analysis --user ada@example.org")
@run_options
@click.option("--name", default="result", show_default=True, help="The name of the result.")
@click.option("--job", metavar="JOB", help="Of this job of the run, by its name or its id.")
@json_option
def result(run: str, user: str | None, name: str, job: str | None, as_json: bool) -> None:
    """Print a result of RUN, byte by byte as it was set.

    With --json it is an object that describes the result; its "value" is that of a result in JSON, or text
    in base64.
    """
    from platform_db.workflows import get_result

    with session_scope() as session:
        found = find_run(session, run, user)
        stored = get_result(session, found if job is None else find_job(session, found, job), name)
    if as_json:
        show_row(stored.as_dict(), as_json)
    else:
        click.echo(stored.data, nl=False)


@workflow.command(example="workflow recover --older-than 10m --policy workflow=requeue", is_job=True)
@duration_option("--older-than", "Take a worker for dead whose last heartbeat is this old; by default 5m")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="KIND=POLICY",
    help="fail, requeue or nothing, of a workflow, job, interactive_session or service, or of workflow:TYPE.",
)
@duration_option("--grace", "How long a run may take to stop after it was asked; as --older-than by default")
@click.option("--node", help="Recover all that this node held, of any age.")
@json_option
def recover(
    older_than: timedelta | None,
    policies: tuple[str, ...],
    grace: timedelta | None,
    node: str | None,
    as_json: bool,
) -> None:
    """Fail, restart or requeue what has no living worker, and stop what does not stop when asked.

    Only rows under a lease of a worker are recovered, and no row that is locked at this moment. Each fails
    by default; with --node, services and daemons are restarted. Calls, such as redun's jobs, whose execution
    has stopped beating end as lost.
    """
    from platform_db import leases

    given = (policy.partition("=") for policy in policies)
    if node is not None and (older_than is not None or grace is not None):
        raise click.UsageError("--node recovers what is of any age: give no --older-than and no --grace")
    default = leases.DEFAULT_POLICIES if node is None else leases.NODE_POLICIES
    chosen = {**default, **{kind: policy for kind, _, policy in given}}
    sessions = session_factory()
    if node is None:
        age = timedelta(minutes=5) if older_than is None else older_than
        counts = leases.recover_all(sessions, age, chosen, grace=grace)
    else:
        with sessions() as session, session.begin():
            counts = leases.recover_owned_by(session, node, chosen)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do"
    show_row(counts, as_json, text)


def _find_runs(
    session: Session, runs: tuple[str, ...], user: str | None
) -> tuple[list[Workflow], list[dict[str, Any]]]:
    """Return the runs that are there, and a row for each that is not."""
    from platform_db import errors

    found: list[Workflow] = []
    missing: list[dict[str, Any]] = []
    owner_id = find_owner(session, user)
    for run in runs:
        try:
            found.append(find_run_of(session, run, owner_id))
        except (errors.NotFound, errors.InvalidIdentifier) as error:
            why = f"{error}; {error.hint}" if error.hint else str(error)
            missing.append({"id": None, "name": run, "status": None, "refused": why})
    return found, missing


def _rows_of(runs: list[Workflow], results: list[TransitionResult]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(result.id_),
            "name": run.get_full_workflow_name(),
            "status": result.status,
            "refused": result.refusal and str(result.refusal),
        }
        for run, result in zip(runs, results, strict=True)
    ]


def _show_results(rows: list[dict[str, Any]], as_json: bool, done: str) -> None:
    from platform_db import errors

    show_rows(rows, as_json)
    refused = sum(row["refused"] is not None for row in rows)
    if refused:
        raise errors.PartialFailure(
            f"{refused} of {len(rows)} runs could not be {done}", hint="REFUSED says why of each"
        )


def _set_status(run: str, user: str | None, status: str, reason: str | None, override: bool = False) -> None:
    from platform_db.lifecycle import override_guard
    from platform_db.workflows import update_workflow_status

    with session_scope() as session:
        found = find_run(session, run, user)
        with override_guard(session, reason=reason or "") if override else nullcontext():
            stored = update_workflow_status(session, found, WORKFLOW.status(status), message=reason)
        text = f"{found.get_full_workflow_name()} is {stored.value}"
    click.echo(text)


def _summary(run: Workflow) -> dict[str, Any]:
    ended = run.run_finished_at or run.run_stopped_at
    return {
        "id": str(run.id_),
        "name": run.get_full_workflow_name(),
        "status": run.status.value,
        "created": run.created.isoformat(timespec="seconds"),
        "started": run.run_started_at.isoformat(timespec="seconds") if run.run_started_at else None,
        "ended": ended.isoformat(timespec="seconds") if ended else None,
        "labels": run.labels,
        "owner": run.owner.email,
        "owner_id": str(run.owner_id),
    }


def _as_people_read(row: Row) -> Row:
    names = ("id", "name", "status", "created", "started", "ended", "owner")
    return {**{name: row[name] for name in names}, "labels": _labels_as_people_read(row["labels"])}


def _labels_as_people_read(labels: Row) -> str:
    return ",".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in labels.items()
    )
