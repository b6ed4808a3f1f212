"""Run numbers: 1, 2, 3 … per owner and name; a restart of run 2 is 2.1, 2.2 …

The counters are rows. One statement takes the next numbers for any number of new runs, so concurrent
creators wait for each other for the length of a transaction, and never collide.

They wait per owner, by a transaction's advisory lock, and not per counter: transactions that create runs of
two names in opposite orders would deadlock on the counters, and with a dozen of them at it, running the
victims again gets nowhere (seen: less than one transaction a second).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db import errors
from platform_db.models.base import REWRITTEN_OFTEN, STORAGE, Base
from platform_db.types import SCHEMA

if TYPE_CHECKING:
    from platform_db.models.workflow import Workflow

RUN_NUMBER = re.compile(r"([1-9][0-9]{0,8})(?:\.(0|[1-9][0-9]{0,8}))?", re.ASCII)


class RunCounter(Base):
    """The last number given to runs of a name (``run_number_major`` 0), or to restarts of one of them."""

    __tablename__ = "run_counter"
    tenant_column = "owner_id"

    # Deferred, because the counter of a new user's first run is written before that user's row.
    owner_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey(f"{SCHEMA}.user_.id_", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
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


def assign_run_numbers(session: Session, workflows: Sequence[Workflow]) -> None:
    """Give each of the runs its number, in one statement for all of them.

    :raises errors.RunNumberError: one restarts a run that has never been.
    """
    groups: dict[tuple[uuid.UUID, str, int], list[Workflow]] = {}
    for workflow in workflows:
        if workflow.run_number_major is not None:
            _note_given_number(session, workflow)
        else:
            groups.setdefault((workflow.owner_id, workflow.name, _counter(workflow)), []).append(workflow)
    if not groups:
        return
    keys = sorted(groups)
    taken = session.connection().execute(
        _TAKE,
        {
            "owner_ids": [str(owner_id) for owner_id, _, _ in keys],
            "names": [name for _, name, _ in keys],
            "counters": [counter for _, _, counter in keys],
            "amounts": [len(groups[key]) for key in keys],
        },
    )
    for key, (major, last) in zip(keys, taken, strict=True):
        _, name, counter = key
        if last is None:
            run = f"run {counter} of {name!r}" if counter > 0 else f"run of {name!r}"
            raise errors.RunNumberError(f"there is no {run} to restart")
        for number, workflow in enumerate(groups[key], start=last - len(groups[key]) + 1):
            workflow.run_number_major, workflow.run_number_minor = (major, number) if major else (number, 0)


def _counter(workflow: Workflow) -> int:
    """Return what the run takes its number from: 0 new runs, -1 the latest run, else that run's restarts."""
    if not workflow.restart:
        return 0
    if workflow.restarted_run_number is None:
        return -1
    return split_run_number(workflow.restarted_run_number)[0]


def _note_given_number(session: Session, workflow: Workflow) -> None:
    """Move the counters up to the number that a run from elsewhere brings."""
    session.connection().execute(
        _NOTE_GIVEN_NUMBER,
        {
            "owner_id": str(workflow.owner_id),
            "name": workflow.name,
            "major": workflow.run_number_major,
            "minor": workflow.run_number_minor or 0,
        },
    )


_TAKE = sa.text(
    f"""
    SELECT taken.major, taken.last
    FROM unnest(CAST(:owner_ids AS uuid[]), CAST(:names AS text[]), CAST(:counters AS integer[]),
                CAST(:amounts AS integer[])) AS asked (owner_id, name, counter, amount)
    CROSS JOIN LATERAL {SCHEMA}.take_run_numbers(owner_id, name, counter, amount) AS taken
    """
)

_NOTE_GIVEN_NUMBER = sa.text(
    f"""
    WITH locked AS MATERIALIZED (SELECT {SCHEMA}.lock_run_counters(CAST(:owner_id AS uuid)))
    INSERT INTO {SCHEMA}.run_counter (owner_id, name, run_number_major, last)
    SELECT CAST(:owner_id AS uuid), :name, given.major, given.last
    FROM locked CROSS JOIN (VALUES (0, :major), (:major, :minor)) AS given (major, last)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE
        SET last = greatest(run_counter.last, excluded.last)
    """
)

RUN_NUMBER_FUNCTIONS = [
    f"""\
CREATE FUNCTION {SCHEMA}.lock_run_counters(owner uuid) RETURNS void LANGUAGE sql
    RETURN pg_advisory_xact_lock(hashtextextended(owner::text, 0));""",
    # In PL/pgSQL, which keeps the plans of its statements: planning them anew took longer than running them.
    f"""\
CREATE FUNCTION {SCHEMA}.take_run_numbers(
    owner uuid, run_name text, counter integer, amount integer, OUT major integer, OUT last integer
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM {SCHEMA}.lock_run_counters(owner);
    IF counter <> 0 THEN
        SELECT CASE WHEN counter < 0 THEN c.last ELSE counter END INTO take_run_numbers.major
        FROM {SCHEMA}.run_counter AS c
        WHERE c.owner_id = owner AND c.name = run_name AND c.run_number_major = 0 AND c.last >= counter;
        IF NOT FOUND THEN
            RETURN; -- That run has never been.
        END IF;
    END IF;
    INSERT INTO {SCHEMA}.run_counter AS c (owner_id, name, run_number_major, last)
    VALUES (owner, run_name, coalesce(take_run_numbers.major, 0), amount)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = c.last + excluded.last
    RETURNING c.last INTO take_run_numbers.last;
END
$$;""",
]
