"""The command line, ``platform-db``.

A command's module is imported when the command is asked for, so that ``--help`` is quick. No rule lives
here: each command calls what a library user would call.
"""

from __future__ import annotations

import logging
import os

import click

from platform_db.cli.errors import Program

COMMANDS = {
    "alembic": "Run, take back and inspect migrations.",
    "audit": "Read, seal, verify and prune the audit log.",
    "cluster": "Distribute the database over several machines by Citus, and show where its tables are.",
    "db": "Check, measure and clean up the database.",
    "demo": "Show a platform at work, on an embedded database of its own.",
    "events": "Watch what happens to runs, jobs, sessions and services.",
    "guard": "Allow changes of statuses beyond the states, and take that back.",
    "import": "Move the data of another platform here.",
    "init": "Bring the database to the newest revision and create the default resources.",
    "job": "List and show jobs.",
    "metrics": "Serve metrics of the database for Prometheus.",
    "provenance": "Show calls of tasks, what results came from, and why a call ran again.",
    "queue": "Show who waits and why a run waits, and limit how much of the queue a user may take.",
    "quota": "Count the disk space and processing time of users, and limit them.",
    "retention": "Apply the retention rules of workspaces.",
    "roles": "Make the database's roles and give them their privileges.",
    "secret": "Make secret keys, show which are in use, and move secrets to a new one.",
    "task": "List, show and prune the task records of clusters.",
    "token": "Issue, list, request, grant, revoke and purge tokens.",
    "user": "Create, list, show and delete users.",
    "workflow": "Show runs, their results and graphs, and recover those of dead workers.",
}


@click.group(cls=Program, summaries=COMMANDS)
@click.version_option(package_name="platform-db", prog_name="platform-db")
@click.option("--debug", is_flag=True, help="Log what happens, and show the traceback of an error.")
def main(debug: bool) -> None:
    """Operate the database of a workflow platform.

    PLATFORM_DB_URI, or PLATFORM_DB_HOST and others, name the database.
    """
    # Reading the settings takes longer than all the rest of --help.
    if debug or "PLATFORM_DB_LOG_FORMAT" in os.environ or "PLATFORM_DB_LOG_FORMAT_FILE" in os.environ:
        from platform_db.diagnostics import configure_logging

        configure_logging(logging.INFO if debug else logging.WARNING)
