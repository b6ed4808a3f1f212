"""Run numbers: 1, 2, 3 … per owner and name; a restart of run 2 is 2.1, 2.2 …

The counters are rows. A trigger takes a new run's number in one statement, whoever writes the run, so
concurrent creators wait for each other for the length of a transaction, and never collide. A run that brings
its number, or is renamed, moves the counters up to it.

Creators wait per owner, by a lock on the user's row, and not per counter: transactions that create runs of
two names in opposite orders would deadlock on the counters, and with a dozen of them at it, running the
victims again gets nowhere (seen: less than one transaction a second).
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db import errors
from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow

NO_SUCH_RUN = "PD004"

RUN_NUMBER = re.compile(r"([1-9][0-9]{0,8})(?:\.(0|[1-9][0-9]{0,8}))?", re.ASCII)


class RunCounter(Base):
    """The last number given to runs of a name (``run_number_major`` 0), or to restarts of one of them."""

    __tablename__ = "run_counter"
    tenant_column = "owner_id"

    # Deferred, because the counter of a new user's first run is written before that user's row.
    owner_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("platform.user_.id_", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    name: Mapped[str] = mapped_column(sa.Text)
    run_number_major: Mapped[int]
    last: Mapped[int]

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "name", "run_number_major"),
        # Room for HOT updates: every new run rewrites a counter.
        {"info": {STORAGE: f"fillfactor = 50, {REWRITTEN_OFTEN}"}},
    )


def split_run_number(run_number: str) -> tuple[int, int]:
    """Return the major and the minor number: ``split_run_number("2.10") == (2, 10)``.

    :raises errors.RunNumberError: it is not a run number.
    """
    match = RUN_NUMBER.fullmatch(run_number)
    if match is None:
        raise errors.RunNumberError(f"{run_number!r} is not a run number such as 2 or 2.1")
    return int(match[1]), int(match[2] or 0)


def format_run_number(major: int, minor: int) -> str:
    """Return ``"2"`` or ``"2.1"``."""
    return f"{major}.{minor}" if minor else str(major)


def take_run_number(session: Session, workflow: Workflow) -> None:
    """Give a run its number before it is written.

    :raises errors.RunNumberError: it restarts a run that has never been.
    """
    values = {
        "owner_id": str(workflow.owner_id),
        "name": workflow.name,
        "restart": bool(workflow.restart),
        "major": workflow.run_number_major,
    }
    taken = session.connection().execute(_TAKE, values).one()
    workflow.run_number_major, workflow.run_number_minor = taken


_TAKE = sa.text(
    """
    SELECT major, minor
    FROM platform.take_run_number(CAST(:owner_id AS uuid), :name, :restart, CAST(:major AS integer))
    """
)

RUN_NUMBER_FUNCTIONS = [
    # Neither this lock nor a run's foreign key to the user waits for the other.
    """\
CREATE FUNCTION platform.lock_run_counters(owner uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.user_ WHERE id_ = owner FOR NO KEY UPDATE;
END
$$;""",
    f"""\
CREATE FUNCTION platform.take_run_number(
    owner uuid, run_name text, is_restart boolean, INOUT major integer, OUT minor integer
) LANGUAGE plpgsql AS $$
DECLARE
    latest integer;
    taken integer;
BEGIN
    PERFORM platform.lock_run_counters(owner);
    IF is_restart THEN
        SELECT last INTO latest FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0;
        IF latest IS NULL OR major > latest THEN
            RAISE EXCEPTION USING
                ERRCODE = '{NO_SUCH_RUN}',
                MESSAGE = format('there is no run %sof %L to restart', major || ' ', run_name),
                SCHEMA = 'platform', TABLE = 'workflow';
        END IF;
        major := coalesce(major, latest);
    END IF;
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    VALUES (owner, run_name, CASE WHEN is_restart THEN major ELSE 0 END, 1)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
    RETURNING last INTO taken;
    IF is_restart THEN
        minor := taken;
    ELSE
        major := taken;
        minor := 0;
    END IF;
END
$$;""",
    # Counters only grow, so looking before locking is safe.
    """\
CREATE FUNCTION platform.note_run_number(owner uuid, run_name text, major integer, minor integer)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0 AND last >= major
    ) AND (minor = 0 OR EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = major AND last >= minor
    )) THEN
        RETURN;
    END IF;
    PERFORM platform.lock_run_counters(owner);
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    SELECT owner, run_name, given.major, given.last
    FROM (VALUES (0, major), (major, minor)) AS given (major, last)
    WHERE given.last > 0
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = greatest(counter.last, excluded.last);
END
$$;""",
    """\
CREATE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.run_number_minor IS NULL
        AND (NEW.restart OR NEW.run_number_major IS NULL)
    THEN
        SELECT major, minor INTO NEW.run_number_major, NEW.run_number_minor
        FROM platform.take_run_number(NEW.owner_id, NEW.name, NEW.restart, NEW.run_number_major);
    ELSE
        NEW.run_number_minor := coalesce(NEW.run_number_minor, 0);
        PERFORM platform.note_run_number(
            NEW.owner_id, NEW.name, NEW.run_number_major, NEW.run_number_minor);
    END IF;
    RETURN NEW;
END
$$;""",
    """\
CREATE TRIGGER number_new_run BEFORE INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.owner_id IS NOT NULL AND NEW.name IS NOT NULL)
    EXECUTE FUNCTION platform.number_run();""",
    """\
CREATE TRIGGER number_renamed_run
    BEFORE UPDATE OF name, run_number_major, run_number_minor ON platform.workflow
    FOR EACH ROW WHEN (
        NEW.name IS NOT NULL AND NEW.run_number_major IS NOT NULL
        AND (OLD.name, OLD.run_number_major, OLD.run_number_minor)
            IS DISTINCT FROM (NEW.name, NEW.run_number_major, NEW.run_number_minor))
    EXECUTE FUNCTION platform.number_run();""",
]
