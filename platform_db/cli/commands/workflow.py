"""``platform-db workflow``: looking at runs, and recovering those of dead workers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.show import as_json_option, show_row, show_rows
from platform_db.cli.values import Seconds

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.models import Workflow

# A page of a history costs as much as all of it, so few large ones are read.
PAGE = 10_000

user_option = click.option("--user", metavar="USER", help="Whose, by id or e-mail address.")


@click.group
def workflow() -> None:
    """Look at runs, and recover those of dead workers.

    A run is named by its id or the beginning of it, or, with --user, by its name: name, name.2 or name.2.1.
    """


@workflow.command("list")
@user_option
@click.option("--status", "statuses", multiple=True, help="Only runs with this status; more than once, any.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@as_json_option
def list_(user: str | None, statuses: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List runs, newest first: those of USER, or everybody's."""
    import sqlalchemy as sa

    from platform_db.models import RunStatus, Workflow
    from platform_db.quota.resources import find_user

    try:
        wanted = [RunStatus(status) for status in statuses]
    except ValueError:
        raise click.BadParameter(f"choose from {', '.join(RunStatus)}", param_hint="--status") from None
    with session_scope() as session:
        query = sa.select(Workflow).order_by(Workflow.id_.desc()).limit(limit)
        if user is not None:
            query = query.where(Workflow.owner_id == find_user(session, user).id_)
        if wanted:
            query = query.where(Workflow.status.in_(wanted))
        show_rows([_summary(run) for run in session.scalars(query)], as_json)


@workflow.command
@click.argument("run")
@user_option
@as_json_option
def show(run: str, user: str | None, as_json: bool) -> None:
    """Show RUN."""
    from platform_db.query.lookup import describe

    with session_scope() as session:
        found = _find(session, run, user)
        row = describe(found)
        del row["specification"]
        show_row({**row, "run_number": found.run_number}, as_json)


@workflow.command
@click.argument("run")
@user_option
@click.option("--since", type=click.DateTime(), help="Leave out what was before (UTC).")
@click.option("--level", type=click.Choice(["workflow", "job"]), help="Only the run's own, or its jobs'.")
@as_json_option
def history(run: str, user: str | None, since: datetime | None, level: Any, as_json: bool) -> None:
    """Show what became of RUN and its jobs."""
    from datetime import timezone

    from platform_db.lifecycle.history import history as read_history

    entries: list[Any] = []
    cursor, full = None, True
    with session_scope() as session:
        found = _find(session, run, user)
        after = since.replace(tzinfo=timezone.utc) if since else None
        while full:
            page = read_history(session, found, since=after, level=level, limit=PAGE, cursor=cursor)
            entries += page.rows
            cursor, full = page.cursor, len(page.rows) >= PAGE and page.cursor is not None
    if as_json:
        show_rows([entry.as_dict() for entry in entries], as_json)
        return
    show_rows(
        [
            {
                "at": f"{entry.at:%Y-%m-%d %H:%M:%S}",
                "entity": entry.entity,
                "id": str(entry.entity_id),
                "what": entry.topic or f"{entry.from_status} → {entry.to_status}",
                "why": entry.message or entry.reason,
                "who": entry.actor,
            }
            for entry in entries
        ],
        as_json,
    )


@workflow.command
@click.argument("run")
@user_option
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
def logs(run: str, user: str | None, tail: int | None, follow: bool) -> None:
    """Print the log of RUN, byte by byte as it was written."""
    from platform_db import logs as stored

    if follow and tail is not None:
        raise click.UsageError("choose one of --tail and --follow")
    with session_scope() as session:
        found = _find(session, run, user)
        run_id = found.id_
        if tail is not None:
            click.echo(stored.read_log_tail(session, found, tail), nl=False)
            return
    for data in stored.stream_log(session_factory(), run_id, follow=follow):
        click.echo(data, nl=False)


@workflow.command
@click.option(
    "--older-than",
    type=Seconds(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Take a worker for dead whose last heartbeat is so old.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="KIND=POLICY",
    help="fail, requeue or nothing, of a workflow, job, interactive_session or service; fail by default.",
)
@click.option("--node", help="Recover all that this node held, whatever the age.")
@as_json_option
def recover(older_than: float, policies: tuple[str, ...], node: str | None, as_json: bool) -> None:
    """Recover what is running without a living worker: it fails, or is restarted.

    Only what a worker held a lease of; what is worked on at this moment is left alone.
    """
    from collections import Counter

    from platform_db import leases

    chosen: dict[str, str] = dict(leases.DEFAULT_POLICIES)
    for policy in policies:
        kind, separator, name = policy.partition("=")
        if not separator:
            raise click.BadParameter(f"{policy!r} is not KIND=POLICY", param_hint="--policy")
        chosen[kind] = name
    counts: Counter[str] = Counter()
    sessions, again = session_factory(), True
    while again:
        with sessions() as session, session.begin():
            if node is not None:
                counts.update(leases.recover_owned_by(session, node, chosen))
                again = False
            else:
                recovery = leases.recover(session, timedelta(seconds=older_than), chosen)
                counts.update(recovery.by_status)
                again = bool(recovery.ids)
    if as_json:
        show_row(dict(counts), as_json)
        return
    click.echo(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do")


def _find(session: Session, run: str, user: str | None) -> Workflow:
    from platform_db import errors
    from platform_db.models import Workflow
    from platform_db.query.lookup import find_by_prefix
    from platform_db.quota.resources import find_user
    from platform_db.workflows.find import get_workflow

    if user is None:
        return find_by_prefix(session, Workflow, run)
    owner = find_user(session, user).id_
    try:
        return get_workflow(session, run, owner)
    except errors.WorkflowNotFound:
        try:
            return find_by_prefix(session, Workflow, run, Workflow.owner_id == owner)
        except errors.AmbiguousIdentifier:
            raise
        except (errors.InvalidIdentifier, errors.WorkflowNotFound):
            raise errors.WorkflowNotFound(f"there is no workflow {run!r} of {user}") from None


def _summary(run: Workflow) -> dict[str, Any]:
    return {
        "id": str(run.id_),
        "name": run.get_full_workflow_name(),
        "status": run.status.value,
        "created": run.created.isoformat(timespec="seconds"),
        "started": run.run_started_at.isoformat(timespec="seconds") if run.run_started_at else None,
        "owner": str(run.owner_id),
    }
