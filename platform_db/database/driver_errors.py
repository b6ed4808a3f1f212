"""Turning what the driver raises into platform-db's own errors, and taking values out of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext

from platform_db import errors
from platform_db.database import sqlstates
from platform_db.identifiers import SCHEMA
from platform_db.states import MACHINES

# What a violated constraint means, for those that a caller is expected to meet.
CONSTRAINT_ERRORS: dict[str, Callable[[], errors.PlatformDBError]] = {
    "uq_user_token_active_access": lambda: errors.TokenError("the user has already an active access token"),
    "uq_user_token_requested_access": lambda: errors.TokenError(
        "the user has already requested an access token"
    ),
    "uq_user_token_personal_name": lambda: errors.TokenError(
        "the user has already an active personal token of this name"
    ),
    "uq_user_token_token_digest": lambda: errors.TokenError("this value is in use already"),
    "user_token_keeps_value": lambda: errors.TokenError("a token that was granted keeps its value"),
    "uq_user__email": errors.UserExists,
    "uq_user__idp_issuer_idp_subject": errors.UserExists,
    "uq_workflow_owner_id_name_run_number_major_run_number_minor": lambda: errors.RunNumberError(
        "a run of this name has this number already"
    ),
    "pk_workflow": errors.WorkflowExists,
    "uq_workflow_id_": errors.WorkflowExists,
    "ck_workflow_name_length": lambda: errors.InvalidArgument("the name of a run has 1 to 1024 bytes"),
    "pk_secret_digest": lambda: errors.TokenError("this value is in use already"),
}

# That what a user owns has an owner.
OWNERS = frozenset({"fk_workflow_owner_id", "fk_interactive_session_owner_id", "fk_service_owner_id"})

# What the functions of the database refuse, beside status changes.
RAISED_ERRORS: dict[str, Callable[[str], errors.PlatformDBError]] = {
    sqlstates.APPEND_ONLY: errors.AppendOnly,
    sqlstates.REFUSED: errors.Refused,
    sqlstates.NO_SUCH_RUN: errors.RunNumberError,
    sqlstates.CYCLE: errors.DependencyCycle,
}


@event.listens_for(sa.Engine, "handle_error")
def raise_own_error(context: ExceptionContext) -> None:
    """Turn what the database refuses for platform-db's own reasons into platform-db's own errors.

    It listens on all engines, so that the guard raises the same errors through a platform's own engine.
    """
    if isinstance(context.original_exception, errors.PlatformDBError):
        raise context.original_exception from None  # A column refused its value.
    diagnostics: Any = getattr(context.original_exception, "diag", None)
    place = None if diagnostics is None else _place_of(diagnostics)
    if place is None:
        return  # Other schemas may use the same SQLSTATEs and the same names of constraints.
    table, constraint = place
    hide_values(context)
    detail = (diagnostics.message_detail or "").split(" ")
    if diagnostics.sqlstate == sqlstates.INVALID_TRANSITION and table in MACHINES and len(detail) == 3:
        raise errors.InvalidTransition(table, *detail)
    if diagnostics.sqlstate == sqlstates.QUOTA_EXCEEDED and len(detail) == 5:
        raise errors.QuotaExceeded(detail[0], "database storage", *map(int, detail[1:]))
    if diagnostics.sqlstate in RAISED_ERRORS:
        raise RAISED_ERRORS[diagnostics.sqlstate](_SHARD_OF.sub(r"\1", diagnostics.message_primary))
    if (
        constraint in OWNERS
        and diagnostics.message_primary.startswith("insert or update")  # and not the deletion of a user
    ):
        raise errors.UserNotFound("the owner is no user")
    if constraint in CONSTRAINT_ERRORS:
        raise CONSTRAINT_ERRORS[constraint]()


def _place_of(diagnostics: Any) -> tuple[str, str | None] | None:
    """Return the table and the constraint that an error is about; None where that is none of ours.

    Where tables are distributed, those of a node have the shard's number behind their names; of what another
    node refuses, Citus hands on the texts alone.
    """
    if diagnostics.schema_name == SCHEMA and diagnostics.table_name is not None:
        return _without_shard(diagnostics.table_name), _without_shard(diagnostics.constraint_name)
    if diagnostics.schema_name is None and "while executing command on " in (diagnostics.context or ""):
        message = diagnostics.message_primary
        constraint = _CONSTRAINT.search(message)
        return message.partition(" ")[0], _without_shard(constraint[1] if constraint else None)
    return None


def _without_shard(name: Any) -> Any:
    return name and _SHARD.sub("", name)


_SHARD = re.compile(r"_\d{6,}$")
_SHARD_OF = re.compile(r"\b([a-z_]+)_\d{6,}\b")
_CONSTRAINT = re.compile(r'constraint "(\w+)"')


def hide_values(context: ExceptionContext) -> None:
    """Leave the server's message alone of all that an error holds: no row's and no parameter's value.

    :raises errors.InvalidText: the driver refused a text, and its own error holds the whole of it.
    """
    original: Any = context.original_exception
    wrapper = context.sqlalchemy_exception
    if wrapper is not None:
        wrapper.params = None  # They would be pickled with it.
    if isinstance(original, UnicodeEncodeError) or "NUL (0x00)" in str(original):
        raise errors.InvalidText from None
    message = _hide_values(original)
    if wrapper is not None and message is not None:
        kind = type(original)
        wrapper.args = (f"({kind.__module__}.{kind.__name__}) {message}",)


def _hide_values(original: Any) -> str | None:
    """Leave the server's message alone of an error of the driver, and return it."""
    message: str | None = getattr(getattr(original, "diag", None), "message_primary", None)
    if message is None:  # the client's own, of a connection that failed
        return None
    if original.pgcode.startswith(sqlstates.DATA_EXCEPTION_CLASS):
        message = _QUOTED.sub('"…"', message)  # Such as: invalid input syntax for type integer: "…".
    original.args = (message,)
    original.__setstate__({"pgerror": message, "pgcode": original.pgcode})
    return message


@contextmanager
def own_connection_errors() -> Iterator[None]:
    """Turn a failure to connect, or a connection that was lost, into an error that says why.

    :raises errors.Unreachable: mostly.
    :raises errors.InvalidSetting: the URL has an option, or a value of one, that the driver does not know.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        own = as_connection_error(error)
        if own is None:
            raise
        raise own from None


@contextmanager
def own_driver_errors() -> Iterator[None]:
    """Do the same for a block that uses the driver past SQLAlchemy, and leave no value in its other errors.

    The first error is the reason: after it a lost connection refuses each rollback on the way out.

    :raises errors.Unreachable: a connection was lost.
    :raises sqlalchemy.exc.DBAPIError: the database refused something.
    """
    try:
        yield
    except (psycopg2.Error, sa.exc.DBAPIError) as error:
        first = [cause for cause in _causes(error) if isinstance(cause, psycopg2.Error)][-1]
        _hide_values(first)
        wrapper: Any = sa.exc.DBAPIError.instance(None, None, first, psycopg2.Error)
        raise as_connection_error(wrapper) or wrapper from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def as_own_error(error: sa.exc.DBAPIError) -> errors.PlatformDBError:
    """Return what an error of a statement means that no row of it has caused."""
    sqlstate, reason = sqlstates.sqlstate_of(error) or "", f"the database refused: {reason_of(error)}"
    if sqlstate.startswith(sqlstates.NOT_WRITABLE):
        return errors.NotWritable(reason)
    if sqlstate in sqlstates.NO_ROLE:
        return errors.RolesMissing(None if sqlstate == sqlstates.INVALID_PARAMETER_VALUE else reason)
    return as_connection_error(error) or errors.PlatformDBError(reason)


def as_connection_error(error: sa.exc.DBAPIError) -> errors.PlatformDBError | None:
    """Return the error that says why there is no connection, or None when ``error`` has another reason.

    Servers, databases and logins are named, but nothing of it comes from the password.
    """
    sqlstate = sqlstates.sqlstate_of(error)
    if sqlstate is not None and not sqlstate.startswith(
        (sqlstates.CONNECTION_EXCEPTION_CLASS, sqlstates.SHUTDOWN_CLASS)
    ):
        return None  # The server's answer to a statement.
    if str(error.orig).startswith(("invalid dsn", "invalid connection option")):
        return errors.InvalidSetting("the database URI has an option that the driver does not know")
    if refused := _REFUSED_OPTION.match(str(error.orig)):
        # Without the value, which may have been meant for another option.
        return errors.InvalidSetting(f"the driver does not take an option of the database URI: {refused[0]}")
    if not isinstance(error, sa.exc.OperationalError):
        return None
    # With several addresses each has its line; the last one is what the driver ended with.
    lines = [line for line in str(error.orig).splitlines() if line and not line.startswith("\t")]
    text = lines[-1] if lines else "no reason was given"
    server = _SERVER.search(text)
    where = f"the server at {':'.join(filter(None, server.groups()))}" if server else "the server"
    for pattern, meaning, hint in _CONNECTION_FAILURES:
        if found := re.search(pattern, text):
            return errors.Unreachable(meaning.format(*found.groups(), where=where), hint=hint)
    reason = text.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
    return errors.Unreachable(f"{where} cannot be used: {reason}")


_SERVER = re.compile(r'connection to server (?:at|on socket) "([^"]+)"(?: \([^)]*\))?(?:, port (\d+))?')

# libpq's own words about an option, before it looks for a server.
_REFUSED_OPTION = re.compile(r"invalid \w[\w ]+|\w+ value|could not match \d+ [\w ]+")

_QUOTED = re.compile('".*"', re.DOTALL)

_LOGIN_HINT = "correct the password in PLATFORM_DB_URI, or PLATFORM_DB_PASSWORD"

# What the driver says, what that means, and what to do where it is not to look for the server.
_CONNECTION_FAILURES = (
    (r'could not translate host name "(.*)"', 'the host name "{0}" cannot be resolved', None),
    (r'password authentication failed for user "(.*)"', '{where} refuses the password of "{0}"', _LOGIN_HINT),
    (r"no password supplied", "{where} asks for a password, and none is configured", _LOGIN_HINT),
    (
        r'database "(.*)" does not exist',
        '{where} has no database "{0}"',
        "make it with: platform-db db create; or correct its name in PLATFORM_DB_URI or PLATFORM_DB_NAME",
    ),
    (
        r'role "(.*)" does not exist',
        '{where} has no login "{0}"',
        "correct the user in PLATFORM_DB_URI or PLATFORM_DB_USERNAME, or have an administrator create it",
    ),
    (
        r'permission denied for database "(.*)"',
        '{where} does not let this login into the database "{0}"',
        "have its owner run: GRANT CONNECT ON DATABASE … TO …",
    ),
    (
        r"no pg_hba.conf entry|pg_hba.conf rejects",
        "{where} refuses this login from here to this database",
        "have an administrator add a line to pg_hba.conf; it may ask for ?sslmode=require in the URI",
    ),
    (
        r"sorry, too many clients|remaining connection slots|too many connections",
        "{where} has no connection left",
        "lower PLATFORM_DB_POOL_SIZE and PLATFORM_DB_MAX_OVERFLOW, or raise the server's max_connections",
    ),
    (
        r"[Cc]onnection refused|No such file or directory",
        "{where} is not running: nothing listens there",
        None,
    ),
    (r"timeout expired|timed out", "{where} did not answer in time", None),
    (
        r"(?:closed the connection|terminating connection|connection already closed)",
        "{where} ended the connection",
        None,
    ),
)


def reason_of(error: BaseException) -> str:
    """Return what an error says in one line, without its statement and without a value of a row."""
    original = getattr(error, "orig", error)
    diagnostics = getattr(original, "diag", None)
    message = str(getattr(diagnostics, "message_primary", None) or original).partition("\n")[0]
    if (sqlstates.sqlstate_of(error) or "").startswith(sqlstates.DATA_EXCEPTION_CLASS):
        message = message.partition('"')[0].rstrip(": ")
    return message
