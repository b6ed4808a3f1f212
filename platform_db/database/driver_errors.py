"""Turning what the driver raises into platform-db's own errors, and taking values out of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext

from platform_db import errors
from platform_db.identifiers import SCHEMA

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
    "pk_secret_digest": lambda: errors.TokenError("this value is in use already"),
}


@event.listens_for(sa.Engine, "handle_error")
def raise_own_error(context: ExceptionContext) -> None:
    """Turn what the database refuses for platform-db's own reasons into platform-db's own errors.

    It listens on all engines, so that the guard speaks the same way through one that somebody else made.
    """
    diagnostics = getattr(context.original_exception, "diag", None)
    if diagnostics is None:
        return
    own = diagnostics.schema_name == SCHEMA
    if own:
        hide_values(context)
    if diagnostics.sqlstate == "PD001":
        entity_id, stored_status, status = diagnostics.message_detail.split(" ")
        raise errors.InvalidTransition(diagnostics.table_name, entity_id, stored_status, status)
    if diagnostics.sqlstate == "PD002":
        raise errors.AppendOnly(diagnostics.message_primary)
    if diagnostics.sqlstate == "PD003":
        raise errors.Refused(diagnostics.message_primary)
    if diagnostics.sqlstate == "PD004":
        raise errors.RunNumberError(diagnostics.message_primary)
    if own and diagnostics.constraint_name in CONSTRAINT_ERRORS:
        raise CONSTRAINT_ERRORS[diagnostics.constraint_name]()


def hide_values(context: ExceptionContext) -> None:
    """Leave the server's message without what follows it: the row's and the statement's values.

    :raises errors.InvalidText: the driver refused a text, and its own error holds the whole of it.
    """
    original, wrapper = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, UnicodeEncodeError) or "NUL (0x00)" in str(original):
        raise errors.InvalidText from None
    message = getattr(getattr(original, "diag", None), "message_primary", None)
    if message is None:  # the client's own, of a connection that failed
        return
    original.args = (message,)
    if wrapper is not None:
        kind = type(original)
        wrapper.args = (f"({kind.__module__}.{kind.__name__}) {message}",)


@contextmanager
def own_connection_errors() -> Iterator[None]:
    """Turn a failure to connect, or a connection that was lost, into an error that says why.

    :raises errors.Unreachable: mostly.
    :raises errors.InvalidSetting: the URL has an option that the driver does not know.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        own = as_connection_error(error)
        if own is None:
            raise
        raise own from None


def as_connection_error(error: sa.exc.DBAPIError) -> errors.PlatformDBError | None:
    """Return the error that says why there is no connection, or None when ``error`` has another reason.

    Servers, databases and logins are named, but nothing of it comes from the password.
    """
    if str(error.orig).startswith(("invalid dsn", "invalid connection option")):
        return errors.InvalidSetting("the database URI has an option that the driver does not know")
    sqlstate = getattr(error.orig, "pgcode", None)
    if not isinstance(error, sa.exc.OperationalError) or (
        # Without a SQLSTATE the driver itself gave up; class 08 is a connection exception, 57P a shutdown.
        sqlstate is not None and not sqlstate.startswith(("08", "57P"))
    ):
        return None
    # With several addresses each has its line; the last one is what the driver ended with.
    lines = [line for line in str(error.orig).splitlines() if line and not line.startswith("\t")]
    text = lines[-1] if lines else "no reason was given"
    server = _SERVER.search(text)
    where = f"the server at {':'.join(filter(None, server.groups()))}" if server else "the server"
    for pattern, meaning in _CONNECTION_FAILURES:
        if found := re.search(pattern, text):
            return errors.Unreachable(meaning.format(*found.groups(), where=where))
    reason = text.rpartition(" failed: ")[2].removeprefix("FATAL:").strip()
    return errors.Unreachable(f"{where} cannot be used: {reason}")


_SERVER = re.compile(r'connection to server (?:at|on socket) "([^"]+)"(?: \([^)]*\))?(?:, port (\d+))?')

_CONNECTION_FAILURES = (
    (r'could not translate host name "([^"]*)"', 'the host name "{0}" cannot be resolved'),
    (r'password authentication failed for user "([^"]*)"', '{where} refuses the password of "{0}"'),
    (r"no password supplied", "{where} asks for a password, and none is configured"),
    (r'database "([^"]*)" does not exist', '{where} has no database "{0}"'),
    (r'role "([^"]*)" does not exist', '{where} has no login "{0}"'),
    (r"[Cc]onnection refused|No such file or directory", "{where} is not running: nothing listens there"),
    (r"timeout expired|timed out", "{where} did not answer in time"),
    (
        r"(?:closed the connection|terminating connection|connection already closed)",
        "{where} ended the connection",
    ),
)
