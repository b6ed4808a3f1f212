"""How errors end a command: in one line on stderr and an exit code of their own."""

from __future__ import annotations

import importlib
import keyword
import logging
import sys
import traceback
from typing import IO, Any

import click

from platform_db import errors
from platform_db.cli.show import escaped

logger = logging.getLogger("platform_db.cli")

PERMISSION_HINT = (
    "the owner gives the login a role with: platform-db roles grant --to LOGIN; roles show prints what each "
    "may do; what migrates takes the schema's owner, set as PLATFORM_DB_MIGRATION_URI"
)


class Program(click.Group):
    """A group that imports a command when it is asked for, and ends on an error in one line.

    :param summaries: the commands' summaries; each command stands in the module of its name.
    """

    def __init__(self, *args: Any, summaries: dict[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.summaries = summaries
        # Their names alone, which a mistyped one is compared with.
        self.commands = {name: click.Command(name) for name in summaries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        name = cmd_name + "_" * keyword.iskeyword(cmd_name)
        module = importlib.import_module(f"platform_db.cli.commands.{name}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.summaries.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in errors.exit_codes().items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn an error into one line, unless ``--debug`` asks for all of it."""
        from platform_db.database import interruptible

        try:
            with interruptible():
                return super().invoke(ctx)
        except (errors.Interrupted, click.Abort) as ending:
            # At a prompt, click makes the one out of the other.
            interrupted = ending.__context__ if isinstance(ending, click.Abort) else ending
            if not isinstance(interrupted, errors.Interrupted):
                raise
            raise Failure(str(interrupted), interrupted.exit_code) from None
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # Click shows the one kind; its answer to a reader that went away is silence.
        except Exception as error:
            failure = as_failure(error)
            if failure is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exception(error, file=sys.stderr)
            raise failure from None


class Failure(click.ClickException):
    """What is shown of an error: ``platform-db: message (hint)``."""

    def __init__(self, message: str, exit_code: int, hint: str | None = None) -> None:
        line = " ".join(message.split()).rstrip(".") + (f" ({hint})" if hint else "")
        super().__init__(escaped(line))
        # Click declares it for the class, and reads it from the instance.
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        diagnostics = sys.modules.get("platform_db.diagnostics")  # imported where the log has a format
        if diagnostics is not None and diagnostics.logs_json():
            logger.error("%s", self.format_message())
        else:
            click.echo(f"platform-db: {self.format_message()}", file=file, err=True)


def as_failure(error: Exception) -> Failure | None:
    """Return how ``error`` is shown, or None where it is a mistake in the code and needs its traceback."""
    if isinstance(error, errors.PlatformDBError):
        return Failure(str(error), error.exit_code, error.hint)
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return Failure(f"{error.filename}: {reason}" if error.filename else reason, 1)
    # The code that raises one of these has imported its module; no other command needs it.
    for module, name in (("alembic.util", "CommandError"), ("alembic.script.revision", "RevisionError")):
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return Failure(str(error), 1)
    sqlalchemy = sys.modules.get("sqlalchemy.exc")
    if sqlalchemy is not None and isinstance(error, sqlalchemy.DBAPIError):
        from platform_db.database.driver_errors import as_connection_error
        from platform_db.database.sqlstates import INSUFFICIENT_PRIVILEGE, sqlstate_of

        own = as_connection_error(error)
        if own is not None:
            return as_failure(own)
        # The server's detail may hold a row's values, and the whole text the statement's: both stay out.
        primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
        refused = f"the database refused: {primary or type(error.orig).__name__}"
        if sqlstate_of(error) == INSUFFICIENT_PRIVILEGE:
            return Failure(refused, errors.RolesMissing.exit_code, PERMISSION_HINT)
        return Failure(refused, 1)
    if sqlalchemy is not None and isinstance(error, sqlalchemy.SQLAlchemyError):
        return Failure(f"the database could not be used: {type(error).__name__}", 1)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if str(frame.f_globals.get("__name__")).startswith("alembic."):
        # It does not check what it is given: steps that lead out of the history end in an assertion.
        return Failure("Alembic finds no such revision, or cannot do this with it", 1)
    return None
