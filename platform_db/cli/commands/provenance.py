"""``platform-db provenance``: calls of tasks, where results came from, and why a call ran again."""

from __future__ import annotations

from typing import Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_scope
from platform_db.cli.options import json_option, limit_option, user_argument
from platform_db.cli.show import Row, columns, escaped, show_row, show_rows

provenance = group("provenance", "A USER is an id or an e-mail address.")


@provenance.command(example="provenance log ada@example.org --limit 10")
@user_argument
@limit_option
@click.option("--cursor", help="Where the page before ended.")
@json_option
def log(user: str, as_json: bool, **page: Any) -> None:
    """List a user's executions, the last one first."""
    from platform_db import provenance, users

    with session_scope() as session:
        found = provenance.list_executions(session, users.find_user(session, user), **page)
        shown = columns("id", "task_name", "status", "started", "arguments")
        show_rows((_with_seconds(row._asdict()) for row in found.rows), as_json, shown)
    if found.cursor is not None:
        click.echo(f"there are more: --cursor {found.cursor}", err=True)


@provenance.command(example="provenance show ada@example.org 1f0d38c2")
@user_argument
@click.argument("id_", metavar="ID")
@json_option
def show(user: str, id_: str, as_json: bool) -> None:
    """Show an execution, a job, a call, a task or a value by its ID, or the beginning of it."""
    from platform_db import provenance, users

    with session_scope() as session:
        facts = provenance.describe(session, users.find_user(session, user), id_)
    show_row(facts, as_json)


@provenance.command(example="provenance explain ada@example.org 01932a7e-4b6c-7d21-9a53-2f8f6b1c0d4e")
@user_argument
@click.argument("job", metavar="JOB")
@json_option
def explain(user: str, job: str, as_json: bool) -> None:
    """Say why a JOB, by its id or the beginning of it, ran instead of taking its result from the cache."""
    from platform_db import provenance, users

    with session_scope() as session:
        owner = users.find_user(session, user)
        _, whole = provenance.find_entity(session, owner, job)
        miss = provenance.explain_miss(session, owner, whole)
    lines = [f"{miss.reason.name}: {miss.reason.value}"]
    if miss.call_hash is not None:
        lines.append(f"compared with call {miss.call_hash}")
    lines += (f"new code: {name}" for name in miss.tasks)
    lines += (
        f"argument {name}: {before or 'none'} then, {now or 'none'} now"
        for name, before, now in miss.arguments
    )
    facts = {**miss._asdict(), "reason": miss.reason.name}
    facts["arguments"] = [argument._asdict() for argument in miss.arguments]
    show_row(facts, as_json, "\n".join(map(escaped, lines)))


@provenance.command(example="provenance lineage ada@example.org 5d41402abc4b --down")
@user_argument
@click.argument("id_", metavar="HASH")
@click.option("--down", is_flag=True, help="Show what came of it instead of what it came from.")
@click.option("--depth", type=int, default=10, show_default=True, help="How many calls away to look.")
@click.option("--limit", type=int, default=1000, show_default=True, help="How many calls at most.")
@json_option
def lineage(user: str, id_: str, down: bool, depth: int, limit: int, as_json: bool) -> None:
    """Show the calls that a value or a call came from, by its HASH or the beginning of it."""
    from platform_db import provenance, users

    with session_scope() as session:
        owner = users.find_user(session, user)
        _, whole = provenance.find_entity(session, owner, id_)
        direction = provenance.Direction.down if down else provenance.Direction.up
        steps = provenance.lineage(session, owner, whole, direction=direction, depth=depth, limit=limit)
    rows = ({**step._asdict(), "arguments": [a._asdict() for a in step.arguments]} for step in steps)
    show_rows(rows, as_json, _as_tree)


def _as_tree(step: Row) -> Row:
    return {
        "call": f"{'  ' * step['depth']}{step['task_name']} {step['call_hash'][:8]}",
        "result": f"{step['value_hash'][:8]} ({step['value_type']})",
        "arguments": ", ".join(f"{a['name']}={a['value_hash'][:8]}" for a in step["arguments"]),
    }


def _with_seconds(facts: dict[str, Any]) -> dict[str, Any]:
    for name in ("started", "ended"):
        facts[name] = facts[name] and facts[name].isoformat(timespec="seconds")
    return facts
