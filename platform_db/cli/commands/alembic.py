"""``platform-db alembic``: Alembic's own commands and options, on this package's migrations."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from platform_db import schema
from platform_db.cli.command import Command, group
from platform_db.cli.options import json_option
from platform_db.schema.revision_names import IDENTIFIER, RANGE, REVISION


class AlembicCommand(Command):
    """A command of Alembic's; its argument may be a number of steps, such as ``-1``, which is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the steps apart from the options."""
        steps = [arg for arg in args if re.fullmatch(r"-\d+", arg)]
        if steps:
            args = [arg for arg in args if arg not in steps and arg != "--"] + ["--", *steps]
        return super().parse_args(ctx, args)


alembic = group(
    "alembic",
    "A revision is an identifier such as 0001, head, base, or a number of steps such as +1 and -1.",
)


class Revision(click.ParamType):  # type: ignore[type-arg] # generic in newer releases only
    """The name of a revision, in one of the forms that Alembic takes."""

    name = "revision"

    def __init__(self, form: re.Pattern[str] = REVISION) -> None:
        self.form = form

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return schema.require_revision(value, self.form)


def add(name: str, help_: str, example: str, *params: click.Parameter, writes: bool = False) -> None:
    """Add the command of Alembic's with this name, which takes the values of ``params``.

    :param writes: it tells which revisions it ran; another one waits for no migration and creates nothing.
    """

    def run(**values: Any) -> None:
        from alembic import command

        # Alembic would write to the stdout of the time when it was imported.
        config = schema.alembic_config(
            report=click.echo if writes and not values["sql"] else None,
            read_only=not writes,
            stdout=sys.stdout,
            output_buffer=sys.stdout,
        )
        getattr(command, name)(config, **values)

    example = f"alembic {example}"
    alembic.add_command(AlembicCommand(name, callback=run, params=list(params), help=help_, example=example))


SQL = "Print the SQL instead of running it."
TAG = "A word that is handed to the migrations' environment."

sql = click.Option(["--sql"], is_flag=True, help=SQL)
tag = click.Option(["--tag"], help=TAG)
verbose = click.Option(["-v", "--verbose"], is_flag=True, help="Say more.")


def print_sql(name: str, revision: str, tag: str | None) -> None:
    """Print the SQL of an upgrade or a downgrade."""
    from alembic import command

    config = schema.alembic_config(stdout=sys.stdout, output_buffer=sys.stdout)
    getattr(command, name)(config, revision, sql=True, tag=tag)


@alembic.command(cls=AlembicCommand, example="alembic upgrade --phase pre --dry-run")
@click.argument("revision", default="head", type=Revision())
@click.option("--phase", type=click.Choice(schema.PHASES), help="Run only the revisions of this phase.")
@click.option("--dry-run", is_flag=True, help="Say what each statement would do to this database now.")
@json_option
@click.option("--sql", is_flag=True, help=SQL)
@click.option("--tag", help=TAG)
def upgrade(
    revision: str, phase: str | None, dry_run: bool, as_json: bool, sql: bool, tag: str | None
) -> None:
    """Run the migrations up to REVISION (head).

    After a pre revision the release before still runs, after a post one it does not. --dry-run needs a login
    that reads, no more. With --sql, REVISION may be a range FROM:TO.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run")
    if sql and (phase or dry_run):
        raise click.UsageError("--sql asks no database: it goes with neither --phase nor --dry-run")
    if dry_run:
        from platform_db.cli.preview import show_preview
        from platform_db.schema.preview import preview

        show_preview(preview(revision=revision, phase=phase), as_json)
    elif sql:
        print_sql("upgrade", revision, tag)
    else:
        schema.upgrade(revision=revision, phase=phase, report=click.echo, tag=tag)


@alembic.command(cls=AlembicCommand, example="alembic downgrade -1")
@click.argument("revision", default="-1", type=Revision())
@click.option("--sql", is_flag=True, help=SQL)
@click.option("--tag", help=TAG)
def downgrade(revision: str, sql: bool, tag: str | None) -> None:
    """Take migrations back, down to REVISION (-1).

    With --sql, REVISION is a range FROM:TO.
    """
    if sql:
        print_sql("downgrade", revision, tag)
    else:
        schema.downgrade(revision=revision, report=click.echo, tag=tag)


add(
    "stamp",
    "Store REVISION as the database's, without running any migration.",
    "stamp head",
    click.Argument(["revision"], type=Revision()),
    sql,
    tag,
    click.Option(["--purge"], is_flag=True, help="Remove the stored revisions first."),
    writes=True,
)
add("current", "Show the database's revision; nothing before the first.", "current", verbose)
add(
    "history",
    "List the revisions, the newest one first.",
    "history --verbose",
    click.Option(["-r", "--rev-range"], metavar="FROM:TO", type=Revision(RANGE), help="Show only these."),
    verbose,
    click.Option(["-i", "--indicate-current"], is_flag=True, help="Mark the database's revision."),
)
add("heads", "Show the newest revision.", "heads", verbose)
add("branches", "Show where the history forks, which it should not.", "branches", verbose)
add(
    "show",
    "Show REVISION (head), with its whole description.",
    "show 0001",
    click.Argument(["rev"], type=Revision(IDENTIFIER), metavar="[REVISION]", default="head"),
)
add(
    "revision",
    "Write the file of a new revision, for developers of platform-db.",
    "revision --autogenerate --message 'Add a column'",
    click.Option(["-m", "--message"], help="What the revision does."),
    click.Option(["--autogenerate/--no-autogenerate"], help="Fill it with what only the models have."),
    sql,
    click.Option(["--head"], type=Revision(), default="head", show_default=True, help="The one it follows."),
    click.Option(["--splice"], is_flag=True, help="Allow a head that is not the newest revision."),
    click.Option(["--branch-label"], help="A label for the branch."),
    click.Option(["--version-path"], help="The directory to write to."),
    click.Option(
        ["--rev-id"],
        callback=lambda context, parameter, value: schema.require_new_number(value),
        default=schema.next_revision,
        help="Its identifier; by default the next number.",
    ),
    click.Option(
        ["--depends-on"],
        multiple=True,
        callback=lambda context, parameter, value: list(value) or None,
        help="A revision that must come before.",
    ),
)


@alembic.command(example="alembic init")
def init() -> None:
    """Mark a schema that exists already as being at the newest revision.

    It must have all tables, and no revision yet.
    """
    done: list[str] = []
    schema.adopt(report=done.append)
    click.echo("\n".join(done) or "nothing to do: the schema is at the newest revision")


@alembic.command(example="alembic check")
def check() -> None:
    """Check that the database has what the models have."""
    schema.require_agreement()
    click.echo("the models and the database agree")
