"""``platform-db db``: whether the database can be used, where it is, and what it runs."""

from __future__ import annotations

import json
from typing import Any

import click

from platform_db.cli.commands.health import compact, get, prune, stats
from platform_db.cli.database import session_scope
from platform_db.cli.values import Seconds

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group
def db() -> None:
    """Look after the database: whether it can be used, what it holds, and what may go."""


for command in (compact, get, prune, stats):
    db.add_command(command)


@db.command
@click.option(
    "--deep",
    is_flag=True,
    help="Then read all rows, and tell which contradict each other, and which guards are gone.",
)
@as_json_option
def check(deep: bool, as_json: bool) -> None:
    """Tell whether the schema is current, and no secret key missing; the exit code says it, too.

    Keys are looked at where one is configured.
    """
    from platform_db import errors, schema
    from platform_db.health.secret_keys import require_secret_keys

    try:
        with schema.connect() as connection:
            found = schema.status(connection)
            found.require_current()
            require_secret_keys(connection)
        if not as_json:
            click.echo(f"current: the database is at revision {found.revision}")
            if deep:
                _check_deeply(as_json)
            return
    except errors.PlatformDBError as error:
        if as_json:
            click.echo(json.dumps({"state": error.code, "message": str(error), "hint": error.hint}))
            raise click.exceptions.Exit(error.exit_code) from None
        raise
    if deep:
        _check_deeply(as_json)
        return
    click.echo(json.dumps({"state": "current", "revision": found.revision, "head": found.head}))


def _check_deeply(as_json: bool) -> None:
    from platform_db.health.deep_check import check_deeply, require_healthy

    with session_scope() as session:
        findings = check_deeply(session)
    if as_json:
        found = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"state": "current", "findings": found}))
    elif not findings:
        click.echo("healthy: all rows agree with each other, and all guards are there")
    require_healthy(findings)


@db.command
@click.option(
    "--timeout",
    type=Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after so long.",
)
@click.option("--migrated", is_flag=True, help="Wait until the schema is current, too.")
def wait(timeout: float, migrated: bool) -> None:
    """Wait until the database can be reached.

    The exit code is that of the last thing that was in the way.
    """
    from platform_db import schema

    found = schema.wait_until_ready(timeout=timeout, migrated=migrated)
    click.echo(f"the database is reachable, its schema {found.state.value}")


@db.command
def create() -> None:
    """Create the configured database on its server, in UTF-8, where it is missing.

    It takes a login that may create databases: PLATFORM_DB_MIGRATION_URI's, where that is set.
    """
    from platform_db import database

    created = database.create_database()
    click.echo("created the database" if created else "nothing to do: the database exists")


@db.command
@click.option("--show-password", is_flag=True, help="Print passwords, too.")
def url(show_password: bool) -> None:
    """Print the URL of the configured database."""
    from platform_db import database

    found = database.database_url()
    click.echo(found.render_as_string(hide_password=False) if show_password else database.hide_secrets(found))


@db.command
@as_json_option
def version(as_json: bool) -> None:
    """Print the versions of the server, the schema and platform-db."""
    import platform_db
    from platform_db import schema

    with schema.connect() as connection:
        found = schema.status(connection)
        server = connection.exec_driver_sql("SHOW server_version").scalar_one()
    versions: dict[str, Any] = {
        "server": server,
        "revision": found.revision,
        "head": found.head,
        "state": found.state.value,
        "platform_db": platform_db.__version__,
    }
    if as_json:
        click.echo(json.dumps(versions))
        return
    for name, value in versions.items():
        click.echo(f"{name:<12} {'none' if value is None else value}")
