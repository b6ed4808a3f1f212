"""``platform-db demo``: a small platform on an embedded database, from nothing to its quota table."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import shlex
import shutil
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import click
from rich.console import Console
from sqlalchemy.orm import Session

from platform_db import embedded, errors, schema, sessions, settings, users
from platform_db.cli.command import Command
from platform_db.cli.commands.quota import quota
from platform_db.cli.errors import Failure
from platform_db.cli.show import show_rows
from platform_db.health.check import read_versions
from platform_db.lifecycle import transition, transition_many, whole_history
from platform_db.lifecycle.transitions import set_actor
from platform_db.models import RunStatus, User, Workflow
from platform_db.schema import compare

TENANTS = ("ada", "grace", "katherine")
RUNS_PER_TENANT = 4
FILES_PER_WORKSPACE = 20
MEBIBYTE = 1024**2

NEXT = ("quota report --workflows", "quota disk-usage-update --json", "db version", "alembic history")

# So that the runs take some processing time.
SECONDS_PER_STATE = 0.5

# What becomes of the runs, one after another: the statuses that each goes through.
WALKS = (
    "queued pending running finished",
    "queued pending running failed",
    "queued pending running stopped",
    "queued pending running",
)


@click.command(cls=Command, example="demo --directory /tmp/demo")
@click.option(
    "--workspaces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Make a run for each sub-directory of this directory, instead of making workspaces. Nothing in it "
    "is changed.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep the database and the workspaces.  [default: the user's data directory]",
)
def demo(workspaces: Path | None, directory: Path | None) -> None:
    """Show a platform at work, on an embedded database of its own.

    It makes users with tokens and runs with files, walks the runs through their states, counts their usage,
    and says what to try next. Run it again and it adds more runs.
    """
    directory = (directory or embedded.default_directory().parent / "demo").absolute()
    directory.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if name.startswith("PLATFORM_DB_")]:
        del os.environ[name]  # The demo is about its own database, whatever else is configured.
    os.environ["PLATFORM_DB_URI"] = f"embedded://{urllib.parse.quote(str(directory / 'database'))}"
    os.environ["PLATFORM_DB_WORKSPACE_ROOT"] = str(directory / "workspaces")
    os.environ["PLATFORM_DB_DEFAULT_QUOTA_DISK_LIMIT"] = str(4 * MEBIBYTE)
    settings.reset_settings()

    console = Console(highlight=False)
    console.rule("[bold]A database")
    engine = sessions.get_engine()
    _require_own_schema(directory / "database")
    server = f"PostgreSQL {read_versions()['server']}"
    click.echo(f"{server} runs in {directory / 'database'}, with the newest schema.")

    console.rule("[bold]Users, tokens and runs")
    with sessions.session_scope() as session:
        tenants = [_user(session, name) for name in TENANTS]
        run_ids = [run.id_ for run in _runs(session, tenants, workspaces)]
        console.print(f"{len(tenants)} users with an encrypted access token each, {len(run_ids)} new runs.")

    console.rule("[bold]States")
    _walk(run_ids, console)
    if run_ids:
        _show_history(run_ids[0], console)

    console.rule("[bold]Quotas")
    for command in ("resource-usage-update", "report"):
        try:
            quota.main([command], prog_name="platform-db quota", standalone_mode=False)
        except errors.PartialFailure as error:
            click.echo(f"{error}.")  # Real directories have files that only others may read.

    console.rule("[bold]Try next")
    click.echo(f"export PLATFORM_DB_URI={shlex.quote(os.environ['PLATFORM_DB_URI'])}")
    for arguments in NEXT:
        click.echo(f"{_program()} {arguments}")
    engine.dispose()


def _program() -> str:
    """Return what a shell calls this program: the path, where it is in an environment that is not active."""
    script = Path(sys.executable).with_name("platform-db")
    if shutil.which(script.name) == str(script):
        return script.name
    return shlex.quote(str(script)) if script.exists() else f"{shlex.quote(sys.executable)} -m platform_db"


def _require_own_schema(directory: Path) -> None:
    """Refuse a database that another state of the code left: until a release, revisions may change."""
    with sessions.get_engine().connect() as connection:
        found = schema.status(connection)
        if found.state is schema.SchemaState.current and not compare.differences(connection):
            return
    raise Failure(
        "the demo's database was made by another version of platform-db",
        errors.SchemaDiffers.exit_code,
        f"remove it, and run the demo again: rm -r {shlex.quote(str(directory))}",
    )


def _user(session: Session, name: str) -> User:
    """Return the user of that name, made with a token where there is none."""
    email = f"{name}@example.org"
    try:
        return users.find_user(session, email)
    except errors.UserNotFound:
        token = secrets.token_urlsafe()
        return users.create_user(session, email, full_name=name.capitalize(), access_token=token)


def _runs(session: Session, tenants: list[User], workspaces: Path | None) -> Iterator[Workflow]:
    """Add runs: one for each directory that is given, or some with workspaces full of files."""
    paths: Sequence[Path | None] = [None] * len(tenants) * RUNS_PER_TENANT
    if workspaces is not None:
        paths = sorted(path for path in workspaces.absolute().iterdir() if path.is_dir())
    for number, (user, path) in enumerate(zip(itertools.cycle(tenants), paths)):
        run = Workflow(
            name=path.name if path else f"analysis-{number % 2 + 1}",
            owner_id=user.id_,
            type_="serial",
            specification={"steps": [{"name": "fit", "command": "python fit.py"}]},
            logs="collecting the inputs\n",
            workspace_path=str(path) if path else None,
        )
        session.add(run)
        if path is None:
            _fill(Path(run.workspace_path) / "results")
        yield run


def _fill(directory: Path) -> None:
    directory.mkdir(parents=True)
    for number in range(FILES_PER_WORKSPACE):
        size = int(random.expovariate(1 / (MEBIBYTE / 30)))
        (directory / f"part-{number:02d}.dat").write_bytes(os.urandom(size))


def _walk(run_ids: list[UUID], console: Console) -> None:
    """Send each run through its states, all runs a state at a time."""
    walks = [walk.split() for walk, _ in zip(itertools.cycle(WALKS), run_ids)]
    with sessions.session_scope() as session:
        set_actor(session, "demo")
        for statuses in itertools.zip_longest(*walks):
            time.sleep(SECONDS_PER_STATE)
            for status in sorted(set(statuses) - {None}):
                ids = [run_id for run_id, next_ in zip(run_ids, statuses, strict=True) if next_ == status]
                transition_many(session, ids, status, model=Workflow, reason="the demo says so")
    counts = Counter(walk[-1] for walk in walks)
    console.print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) + ".")


def _show_history(run_id: UUID, console: Console) -> None:
    """Print what happened to a run that has finished, and try what may not be."""
    with sessions.session_scope() as session:
        run = session.get_one(Workflow, run_id)
        console.print(run.get_full_workflow_name(), markup=False)  # Directories have any name.
        changes = (
            {"at": f"{c.at:%H:%M:%S.%f}", "from": c.from_status, "to": c.to_status, "reason": c.reason}
            for c in whole_history(session, run)
        )
        show_rows(changes, as_json=False)
        try:
            transition(session, run, RunStatus.queued)
        except errors.InvalidTransition as error:
            console.print(f"[red]Refused:[/red] {error}.")
