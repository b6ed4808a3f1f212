"""``platform-db user``: creating, finding and forgetting users."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.database import session_scope
from platform_db.cli.values import refuse_value

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.models import User

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
user_argument = click.argument("user", metavar="USER", callback=refuse_value)


@click.group
def user() -> None:
    """Create, list, show and delete users. A USER is an id or an e-mail address."""


@user.command
@click.argument("email")
@click.option("--full-name", help="The person's name.")
@click.option("--username", help="The name that the person is known by.")
@click.option("--idp-issuer", help="The identity provider; goes with --idp-subject.")
@click.option("--idp-subject", help="Who the person is there.")
@json_option
def create(email: str, as_json: bool, **values: Any) -> None:
    """Create the user with this EMAIL address."""
    from platform_db import users

    if (values["idp_issuer"] is None) != (values["idp_subject"] is None):
        raise click.UsageError("--idp-issuer and --idp-subject go together")
    with session_scope() as session:
        created = _facts(users.create_user(session, email, **values))
    click.echo(json.dumps(created) if as_json else created["id"])


@user.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all users, the oldest first."""
    from platform_db import users

    cursor, more = None, True
    with session_scope() as session:
        while more:
            page = users.list_users(session, limit=1000, cursor=cursor)
            for found in page.rows:
                facts = _facts(found)
                click.echo(json.dumps(facts) if as_json else f"{facts['id']}  {facts['email']}")
            cursor, more = page.cursor, page.cursor is not None
            session.expunge_all()


@user.command
@user_argument
@json_option
def show(user: str, as_json: bool) -> None:
    """Show a user: who it is, the access token's status, and how much work there is."""
    from platform_db import users

    with session_scope() as session:
        found = users.find_user(session, user)
        facts = {
            **_facts(found),
            "access_token_status": found.access_token_status,
            "work": users.count_work(session, found),
            "quota": found.get_quota_usage(),
        }
    if as_json:
        click.echo(json.dumps(facts))
        return
    quota = facts.pop("quota")
    work = facts.pop("work")
    for name, value in {**facts, **work, **_figures(quota)}.items():
        click.echo(f"{name:<20} {'none' if value is None else value}")


@user.command
@user_argument
@click.option("--delete-work", is_flag=True, help="Delete the user's runs, sessions and services, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(user: str, delete_work: bool, yes: bool) -> None:
    """Forget a user, with tokens, limits, shares and history. The audit log keeps the id.

    While the user has runs, sessions or services this is refused, unless --delete-work says that they go,
    too. Nothing on any disk or cluster is touched: stop what runs, and remove the workspaces, first.
    """
    from platform_db import users

    with session_scope() as session:
        found = users.find_user(session, user)
        user_id, work = found.id_, users.count_work(session, found)
    if not yes:
        # Between two transactions: nobody waits for an answer.
        counts = ", ".join(f"{count} {table}" for table, count in work.items())
        click.confirm(
            f"Delete user {user_id}{f' with {counts}' if work and delete_work else ''}?", abort=True, err=True
        )
    with session_scope() as session:
        found = users.find_user(session, user_id)
        if not yes:
            _refuse_more(session, found, work)
        users.delete_user(session, found, delete_work=delete_work)


def _refuse_more(session: Session, user: User, confirmed: dict[str, int]) -> None:
    """Raise an error where the user has more work by now than was confirmed."""
    from platform_db import errors, users

    session.refresh(user, with_for_update=True)  # Whoever starts a run now waits, and finds no owner.
    work = users.count_work(session, user)
    if any(count > confirmed.get(table, 0) for table, count in work.items()):
        raise errors.UserHasWork(user.id_, work)


def _facts(found: User) -> dict[str, Any]:
    return {
        "id": str(found.id_),
        "email": found.email,
        "full_name": found.full_name,
        "username": found.username,
        "idp_issuer": found.idp_issuer,
        "idp_subject": found.idp_subject,
    }


def _figures(quota: dict[str, Any]) -> dict[str, str]:
    return {f"{name} usage": figures["usage"]["human_readable"] for name, figures in quota.items()}
