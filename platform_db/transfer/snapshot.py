"""A snapshot of another system's PostgreSQL database, and what the transactions of an import are set to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from platform_db import database, errors
from platform_db.database import sqlstates
from platform_db.database.driver_errors import own_connection_errors, own_driver_errors, reason_of

SETTINGS = (
    "statement_timeout = 0",
    "idle_in_transaction_session_timeout = 0",
    "jit = off",
    "cursor_tuple_fraction = 1",
    "timezone = 'UTC'",
    "datestyle = 'ISO'",
    "intervalstyle = 'postgres'",
    "extra_float_digits = 1",
    "bytea_output = 'hex'",
    "standard_conforming_strings = on",
)
"""What the transactions on both sides are set to: a pass may last, and digests are compared as text.

Compiling the mapping's expressions takes longer than to evaluate them for a page.
"""

# The plans of triggers and foreign keys are kept: made while a table is empty, they would read all of it for
# each row.
TARGET_SETTINGS = (*SETTINGS, "enable_seqscan = off")


@contextlib.contextmanager
def read_only(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection in a read-only transaction, all of whose statements see the same rows.

    :raises errors.Unreachable: the database cannot be reached.
    """
    with own_connection_errors():
        connection = engine.connect()
    with connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            for setting in SETTINGS:
                connection.exec_driver_sql(f"SET LOCAL {setting}")
            yield connection


@contextlib.contextmanager
def open_snapshot(uri: str, name: str) -> Iterator[sa.Connection]:
    """Give such a connection to the source at a URL.

    :param name: what errors call the source.
    :raises errors.Unreachable: the source cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        with reading(name):
            connection = stack.enter_context(read_only(database.create_engine(uri, poolclass=NullPool)))
        yield connection


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Say of what goes wrong while the source is read that it is the source's, and not the target's.

    :param name: what errors call the source.
    :raises errors.Unreachable: the source cannot be read, or its server is gone.
    """
    try:
        with own_driver_errors():
            yield
    except errors.Unreachable as error:
        hint = "start that server, or correct --from and its password; then run this again: it does the rest"
        raise errors.Unreachable(f"{name}: {error}", hint=hint) from None
    except sa.exc.DBAPIError as error:
        hint = "its login needs SELECT on all of its tables; where some are missing, restore them"
        if (sqlstates.sqlstate_of(error) or "").startswith(sqlstates.DATA_EXCEPTION_CLASS):
            hint = "where it has text that is not UTF-8, dump it, and restore it into a database of UTF-8"
        raise errors.Unreachable(f"{name} cannot be read: {reason_of(error)}", hint=hint) from None
