"""``reana-db``: the commands of REANA's chart and its operators."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from platform_db import errors
from platform_db.cli.commands.alembic import alembic
from platform_db.cli.errors import as_failure
from reana_db import utils
from reana_db.database import init_db
from reana_db.models import Resource

LOG_FORMAT = "%(asctime)s | %(name)s | %(threadName)s | %(levelname)s | %(message)s"


class Group(click.Group):
    """A group that ends on an error in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.ClickException:
            raise
        except Exception as error:
            raise as_failure(error) or error from None


@click.group(cls=Group)
def cli() -> None:
    """Operate REANA's database. platform-db has the same commands and many more."""
    logging.basicConfig(
        level=os.environ.get("REANA_LOG_LEVEL", "INFO"), format=os.environ.get("REANA_LOG_FORMAT", LOG_FORMAT)
    )


cli.add_command(alembic)


@cli.command()
def init() -> None:
    """Create the database, if it is missing, and bring it to the newest revision."""
    init_db()
    click.secho("The database is at the newest revision.", fg="green")


@cli.command()
@click.option("--old-key", required=True, help="The REANA_SECRET_KEY of before.")
def migrate_secret_key(old_key: str) -> None:
    """Encrypt all secrets with today's REANA_SECRET_KEY that are encrypted with another one.

    It can be stopped and run again. Until it ends, services cannot use what it has not reached.
    """
    utils.change_key_encrypted_columns(old_key)
    click.echo("All secrets are encrypted with today's key.")


@cli.group()
def quota() -> None:
    """Create the default resources, and count what users take."""


@quota.command()
def create_default_resources() -> None:
    """Create the default resources; it fails where all exist."""
    created: list[Any] = Resource.initialise_default_resources()  # type: ignore[call-arg]
    if not created:
        click.secho("Nothing to do: the default resources exist.", fg="yellow")
        sys.exit(1)
    click.secho(f"Created {', '.join(resource.name for resource in created)}.", fg="green")


@quota.command()
def resource_usage_update() -> None:
    """Count the disk space and the processing time of all runs and users, as the policies say."""
    steps: dict[str, tuple[Callable[[], None], ...]] = {
        "disk": (utils.update_workflows_disk_quota, utils.update_users_disk_quota),
        "cpu": (utils.update_workflows_cpu_quota, utils.update_users_cpu_quota),
    }
    failure: errors.PlatformDBError | None = None
    for resource, functions in steps.items():
        try:
            for function in functions:
                function()
        except errors.PlatformDBError as error:
            failure = error  # What could be counted is stored, and so is what follows.
        else:
            click.secho(f"The {resource} usage of all runs and users is up to date.", fg="green")
    if failure:
        raise failure
