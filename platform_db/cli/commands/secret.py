"""``platform-db secret``: keys for what is stored encrypted."""

from __future__ import annotations

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory, session_scope
from platform_db.cli.options import json_option
from platform_db.cli.show import show_row, show_rows

secret = group("secret")


@secret.command(example="secret generate")
def generate() -> None:
    """Print a new secret key, for PLATFORM_DB_SECRET_KEY.

    It is stored nowhere else: what is encrypted with it is lost with it.
    """
    from platform_db import crypto

    click.echo(crypto.generate_key())


@secret.command(example="secret status")
@json_option
def status(as_json: bool) -> None:
    """Show how many secrets each key encrypts, and which keys may go.

    It fails where a key is missing that stored secrets need.
    """
    from platform_db import tokens

    with session_scope() as session:
        report = tokens.report_keys(session)
    show_rows(map(vars, report.keys), as_json)
    report.require_keys()


@secret.command(example="secret rotate")
@click.option("--batch", type=int, default=500, show_default=True, help="Rows in one transaction.")
@json_option
def rotate(batch: int, as_json: bool) -> None:
    """Encrypt every stored secret with the newest key, while services go on.

    First give every process both keys: old,new, so that all can read the new one, then new,old, so that they
    write with it. Then run this; it can be stopped and run again at any time. Then take the old key away.
    """
    from platform_db import tokens
    from platform_db.cli.progress import show_progress

    with show_progress("secrets", quiet=as_json) as progress:
        rotation = tokens.rotate(session_factory(), batch=batch, progress=progress)
    text = f"{rotation.rotated} secrets were moved to the key with id {rotation.key_id}"
    show_row(vars(rotation), as_json, text)
    for place, reason in () if as_json else rotation.failed.items():
        click.echo(f"{place}: {reason}", err=True)
    rotation.raise_for_problems()
