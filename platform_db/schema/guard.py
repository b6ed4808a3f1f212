"""The guard: triggers, generated from :mod:`platform_db.states`, that every status change meets.

Python, bulk SQL and psql all write through them:

* ``guard_<table>_status()`` runs before a row is written. It refuses a status that may not follow the
  stored one (SQLSTATE ``PD001``), stamps and clears the times, and counts ``revision`` up by one.
* ``record_<table>_status()`` runs after it and writes the row's ``status_change``.
* ``forget_<table>()`` runs after rows are deleted, by whomever, and deletes what speaks of them by their id
  alone: their status changes, notes and leases. As their owner: tenants may delete a run of theirs, but no
  history.

A change to the same status runs neither. Times come from ``clock_timestamp()``, not ``now()``: a row's
changes happen one after another under its lock, in transactions that may have begun in another order.

Settings of the transaction that the triggers read:

* ``platform.actor`` and ``platform.reason``: who and why, for ``status_change``.
* ``platform.statement_reason``: the same for one statement, as its ``statement_timestamp()``, a space and
  the reason. It wins over ``platform.reason`` and says nothing to any later statement.
* ``platform.guard``: ``override``, a space and the transaction's id lets through what would be refused, and
  marks it, where there is a ``platform.reason``. So an override cannot outlive its transaction, nor go
  without a word.
"""

from __future__ import annotations

from typing import NamedTuple

from platform_db.models.policies import tenant_columns
from platform_db.states import MACHINES, Machine, Status

# What speaks of any row by its id, without a foreign key.
SPEAKING_OF_ANY = ("lease", "note", "status_change")

INVALID_TRANSITION = "PD001"
REFUSED = "PD003"


class Stamps(NamedTuple):
    """The times that the guard keeps beside a status, and the statements that do it."""

    columns: tuple[str, ...] = ()
    statements: str = ""


_RUN_STAMPS = Stamps(
    ("run_started_at", "run_finished_at", "run_stopped_at"),
    """
    IF NEW.status = 'running' THEN
        IF TG_OP = 'INSERT' THEN
            NEW.run_started_at := coalesce(NEW.run_started_at, clock_timestamp());
        ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
            NEW.run_started_at := clock_timestamp();
        END IF;
        NEW.run_finished_at := NULL;
        NEW.run_stopped_at := NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        NEW.run_finished_at := coalesce(NEW.run_finished_at, clock_timestamp());
    ELSIF NEW.status = 'stopped' THEN
        NEW.run_stopped_at := coalesce(NEW.run_stopped_at, clock_timestamp());
    END IF;""",
)

_JOB_STAMPS = Stamps(
    ("started_at", "finished_at"),
    """
    IF NEW.status = 'running' THEN
        NEW.started_at := coalesce(NEW.started_at, clock_timestamp());
    ELSIF NEW.status IN ('finished', 'failed', 'stopped') THEN
        NEW.finished_at := coalesce(NEW.finished_at, clock_timestamp());
    END IF;""",
)

STAMPS = {
    "workflow": _RUN_STAMPS,
    "interactive_session": _RUN_STAMPS,
    "service": _RUN_STAMPS,
    "job": _JOB_STAMPS,
    "user_token": Stamps(),
    "workspace_retention_rule": Stamps(),
}

_IS_OVERRIDDEN = """\
CREATE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '')
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';"""

_KEEP_IDENTITY = f"""\
CREATE FUNCTION platform.keep_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = '{REFUSED}',
        MESSAGE = format('%s %s keeps its id and its owner', TG_TABLE_NAME, OLD.id_),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END
$$;"""


def guard_statements() -> list[str]:
    """Return the statements that create the guard of every status column."""
    return [
        _IS_OVERRIDDEN,
        _KEEP_IDENTITY,
        *(statement for machine in MACHINES.values() for statement in _guard(machine)),
        *(statement for table in MACHINES for statement in _forget(table)),
    ]


def _names(statuses: frozenset[Status], machine: Machine[Status]) -> str:
    """Return the statuses as SQL literals, in the enumeration's order."""
    return ", ".join(f"'{status.value}'" for status in machine.statuses if status in statuses)


def _guard(machine: Machine[Status]) -> list[str]:
    table = machine.entity
    owner = tenant_columns()[table]
    rules = "\n".join(
        f"            WHEN '{status.value}' THEN NEW.status IN ({_names(following, machine)})"
        for status, following in machine.transitions.items()
        if following
    )
    return [
        f"""\
CREATE FUNCTION platform.guard_{table}_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
{rules}
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = '{INVALID_TRANSITION}',
                MESSAGE = format('{table} %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = '{table}', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;{STAMPS[table].statements}
    RETURN NEW;
END
$$;""",
        f"""\
CREATE FUNCTION platform.record_{table}_status() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change_reason text := nullif(current_setting('platform.reason', true), '');
    statement_reason text := nullif(current_setting('platform.statement_reason', true), '');
    this_statement text;
BEGIN
    IF statement_reason IS NOT NULL THEN
        this_statement := statement_timestamp()::text || ' ';
        IF starts_with(statement_reason, this_statement) THEN
            change_reason := substr(statement_reason, length(this_statement) + 1);
        END IF;
    END IF;
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.{owner}, NEW.id_, NEW.revision, '{table}', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;""",
        f"""\
CREATE TRIGGER guard_{table}_insert BEFORE INSERT ON platform.{table}
    FOR EACH ROW EXECUTE FUNCTION platform.guard_{table}_status();""",
        f"""\
CREATE TRIGGER guard_{table}_update BEFORE UPDATE OF status, revision ON platform.{table}
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_{table}_status();""",
        f"""\
CREATE TRIGGER guard_{table}_identity BEFORE UPDATE OF {owner}, id_ ON platform.{table}
    FOR EACH ROW WHEN (OLD.{owner} <> NEW.{owner} OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();""",
        f"""\
CREATE TRIGGER record_{table}_status AFTER UPDATE OF status ON platform.{table}
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_{table}_status();""",
    ]


def _forget(table: str) -> list[str]:
    owner = tenant_columns()[table]
    deletions = "\n".join(
        f"""\
    DELETE FROM platform.{speaking} AS gone USING deleted
    WHERE gone.owner_id = deleted.{owner} AND gone.entity_id = deleted.id_ AND gone.entity = '{table}';"""
        for speaking in SPEAKING_OF_ANY
    )
    return [
        f"""\
CREATE FUNCTION platform.forget_{table}() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM deleted) THEN
        RETURN NULL; -- A cascade runs for each parent, also for one without children.
    END IF;
{deletions}
    RETURN NULL;
END
$$;""",
        f"""\
CREATE TRIGGER forget_{table} AFTER DELETE ON platform.{table}
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget_{table}();""",
    ]
