"""``platform-db secret``: keys for what is stored encrypted."""

from __future__ import annotations

import click


@click.group
def secret() -> None:
    """Make secret keys."""


@secret.command
def generate() -> None:
    """Print a new secret key, to be set as PLATFORM_DB_SECRET_KEY.

    It is stored nowhere else: what was encrypted with it is lost with it.
    """
    from platform_db import crypto

    click.echo(crypto.generate_key())
