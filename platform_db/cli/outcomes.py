"""Storing how a job ended, for metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from platform_db import errors
from platform_db.cli.errors import as_failure

logger = logging.getLogger(__name__)

# The job did not begin, or there is no database to store it in.
NOT_BEGUN = frozenset(
    kind.exit_code
    for kind in (
        errors.WrongUsage,
        errors.InvalidSetting,
        errors.Unreachable,
        errors.NeverMigrated,
        errors.SchemaBehind,
        errors.SchemaAhead,
        errors.AlreadyRunning,
        errors.EmbeddedError,
    )
)

_DRIFT = "platform_db.drift"


@contextmanager
def recorded(ctx: click.Context) -> Iterator[None]:
    """Run a command, and store how it ended and how long that took. What a signal ended has not ended."""
    began = time.monotonic()
    try:
        yield
    except (click.Abort, click.ClickException, BrokenPipeError):
        raise
    except click.exceptions.Exit as ending:
        _record(ctx, ending.exit_code, began)
        raise
    except Exception as error:
        failure = as_failure(error)
        _record(ctx, 1 if failure is None else failure.exit_code, began)
        raise
    _record(ctx, 0, began)


def note_drift(drift: Mapping[str, int]) -> None:
    """Store with the outcome of this command how many users' totals were wrong, by resource."""
    click.get_current_context().meta[_DRIFT] = drift


def _record(ctx: click.Context, exit_code: int, began: float) -> None:
    """Store the outcome; where that fails, the log says so, and the job's own end stands."""
    if exit_code in NOT_BEGUN:
        return
    from sqlalchemy.exc import SQLAlchemyError

    from platform_db import sessions
    from platform_db.database.driver_errors import reason_of
    from platform_db.leases.outcomes import record_outcome
    from platform_db.quota.scope import parse_shard

    name = ctx.command_path.partition(" ")[2]
    index, shards = parse_shard(ctx.params["shard"]) if ctx.params.get("shard") else (1, 1)
    try:
        with sessions.session_scope() as session:
            record_outcome(
                session,
                name,
                exit_code,
                time.monotonic() - began,
                shard=(index or shards, shards),
                drift=ctx.meta.get(_DRIFT),
            )
    except (errors.PlatformDBError, SQLAlchemyError) as error:
        logger.warning("how %s ended was not stored for metrics: %s", name, reason_of(error))
