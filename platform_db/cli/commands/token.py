"""``platform-db token``: tokens of users. A value is read from stdin or a prompt, and shown once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from platform_db.cli.commands.user import json_option, user_argument
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.values import duration_seconds, read_value, refuse_value

if TYPE_CHECKING:
    from platform_db.models import UserToken

Command = TypeVar("Command", bound=Callable[..., Any])

TYPES = ("access", "personal", "session", "webhook")


def grant_options(command: Command) -> Command:
    """Add the options that say what a new token is."""
    for option in (
        json_option,
        click.option("--own-value", is_flag=True, help="Read the value from stdin, or ask for it."),
        click.option(
            "--expires-in", callback=duration_seconds, metavar="DURATION", help="Such as 90d; else for ever."
        ),
        click.option("--scope", "scopes", multiple=True, help="What it may be used for; may be repeated."),
        click.option("--name", callback=refuse_value, help="What the user calls it."),
    ):
        command = option(command)
    return command


@click.group
def token() -> None:
    """Issue, list, request, grant, revoke and purge tokens. A USER is an id or an e-mail address."""


@token.command
@user_argument
@click.option("--type", "type_", type=click.Choice(TYPES), default="access", show_default=True)
@grant_options
def issue(user: str, type_: str, **options: Any) -> None:
    """Make a token and print its value, which cannot be asked for again.

    An access token is for everything unless --scope says otherwise, any other for nothing.
    """
    _issue(user, type_, **options)


@token.command
@user_argument
@grant_options
def grant(user: str, **options: Any) -> None:
    """Grant the user an access token, the requested one if there is one, and print its value."""
    _issue(user, "access", **options)


def _issue(
    user: str,
    type_: str,
    name: str | None,
    scopes: tuple[str, ...],
    expires_in: float | None,
    own_value: bool,
    as_json: bool,
) -> None:
    from platform_db import tokens, users

    brought = read_value() if own_value else None
    with session_scope() as session:
        value = tokens.issue(
            session,
            users.find_user(session, user),
            type_=type_,
            name=name,
            scopes=scopes or None,
            expires_in=None if expires_in is None else timedelta(seconds=expires_in),
            value=brought,
        )
        issued = _facts(tokens.find_token(session, value))
    if as_json:
        click.echo(json.dumps(issued if own_value else {**issued, "value": value}))
    else:
        click.echo(issued["id"] if own_value else value)


@token.command
@user_argument
@json_option
def request(user: str, as_json: bool) -> None:
    """Ask for an access token in the user's name; somebody else grants it."""
    from platform_db import tokens, users

    with session_scope() as session:
        requested = _facts(tokens.request(session, users.find_user(session, user)))
    click.echo(json.dumps(requested) if as_json else requested["id"])


@token.command("list")
@user_argument
@json_option
def list_(user: str, as_json: bool) -> None:
    """List a user's tokens, the oldest first; never their values."""
    from platform_db import tokens, users

    with session_scope() as session:
        found = [_facts(token) for token in tokens.list_tokens(session, users.find_user(session, user))]
    if as_json:
        click.echo(json.dumps(found))
        return
    for facts in found:
        used = f"last used {facts['last_used_at']}" if facts["last_used_at"] else "never used"
        line = f"{facts['id']}  {facts['type']:<8}  {facts['status']:<9}  {used}  {facts['name'] or ''}"
        click.echo(line.rstrip())


@token.command
@click.argument("token_id", required=False, callback=refuse_value)
@click.option("--by-value", is_flag=True, help="Read the value from stdin, or ask for it.")
@click.option("--reason", callback=refuse_value, help="Why, for the history and the audit log.")
def revoke(token_id: str | None, by_value: bool, reason: str | None) -> None:
    """Revoke a token for good, by its id, or by its value where it was found somewhere."""
    from platform_db import tokens

    if (token_id is None) != by_value:
        raise click.UsageError("give either a token's id or --by-value")
    value = read_value() if by_value else None
    with session_scope() as session:
        found = token_id if value is None else tokens.find_token(session, value)
        changed = tokens.revoke(session, found or "", reason=reason)
    click.echo("revoked" if changed else "nothing to do: it was revoked before")


@token.command
@click.option(
    "--revoked-for",
    callback=duration_seconds,
    default="90d",
    show_default=True,
    metavar="DURATION",
    help="Delete those that have been revoked for so long.",
)
@json_option
def purge(revoked_for: float, as_json: bool) -> None:
    """Revoke expired tokens, and delete those that have long been revoked. The audit log keeps their ids."""
    from platform_db import tokens

    sessions = session_factory()
    counts = {
        "expired": tokens.revoke_expired(sessions),
        "purged": tokens.purge(sessions, revoked_for=timedelta(seconds=revoked_for)),
    }
    click.echo(json.dumps(counts) if as_json else f"{counts['expired']} expired, {counts['purged']} purged")


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
