"""``platform-db init``."""

from __future__ import annotations

import click


@click.command
def init() -> None:
    """Bring the database to the newest revision and create the default resources.

    Running it again, or from several processes at once, is fine.
    """
    from platform_db import schema

    done: list[str] = []

    def report(line: str) -> None:
        done.append(line)
        click.echo(line)

    schema.init_db(report=report)
    if not done:
        click.echo("nothing to do: the database is current and has its default resources")
