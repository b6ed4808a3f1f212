"""The command line, ``platform-db``.

A command's module is imported when the command is asked for, so that ``--help`` is quick. No rule lives
here: each command calls what a library user would call.
"""

from __future__ import annotations

import logging

import click

from platform_db.cli.errors import Program

COMMANDS = {
    "alembic": ("platform_db.cli.commands.alembic:alembic", "Run, take back and inspect migrations."),
    "audit": ("platform_db.cli.commands.audit:audit", "Read, seal, verify and prune the audit log."),
    "db": ("platform_db.cli.commands.db:db", "Look after the database."),
    "demo": ("platform_db.cli.commands.demo:demo", "Show a platform at work, on a database of its own."),
    "job": ("platform_db.cli.commands.job:job", "Look at jobs."),
    "init": (
        "platform_db.cli.commands.init:init",
        "Bring the database to the newest revision, with its defaults.",
    ),
    "quota": (
        "platform_db.cli.commands.quota:quota",
        "Count what users take of the disk and of processing time.",
    ),
    "retention": ("platform_db.cli.commands.retention:retention", "Apply the retention rules of workspaces."),
    "roles": (
        "platform_db.cli.commands.roles:roles",
        "Make the database's roles and give them their privileges.",
    ),
    "secret": ("platform_db.cli.commands.secret:secret", "Make secret keys, and move secrets to them."),
    "token": ("platform_db.cli.commands.token:token", "Issue, list, grant, revoke and purge tokens."),
    "user": ("platform_db.cli.commands.user:user", "Create, list, show and delete users."),
    "workflow": (
        "platform_db.cli.commands.workflow:workflow",
        "Look at runs, and recover those of dead workers.",
    ),
}


@click.group(cls=Program, commands_on_demand=COMMANDS)
@click.version_option(package_name="platform-db", prog_name="platform-db")
@click.option("--debug", is_flag=True, help="Log what happens, and show the traceback of an error.")
def main(debug: bool) -> None:
    """Look after the database of a workflow platform.

    Which database that is, environment variables say: PLATFORM_DB_URI, or PLATFORM_DB_HOST and others.
    """
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
