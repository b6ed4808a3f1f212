"""``platform-db task``: the task records of clusters."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.listing import parse_filter
from platform_db.cli.options import duration_option, json_option, limit_option, user_argument, user_option
from platform_db.cli.show import columns, show_row, show_rows

task = group("task", "A USER is an id or an e-mail address.")


@task.command("list", example="task list ada@example.org --cluster default --incomplete")
@user_argument
@click.option("--cluster", help="Only this history.")
@click.option("--incomplete", is_flag=True, help="Only tasks that have not completed.")
@click.option("--filter", "filter_", metavar="JSON", help='Such as {"label": {"$glob": "fit-*"}}.')
@limit_option
@click.option("--cursor", help="Where the page before ended.")
@json_option
def list_(
    user: str, cluster: str | None, incomplete: bool, filter_: str | None, as_json: bool, **page: Any
) -> None:
    """List a user's tasks, the last submitted first."""
    from platform_db import tasks, users

    asked = [{"completed": None}] if incomplete else []
    if filter_ is not None:
        asked.append(parse_filter(filter_))
    with session_scope() as session:
        owner = users.find_user(session, user)
        found = tasks.list_tasks(
            session, owner, cluster=cluster, filter_={"$and": asked} if asked else None, **page
        )
        shown = columns("msg_id", "cluster", "label", "submitted", "completed", "size")
        show_rows((_facts(row) for row in found.rows), as_json, shown)
    if found.cursor is not None:
        click.echo(f"there are more: --cursor {found.cursor}", err=True)


@task.command(example="task show ada@example.org 8c0d3f27-1b9c5e4f2a")
@user_argument
@click.argument("msg_id", metavar="TASK")
@json_option
def show(user: str, msg_id: str, as_json: bool) -> None:
    """Show a user's TASK; buffers are shown by their sizes, in JSON as base64."""
    from platform_db import tasks, users

    with session_scope() as session:
        record = tasks.get_task(session, users.find_user(session, user), msg_id)
    for name in ("buffers", "result_buffers"):
        if record[name] is not None:
            record[name] = [
                base64.b64encode(buffer).decode() if as_json else f"{len(buffer)} bytes"
                for buffer in record[name]
            ]
    show_row(record, as_json)


@task.command(example="task prune --older-than 90d --keep-bytes 10GiB --dry-run", is_job=True)
@duration_option("--older-than", "Delete what was submitted so long ago", in_days=True)
@click.option(
    "--keep-bytes", metavar="BYTES", help="Of each user's tasks, keep the newest so many, as 10GiB."
)
@user_option("Only this user's tasks")
@click.option(
    "--batch-size", "batch", type=int, default=1000, show_default=True, help="Rows in one transaction."
)
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@json_option
def prune(
    older_than: timedelta | None, keep_bytes: str | None, user: str | None, as_json: bool, **how: Any
) -> None:
    """Delete completed tasks by age and by size.

    It can be stopped at any time, and run again. Tasks that have not completed stay.
    """
    from platform_db import tasks, users
    from platform_db.units import parse_bytes

    sessions = session_factory()
    keep = None if keep_bytes is None else parse_bytes(keep_bytes)
    owner = None
    if user is not None:
        with sessions() as session:
            owner = users.find_user(session, user).id_
    rows = tasks.prune_tasks(sessions, older_than=older_than, keep_bytes=keep, owner=owner, **how)
    show_row({"rows": rows}, as_json, f"{rows} tasks {'would go' if how['dry_run'] else 'went'}")


def _facts(row: Any) -> dict[str, Any]:
    facts: dict[str, Any] = row._asdict()
    for name in ("submitted", "started", "completed"):
        facts[name] = facts[name] and facts[name].isoformat(timespec="seconds")
    return facts
