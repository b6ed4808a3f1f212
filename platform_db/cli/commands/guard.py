"""``platform-db guard``: the extra transitions of a platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_scope
from platform_db.cli.options import json_option, options
from platform_db.cli.secret_values import refuse_value
from platform_db.cli.show import show_rows

if TYPE_CHECKING:
    from platform_db.models import ExtraTransition

guard = group("guard", "ENTITY is a table whose rows have a status, such as workflow or job.")

transition_arguments = options(
    click.argument("entity"),
    click.argument("from_status", metavar="FROM"),
    click.argument("to_status", metavar="TO"),
)


@guard.command(example="guard allow workflow failed pending --reason 'submissions are delivered again'")
@transition_arguments
@click.option("--reason", required=True, callback=refuse_value, help="Why the platform needs it.")
def allow(entity: str, from_status: str, to_status: str, reason: str) -> None:
    """Let the status TO follow FROM, which the states do not.

    It holds at once, for every writer; the history marks what comes through it. It takes the login of the
    tables' owner: PLATFORM_DB_MIGRATION_URI's, where that is set.
    """
    from platform_db.database import migration_url
    from platform_db.lifecycle.extra_transitions import allow_transition

    with session_scope(migration_url()) as session:
        changed = allow_transition(session, entity, from_status, to_status, reason=reason)
    click.echo("allowed" if changed else "nothing to do: it was allowed before, for this reason")


@guard.command(example="guard forbid workflow failed pending")
@transition_arguments
def forbid(entity: str, from_status: str, to_status: str) -> None:
    """Take back that the status TO may follow FROM.

    It takes the login of the tables' owner, as guard allow does. What came through it stays as it is.
    """
    from platform_db.database import migration_url
    from platform_db.lifecycle.extra_transitions import forbid_transition

    with session_scope(migration_url()) as session:
        changed = forbid_transition(session, entity, from_status, to_status)
    click.echo("forbidden" if changed else "nothing to do: it was not allowed")


@guard.command("list", example="guard list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the transitions that are allowed beyond the states."""
    from platform_db.lifecycle.extra_transitions import list_extra_transitions

    with session_scope() as session:
        show_rows(map(_facts, list_extra_transitions(session)), as_json)


def _facts(row: ExtraTransition) -> dict[str, Any]:
    return {"entity": row.entity, "from": row.from_status, "to": row.to_status, "reason": row.reason}
