"""``platform-db alembic``: Alembic's own commands and options, on this package's migrations."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from alembic.config import Config

sql_option = click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
tag_option = click.option("--tag", help="A word that is handed to the migrations' environment.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say more.")

REVISION = r"((\w+@)?\w+([+-]\d+)?|[+-]\d+)"


class RevisionCommand(click.Command):
    """A command whose argument may be a number of steps, such as ``-1``, which is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the steps apart from the options."""
        steps = [arg for arg in args if re.fullmatch(r"-\d+", arg)]
        if steps:
            args = [arg for arg in args if arg not in steps and arg != "--"] + ["--", *steps]
        return super().parse_args(ctx, args)


def known_form(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse what names no revision and no range, such as a variable that is not set: Alembic stumbles."""
    if not re.fullmatch(f"{REVISION}(:{REVISION})?", value):
        raise click.BadParameter(f"{value!r} names no revision")
    return value


def known_range(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what is no range, either end of which may be left out."""
    if value is not None and not re.fullmatch(f"({REVISION})?:({REVISION})?", value):
        raise click.BadParameter(f"{value!r} is not a range such as 0001:head, 0001: or :head")
    return value


def new_number(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """Return the number of a new revision; a known one would leave a file that no command can load."""
    from platform_db import schema

    first = schema.next_revision()
    if value is not None and not (re.fullmatch(r"\d{4}", value) and value >= first):
        raise click.BadParameter(f"{value!r} is not a number from {first} to 9999")
    return value or first


@click.group
def alembic() -> None:
    """Run, take back and inspect migrations.

    A revision is an identifier such as 0001, head, base, or a number of steps such as +1 and -1.
    """


@alembic.command
def init() -> None:
    """Mark a schema that exists already as being at the newest revision.

    It must have all tables, and no revision yet.
    """
    from platform_db import schema

    done: list[str] = []
    schema.adopt(report=done.append)
    click.echo("\n".join(done) or "nothing to do: the schema is at the newest revision")


@alembic.command(cls=RevisionCommand)
@click.argument("revision", callback=known_form, default="head")
@sql_option
@tag_option
def upgrade(revision: str, sql: bool, tag: str | None) -> None:
    """Run the migrations up to REVISION (head).

    With --sql, REVISION may be a range FROM:TO.
    """
    from alembic import command

    command.upgrade(_config(report=not sql), revision, sql=sql, tag=tag)


@alembic.command(cls=RevisionCommand)
@click.argument("revision", callback=known_form, default="-1")
@sql_option
@tag_option
def downgrade(revision: str, sql: bool, tag: str | None) -> None:
    """Take migrations back, down to REVISION (-1).

    With --sql, REVISION is a range FROM:TO.
    """
    from alembic import command

    command.downgrade(_config(report=not sql), revision, sql=sql, tag=tag)


@alembic.command
@verbose_option
def current(verbose: bool) -> None:
    """Show the database's revision; nothing where it was never migrated."""
    from alembic import command

    command.current(_config(read_only=True), verbose=verbose)


@alembic.command
@click.option("-r", "--rev-range", callback=known_range, metavar="FROM:TO", help="Show only these revisions.")
@verbose_option
@click.option("-i", "--indicate-current", is_flag=True, help="Mark the database's revision.")
def history(rev_range: str | None, verbose: bool, indicate_current: bool) -> None:
    """List the revisions, the newest one first."""
    from alembic import command

    command.history(_config(read_only=True), rev_range, verbose, indicate_current)


@alembic.command
@verbose_option
def heads(verbose: bool) -> None:
    """Show the newest revision."""
    from alembic import command

    command.heads(_config(), verbose=verbose)


@alembic.command
@verbose_option
def branches(verbose: bool) -> None:
    """Show where the history forks, which it should not."""
    from alembic import command

    command.branches(_config(), verbose=verbose)


@alembic.command(cls=RevisionCommand)
@click.argument("revision", callback=known_form, default="head")
def show(revision: str) -> None:
    """Show REVISION (head), with its whole description."""
    from alembic import command

    command.show(_config(), revision)


@alembic.command
@click.option("-m", "--message", help="What the revision does.")
@click.option(
    "--autogenerate/--no-autogenerate", help="Fill it with what the models have and the database has not."
)
@sql_option
@click.option(
    "--head", callback=known_form, default="head", show_default=True, help="The revision that it follows."
)
@click.option("--splice", is_flag=True, help="Allow a head that is not the newest revision.")
@click.option("--branch-label", help="A label for the branch.")
@click.option("--version-path", help="The directory to write to.")
@click.option("--rev-id", callback=new_number, help="Its identifier; by default the next number.")
@click.option("--depends-on", multiple=True, help="A revision that must come before.")
def revision(depends_on: tuple[str, ...], rev_id: str, **options: Any) -> None:
    """Write a new revision's file, for developers of platform-db."""
    from alembic import command

    options |= {"depends_on": list(depends_on) or None, "rev_id": rev_id}
    command.revision(_config(read_only=True), **options)


@alembic.command(cls=RevisionCommand)
@click.argument("revision", callback=known_form)
@sql_option
@tag_option
@click.option("--purge", is_flag=True, help="Forget the stored revisions before.")
def stamp(revision: str, sql: bool, tag: str | None, purge: bool) -> None:
    """Store REVISION as the database's, without running any migration."""
    from alembic import command

    command.stamp(_config(report=not sql), revision, sql=sql, tag=tag, purge=purge)


@alembic.command
def check() -> None:
    """Tell whether the database has what the models have."""
    from platform_db import schema

    schema.require_agreement()
    click.echo("the models and the database agree")


def _config(*, report: bool = False, read_only: bool = False) -> Config:
    from platform_db import schema

    # Alembic would write to the stdout of the time when it was imported.
    return schema.alembic_config(
        report=click.echo if report else None,
        read_only=read_only,
        stdout=sys.stdout,
        output_buffer=sys.stdout,
    )
