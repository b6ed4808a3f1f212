"""``platform-db secret``: keys for what is stored encrypted."""

from __future__ import annotations

import json

import click

from platform_db.cli.commands.user import json_option
from platform_db.cli.database import session_factory, session_scope


@click.group
def secret() -> None:
    """Make secret keys, tell which are in use, and move what is stored to the newest."""


@secret.command
def generate() -> None:
    """Print a new secret key, to be set as PLATFORM_DB_SECRET_KEY.

    It is stored nowhere else: what was encrypted with it is lost with it.
    """
    from platform_db import crypto

    click.echo(crypto.generate_key())


@secret.command
@json_option
def status(as_json: bool) -> None:
    """Tell which keys encrypt how much, and which configured ones may go.

    It fails where a key is missing that stored secrets need.
    """
    from platform_db import tokens

    with session_scope() as session:
        report = tokens.report_keys(session)
    if as_json:
        click.echo(json.dumps([vars(key) for key in report.keys]))
    else:
        for key in report.keys:
            click.echo(f"{key.key_id}  {key.secrets:>9} secrets  {key.state}")
        if not report.keys:
            click.echo("no key is configured, and no secret is stored")
    report.require_keys()


@secret.command
@click.option("--batch", type=click.IntRange(1), default=500, show_default=True, help="Rows per transaction.")
@json_option
def rotate(batch: int, as_json: bool) -> None:
    """Encrypt and digest every stored secret with the newest key, while services go on.

    First give every process both keys, the new one first. Then run this; it can be stopped and run again at
    any time. Then take the old key away.
    """
    from platform_db import errors, tokens
    from platform_db.cli.progress import show_progress

    with show_progress("secrets", quiet=as_json) as progress:
        rotation = tokens.rotate(session_factory(), batch=batch, progress=progress)
    if as_json:
        click.echo(json.dumps(vars(rotation)))
    else:
        click.echo(f"{rotation.rotated} secrets were moved to the key with id {rotation.key_id}")
        for place, reason in rotation.failed.items():
            click.echo(f"{place}: {reason}", err=True)
    if rotation.failed:
        raise errors.PartialFailure(f"{len(rotation.failed)} secrets cannot be moved")
    if rotation.remaining:
        raise errors.PartialFailure(
            f"{rotation.remaining} secrets are not on the newest key: they were locked, or a process writes "
            "with an older key still; run this again"
        )
