"""``platform-db queue``: who waits, why a run waits, and how much of the queue an owner may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_scope
from platform_db.cli.options import json_option, limit_option, user_argument, user_option
from platform_db.cli.runs import find_owner, find_run, run_options
from platform_db.cli.show import Row, escaped, show_row, show_rows

if TYPE_CHECKING:
    from platform_db.queue import Limits

DEFAULT = "default"
UNLIMITED = "unlimited"

queue = group("queue")


class Count(click.ParamType):  # type: ignore[type-arg] # generic in newer releases only
    """A number of runs, ``unlimited`` or ``default``."""

    name = "N|unlimited|default"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == UNLIMITED:
            from platform_db import queue

            return queue.UNLIMITED
        if value == DEFAULT or not isinstance(value, str):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {UNLIMITED} or {DEFAULT}", param, ctx)


@queue.command(example="queue status --limit 20")
@user_option("Only this user's")
@limit_option
@json_option
def status(user: str | None, limit: int, as_json: bool) -> None:
    """Show by owner what is queued, pending and running, the one whose turn is next first."""
    from platform_db.queue import queue_status

    with session_scope() as session:
        owners = queue_status(session, find_owner(session, user), limit=limit)
        show_rows((owner.as_dict() for owner in owners), as_json, _as_people_read)


@queue.command(example="queue explain analysis.2 --user ada@example.org")
@run_options
@json_option
def explain(run: str, user: str | None, as_json: bool) -> None:
    """Say why RUN is not taken from the queue."""
    from platform_db.queue import explain

    with session_scope() as session:
        found = explain(session, find_run(session, run, user))
    labels = ",".join(f"{name}={value}" for name, value in sorted(found.labels.items()))
    worker = f"a worker that takes runs of type {found.type_}{' and labels ' + labels if labels else ''}"
    lines = [obstacle.text for obstacle in found.obstacles] or [
        f"it is the next run of its owner, for {worker}"
    ]
    show_row(found.as_dict(), as_json, "\n".join(map(escaped, lines)))


@queue.command(example="queue limit ada@example.org --concurrent 20 --starts-per-minute default")
@user_argument
@click.option("--concurrent", type=Count(), help="How many pending and running runs USER may have.")
@click.option("--starts-per-minute", type=Count(), help="How many runs of USER are handed out a minute.")
def limit(user: str, concurrent: Any, starts_per_minute: Any) -> None:
    """Set, or show without an option, how much of the queue USER may take; a limit that is not given stays.

    USER is an id or an e-mail address. default means what PLATFORM_DB_QUEUE_CONCURRENT_RUNS and
    PLATFORM_DB_QUEUE_STARTS_PER_MINUTE say, unlimited is no limit whatever they say, 0 is none.
    """
    from platform_db.models import OwnerLimit
    from platform_db.queue import Limits, set_limits
    from platform_db.users import find_user

    given = {"concurrent_runs": concurrent, "starts_per_minute": starts_per_minute}
    limits = {name: None if n == DEFAULT else n for name, n in given.items() if n is not None}
    with session_scope() as session:
        about = find_user(session, user)
        if not limits:
            own = session.get_one(OwnerLimit, about.id_)
            now = Limits(own.concurrent_runs, own.starts_per_minute)
            click.echo(escaped(f"queue of {about.email}: {_describe(now)}"))
            return
        before = set_limits(session, about, **limits)
        change = f"{_describe(before)} → {_describe(before._replace(**limits))}"
        click.echo(escaped(f"queue of {about.email}: {change}"))


def _describe(limits: Limits) -> str:
    concurrent, starts = (DEFAULT if limit is None else _shown(limit) for limit in limits)
    return f"concurrent runs: {concurrent}, starts per minute: {starts}"


def _shown(limit: int) -> int | str:
    from platform_db import queue

    return UNLIMITED if limit == queue.UNLIMITED else limit


def _as_people_read(row: Row) -> Row:
    counts = {name: row[name] for name in ("queued", "pending", "running")}
    limits = {
        name: UNLIMITED if row[name] is None else _shown(row[name])
        for name in ("concurrent_runs", "starts_per_minute")
    }
    times = {name: row[name] and row[name][:19] for name in ("oldest_queued", "served_at")}
    return {"owner": row["email"], **counts, **limits, **times}
