"""``platform-db token``: tokens of users. A value is read from stdin or a prompt, and shown once."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import duration_option, json_option, options, user_argument
from platform_db.cli.secret_values import read_value, refuse_value
from platform_db.cli.show import columns, show_row, show_rows

if TYPE_CHECKING:
    from platform_db.models import UserToken

TYPES = ("access", "personal", "session", "webhook")

grant_options = options(
    user_argument,
    click.option("--name", callback=refuse_value, help="What the user calls it."),
    click.option("--scope", "scopes", multiple=True, help="What it may be used for; may be repeated."),
    duration_option("--expires-in", "Such as 90d; without it, the token does not expire"),
    click.option("--own-value", is_flag=True, help="Read the value from stdin, or ask for it."),
    json_option,
)

token = group("token", "A USER is an id or an e-mail address.")


@token.command(example="token issue ada@example.org --type personal --name ci --expires-in 90d")
@click.option("--type", "type_", type=click.Choice(TYPES), default="access", show_default=True)
@grant_options
def issue(user: str, type_: str, **options: Any) -> None:
    """Issue a token and print its value, once.

    No command shows the value again. Without --scope an access token is for everything, others for nothing.
    """
    _issue(user, type_, **options)


@token.command(example="token grant ada@example.org")
@grant_options
def grant(user: str, **options: Any) -> None:
    """Grant the user an access token and print its value, once.

    It is the requested one if there is one.
    """
    _issue(user, "access", **options)


def _issue(
    user: str, type_: str, scopes: tuple[str, ...], own_value: bool, as_json: bool, **options: Any
) -> None:
    from platform_db import tokens, users

    brought = read_value() if own_value else None
    with session_scope() as session:
        owner = users.find_user(session, user)
        value = tokens.issue(session, owner, type_=type_, scopes=scopes or None, value=brought, **options)
        issued = _facts(tokens.find_token(session, value))
    shown = issued if own_value else {**issued, "value": value}
    show_row(shown, as_json, shown.get("value", issued["id"]))


@token.command(example="token request ada@example.org")
@user_argument
@json_option
def request(user: str, as_json: bool) -> None:
    """Request an access token for a user; token grant grants it."""
    from platform_db import tokens, users

    with session_scope() as session:
        requested = _facts(tokens.request(session, users.find_user(session, user)))
    show_row(requested, as_json, requested["id"])


@token.command("list", example="token list ada@example.org")
@user_argument
@json_option
def list_(user: str, as_json: bool) -> None:
    """List a user's tokens, the oldest first, without their values."""
    from platform_db import tokens, users
    from platform_db.bounds import LARGEST_LIMIT
    from platform_db.cursors import read_all

    with session_scope() as session:
        ask = partial(tokens.list_tokens, session, users.find_user(session, user), limit=LARGEST_LIMIT)
        found = read_all(lambda cursor: ask(cursor=cursor))
        show_rows(map(_facts, found), as_json, columns("id", "type", "status", "last_used_at", "name"))


@token.command(example="token revoke 0198c2f1-5d4e-7b60-8a3c-3f6f0e1d2c4b --reason 'the laptop was lost'")
@click.argument("token_id", required=False, callback=refuse_value)
@click.option("--by-value", is_flag=True, help="Read the value from stdin, or ask for it.")
@click.option("--reason", callback=refuse_value, help="Why, for the history and the audit log.")
def revoke(token_id: str | None, by_value: bool, reason: str | None) -> None:
    """Revoke a token for good, by its id or by its value."""
    from platform_db import tokens

    if (token_id is None) != by_value:
        raise click.UsageError("give either a token's id or --by-value")
    value = read_value() if by_value else None
    with session_scope() as session:
        found = token_id if value is None else tokens.find_token(session, value)
        changed = tokens.revoke(session, found or "", reason=reason)
    click.echo("revoked" if changed else "nothing to do: it was revoked before")


@token.command(example="token purge --revoked-for 30d", is_job=True)
@duration_option("--revoked-for", "Delete those that were revoked so long ago", in_days=True, default="90d")
@json_option
def purge(revoked_for: timedelta, as_json: bool) -> None:
    """Revoke expired tokens, and delete those revoked long ago.

    The audit log keeps their ids.
    """
    from platform_db import tokens

    sessions = session_factory()
    expired = tokens.revoke_expired(sessions)
    purged = tokens.purge(sessions, revoked_for=revoked_for)
    show_row({"expired": expired, "purged": purged}, as_json, f"{expired} expired, {purged} purged")


def _facts(token: UserToken) -> dict[str, Any]:
    return {
        "id": str(token.id_),
        "user_id": str(token.user_id),
        "type": token.type_.value,
        "status": token.status.value,
        "name": token.name,
        "scopes": token.scopes,
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
        "last_used_at": token.last_used_at.isoformat() if token.last_used_at else None,
    }
