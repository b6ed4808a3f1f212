"""``platform-db demo``: a small platform on a database of its own, from nothing to what it refuses."""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path
from uuid import UUID

import click
import sqlalchemy as sa
from rich.console import Console

from platform_db import embedded, errors, quota, sessions, settings, tokens, users
from platform_db.cli.command import Command
from platform_db.cli.demonstration import place
from platform_db.cli.demonstration.race import Race, results
from platform_db.health.check import read_versions
from platform_db.lifecycle import transition
from platform_db.models import RunStatus, Workflow
from platform_db.tenancy import roles, tenant_scope
from platform_db.units import human_readable_bytes
from platform_db.workflows import get_workflow

MEBIBYTE = 1024**2
DISK_LIMITS = {"ada": 8 * MEBIBYTE, "grace": 5 * MEBIBYTE, "katherine": 3 * MEBIBYTE}
PROCESSING_TIME_LIMIT = 5000  # milliseconds
RUNS_PER_TENANT = 4

NEXT = (
    "workflow list",
    "workflow history analysis.3 --user ada@example.org",
    "quota report --workflows",
    "token list ada@example.org",
    "db check --deep",
)


@click.command(cls=Command, example="demo")
@click.option("--keep", is_flag=True, help="Let no later demonstration remove this one's database and files.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep them here, in a new or empty directory.  [default: a private one for temporary files]",
)
def demo(keep: bool, directory: Path | None) -> None:
    """Show a platform at work, on an embedded database of its own.

    Three workers race for the runs of three users, and one of them is killed. Then it shows what is refused,
    and what to try next. The database is a new one each time, which the next demonstration removes.
    """
    directory = place.make_place(directory, keep=keep)
    configure(directory)
    console = Console(highlight=False, markup=False)
    with Race() as race:
        with console.status("PostgreSQL starts …"):
            embedded.ensure_running(directory / place.DATABASE, durable=False)  # made in half the time
            sessions.get_engine()
            roles.create_roles(sessions.session_factory)
            roles.grant_privileges(sessions.session_factory)
        console.rule("A database")
        click.echo(f"PostgreSQL {read_versions()['server']} runs in {directory}.")
        ids, token = create_tenants()
        console.rule("Three workers race")
        race.show(console)
    with sessions.session_scope() as session:
        for line in results(session, race.lost.value):
            click.echo(line)
    console.rule("What is refused")
    for step in (illegal_transition, foreign_run, too_much):
        click.echo(step(ids))
    click.echo(search_dump(token))
    console.rule("Try next")
    for arguments in NEXT:
        click.echo(f"PLATFORM_DB_URI={shlex.quote(os.environ['PLATFORM_DB_URI'])} {program()} {arguments}")


def configure(directory: Path) -> None:
    """Let this process and its workers use the directory's database, whatever else is configured."""
    for name in [name for name in os.environ if name.startswith("PLATFORM_DB_")]:
        del os.environ[name]
    os.environ["PLATFORM_DB_URI"] = f"embedded://{urllib.parse.quote(str(directory / place.DATABASE))}"
    os.environ["PLATFORM_DB_WORKSPACE_ROOT"] = str(directory / place.WORKSPACES)
    os.environ["PLATFORM_DB_DEFAULT_QUOTA_CPU_LIMIT"] = str(PROCESSING_TIME_LIMIT)
    settings.reset_settings()


def create_tenants() -> tuple[dict[str, UUID], str]:
    """Store users with limits, tokens and queued runs; return the users' ids, and the token of the first."""
    with sessions.session_scope() as session:
        tenants = {name: users.create_user(session, f"{name}@example.org") for name in DISK_LIMITS}
        for name, user in tenants.items():
            quota.set_limit(session, user, "disk", DISK_LIMITS[name])
        values = [tokens.grant(session, user) for user in tenants.values()]
        session.add_all(
            Workflow(
                name="analysis",
                owner_id=user.id_,
                type_="serial",
                specification={"steps": [{"name": "fit", "command": "python fit.py"}]},
                status=RunStatus.queued,
            )
            for user in tenants.values()
            for _ in range(RUNS_PER_TENANT)
        )
        ids = {name: user.id_ for name, user in tenants.items()}
    click.echo(f"{', '.join(ids)} have a token, limits, and {RUNS_PER_TENANT} queued runs each.")
    return ids, values[0]


def illegal_transition(ids: dict[str, UUID]) -> str:
    """Try to queue a run that has ended."""
    with sessions.session_scope() as session:
        run = get_workflow(session, "analysis.3", ids["ada"])
        try:
            transition(session, run, RunStatus.queued)
        except errors.InvalidTransition as error:
            return f"{run.get_full_workflow_name()} cannot go from {error.stored_status} to {error.status}."
    raise AssertionError("the run was queued")


def foreign_run(ids: dict[str, UUID]) -> str:
    """Ask for another tenant's run, by the ORM and by SQL that forgets the owner."""
    with sessions.session_scope() as session:
        run_id = get_workflow(session, "analysis.3", ids["ada"]).id_
    with tenant_scope(sessions.get_engine(), ids["grace"]) as session:
        found = session.get(Workflow, run_id)
        seen = session.scalar(sa.text("SELECT count(*) FROM platform.workflow"))
    return (
        f"grace asks for ada's analysis.3 and gets {found}; a count of all runs in her scope is {seen}: hers."
    )


def too_much(ids: dict[str, UUID]) -> str:
    """Ask for more than a quota has left."""
    with sessions.session_scope() as session:
        try:
            quota.reserve(session, ids["katherine"], "disk", MEBIBYTE)
        except errors.QuotaExceeded as error:
            amount, used, limit = map(human_readable_bytes, (error.amount, error.used, error.limit))
            return f"katherine gets no {amount} more of {error.resource}: {used} of {limit} are used."
    raise AssertionError("the room was granted")


def search_dump(token: str) -> str:
    """Authenticate by a token, and look for it in a dump of the whole database."""
    url = sessions.get_engine().url
    options = {
        "host": url.query["host"],
        "port": url.query["port"],
        "username": url.username,
        "dbname": url.database,
    }
    command = [str(embedded.binary("pg_dump")), *(f"--{name}={value}" for name, value in options.items())]
    dump = subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603
    with sessions.session_scope() as session:
        owner = users.find_user(session, tokens.authenticate(session, token).user_id).email
    value = token.encode()
    found = sum(dump.count(form) for form in (value, value.hex().encode(), base64.b64encode(value)))
    size = human_readable_bytes(len(dump))
    return f"ada's token authenticates {owner}; a dump of the database, {size}, has it {found} times."


def program() -> str:
    """Return what a shell calls this program: the path, where it is in an environment that is not active."""
    script = Path(sys.executable).with_name("platform-db")
    if shutil.which(script.name) == str(script):
        return script.name
    return shlex.quote(str(script)) if script.exists() else f"{shlex.quote(sys.executable)} -m platform_db"
