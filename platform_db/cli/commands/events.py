"""``platform-db events``: watching what happens to runs, jobs, sessions and services."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import Time, duration_option, json_option
from platform_db.cli.secret_values import refuse_value
from platform_db.cli.show import escaped, show_rows

if TYPE_CHECKING:
    from platform_db.events import Event
    from platform_db.events.place import Since

events = group("events")

wait_option = duration_option("--wait", "End when nothing came for this time; by default it goes on")


class Place(click.ParamType):  # type: ignore[type-arg] # generic in newer releases only
    """Where to begin."""

    name = "beginning|latest|NUMBER|TIME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Since:
        if value in ("beginning", "latest"):
            return value
        if value.isdecimal():
            return int(value)
        if not value[:1].isdigit():
            self.fail(f"{value!r} is none of {self.name}", param, ctx)
        return Time().convert(value, param, ctx)


@events.command(example="events tail --since beginning --entity workflow --kind status")
@click.option("--since", type=Place(), default="latest", show_default=True, help="Where to begin.")
@click.option("--kind", "kinds", multiple=True, help="created, status, note or deleted; may be repeated.")
@click.option("--entity", "entities", multiple=True, help="workflow, job or another; may be repeated.")
@click.option(
    "--user",
    "users",
    metavar="USER",
    multiple=True,
    callback=lambda ctx, param, values: tuple(refuse_value(ctx, param, value) for value in values),
    help="Only of this user's rows, by id or e-mail address; may be repeated.",
)
@click.option("--name", help="Store the place under this name, and go on where it was stored.")
@wait_option
@click.option("--listen", is_flag=True, help="Be woken by events wake; takes a direct connection.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def tail(
    since: Since,
    kinds: tuple[str, ...],
    entities: tuple[str, ...],
    users: tuple[str, ...],
    name: str | None,
    wait: timedelta | None,
    listen: bool,
    as_json: bool,
) -> None:
    """Print events as they are committed, each at least once.

    A stored place counts more than --since. With --listen it connects by PLATFORM_DB_MIGRATION_URI, where
    that is set.
    """
    from platform_db.database import migration_url
    from platform_db.events import watch
    from platform_db.users import find_user

    factory = session_factory()
    with factory() as session:
        owners = [find_user(session, user).id_ for user in users]
    found = watch(
        factory,
        name=name,
        kinds=kinds or None,
        entities=entities or None,
        owners=owners or None,
        since=since,
        wait=None if wait is None else wait.total_seconds(),
        listen=migration_url() if listen else None,
    )
    for event in found:
        click.echo(json.dumps(event.as_dict()) if as_json else escaped(_line(event)))


@events.command(example="events watchers")
@json_option
def watchers(as_json: bool) -> None:
    """List the watchers that have a name, and how far they are.

    NUMBER is that of the last event that it passed, BEHIND how many numbers were given since, to events that
    it may want or not. FAILED are events that its handler failed on and that were skipped. It moved at
    MOVED_AT, and has all that was written a day before SEEN_AT. Pruning waits for those that HOLD.
    """
    from platform_db.events import watchers

    with session_scope() as session:
        found = watchers(session)
    rows = (
        {
            **watcher._asdict(),
            "seen_at": watcher.seen_at and watcher.seen_at.isoformat(timespec="seconds"),
            "moved_at": watcher.moved_at.isoformat(timespec="seconds"),
        }
        for watcher in found
    )
    show_rows(rows, as_json)


@events.command(example="events wake")
@wait_option
def wake(wait: timedelta | None) -> None:
    """Wake watchers that listen, as soon as something was committed.

    One such job serves all of them. Without it they hear within a second.
    """
    from platform_db.events import wake

    wake(session_factory(), wait=None if wait is None else wait.total_seconds())


@events.command(example="events forget mailer")
@click.argument("name")
def forget(name: str) -> None:
    """Delete the checkpoint of the watcher NAME, and what it stored of events that it skipped."""
    from platform_db.events import forget

    with session_scope() as session:
        forget(session, name)
    click.echo(escaped(f"forgot {name}"))


def _line(event: Event) -> str:
    at = event.at.isoformat(timespec="milliseconds")
    if event.kind == "note":
        what = f"{event.topic}: {event.message}"
    else:
        what = " -> ".join(status for status in (event.before, event.after) if status)
        what += f" ({event.reason})" if event.reason else ""
    return f"{event.number}  {at}  {event.kind:<7}  {event.entity} {event.entity_id}  {what}"
