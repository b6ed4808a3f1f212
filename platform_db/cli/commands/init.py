"""``platform-db init``."""

from __future__ import annotations

import click

from platform_db.cli.command import Command


@click.command(cls=Command, example="init")
@click.option("--phase", type=click.Choice(["pre", "post"]), help="Run only the revisions of this phase.")
def init(phase: str | None) -> None:
    """Bring the database to the newest revision and create the default resources.

    It can run again, and in several processes at once.
    """
    from platform_db import schema

    done: list[str] = []

    def report(line: str) -> None:
        done.append(line)
        click.echo(line)

    schema.init_db(report=report, phase=phase)
    if not done:
        click.echo("nothing to do: the database is current and has its default resources")
