"""``platform-db user``: creating, showing and deleting users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import json_option, user_argument
from platform_db.cli.show import columns, show_row, show_rows

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from platform_db.models import User

user = group("user", "A USER is an id or an e-mail address.")


@user.command(example="user create ada@example.org --full-name 'Ada Lovelace'")
@click.argument("email")
@click.option("--full-name", help="The person's name.")
@click.option("--username", help="The name that the person is known by.")
@click.option("--idp-issuer", help="The identity provider; goes with --idp-subject.")
@click.option("--idp-subject", help="The person's id there.")
@json_option
def create(email: str, as_json: bool, **values: Any) -> None:
    """Create the user with this EMAIL address."""
    from platform_db import users

    with session_scope() as session:
        created = _facts(users.create_user(session, email, **values))
    show_row(created, as_json, created["id"])


@user.command("list", example="user list")
@json_option
def list_(as_json: bool) -> None:
    """List all users, the oldest first."""
    from platform_db import users

    with session_scope() as session:
        show_rows(map(_facts, users.iterate_users(session)), as_json, columns("id", "email"))


@user.command(example="user show ada@example.org")
@user_argument
@json_option
def show(user: str, as_json: bool) -> None:
    """Show a user, with the access token's status, the amount of work and the usage."""
    from platform_db import users

    with session_scope() as session:
        found = users.find_user(session, user)
        facts = {**_facts(found), "access_token_status": found.access_token_status}
        work, quota = users.count_work(session, found), found.get_quota_usage()
    if as_json:
        show_row({**facts, "work": work, "quota": quota}, as_json)
    else:
        usage = {f"{name} usage": figures["usage"]["human_readable"] for name, figures in quota.items()}
        show_row({**facts, **work, **usage}, as_json)


@user.command(example="user delete ada@example.org --delete-work")
@user_argument
@click.option("--delete-work", is_flag=True, help="Delete the user's runs, sessions and services, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(user: str, delete_work: bool, yes: bool) -> None:
    """Delete a user, with tokens, limits, shares and history.

    The audit log keeps the id. While the user has runs, sessions or services, deletion is refused without
    --delete-work. No disk and no cluster is touched: stop what runs, and remove the workspaces, first.
    """
    from platform_db import users
    from platform_db.sessions import run_transaction

    with session_scope() as session:
        found = users.find_user(session, user)
        user_id, work = found.id_, users.count_work(session, found)
    if not yes:
        # Between two transactions: none stays open while the answer is awaited.
        counts = ", ".join(f"{count} {table}" for table, count in work.items())
        what = f"user {user_id} with {counts}" if work and delete_work else f"user {user_id}"
        click.confirm(f"Delete {what}?", abort=True, err=True)
    at_most = None if yes else work

    def forget(session: Session) -> None:
        users.delete_user(
            session, users.find_user(session, user_id), delete_work=delete_work, at_most=at_most
        )

    run_transaction(forget, factory=session_factory())


def _facts(found: User) -> dict[str, Any]:
    names = ("email", "full_name", "username", "idp_issuer", "idp_subject")
    return {"id": str(found.id_), **{name: getattr(found, name) for name in names}}
