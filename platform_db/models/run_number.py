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
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from platform_db import errors
from platform_db.models.base import STORAGE, Base
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
        {"info": {STORAGE: "fillfactor = 50"}},
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
    """Give each of the runs its number: all new ones in one statement, all restarts in another.

    :raises errors.RunNumberError: one restarts a run that has never been.
    """
    new: Groups = defaultdict(list)
    restarts: Groups = defaultdict(list)
    restarts_of_latest: Groups = defaultdict(list)
    for workflow in workflows:
        if workflow.run_number_major is not None:
            _note_given_number(session, workflow)
        elif not workflow.restart:
            new[workflow.owner_id, workflow.name, 0].append(workflow)
        elif workflow.restarted_run_number is None:
            restarts_of_latest[workflow.owner_id, workflow.name, 0].append(workflow)
        else:
            major, _ = split_run_number(workflow.restarted_run_number)
            restarts[workflow.owner_id, workflow.name, major].append(workflow)

    for group, _, last in _take(session, _TAKE_MAJORS, new):
        for number, workflow in enumerate(group, start=last - len(group) + 1):
            workflow.run_number_major, workflow.run_number_minor = number, 0
    for groups in (restarts, restarts_of_latest):
        for group, major, last in _take(session, _TAKE_MINORS, groups):
            for number, workflow in enumerate(group, start=last - len(group) + 1):
                workflow.run_number_major, workflow.run_number_minor = major, number


# Runs that take their numbers from one counter, by owner, name and the major number asked for (0 for none).
Groups = dict[tuple[uuid.UUID, str, int], list["Workflow"]]


def _take(
    session: Session, statement: sa.TextClause, groups: Groups
) -> Iterator[tuple[list[Workflow], int, int]]:
    """Advance a counter per group by the group's size; yield each group with its major and last number."""
    if not groups:
        return
    keys = list(groups)
    rows = session.connection().execute(
        statement,
        {
            "owner_ids": [str(owner_id) for owner_id, _, _ in keys],
            "names": [name for _, name, _ in keys],
            "majors": [major for _, _, major in keys],
            "amounts": [len(groups[key]) for key in keys],
        },
    )
    taken = {(str(row.owner_id), row.name, row.run_number_major): row.last for row in rows}
    majors = {key[:2]: key[2] for key in taken}
    for owner_id, name, major in keys:
        found = major or majors.get((str(owner_id), name), 0) if statement is _TAKE_MINORS else 0
        last = taken.get((str(owner_id), name, found))
        if last is None:
            run = f"run {major} of {name!r}" if major else f"run of {name!r}"
            raise errors.RunNumberError(f"there is no {run} to restart")
        yield groups[owner_id, name, major], found, last


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


# What is asked for, once its owners are locked, in their order, until the transaction ends.
_ASKED = """
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:owner_ids AS uuid[]), CAST(:names AS text[]), CAST(:majors AS integer[]),
                             CAST(:amounts AS integer[])) AS g (owner_id, name, major, amount)
    ), locked AS MATERIALIZED (
        SELECT count(pg_advisory_xact_lock(hashtextextended(owner_id::text, 0)))
        FROM (SELECT DISTINCT owner_id FROM asked ORDER BY owner_id) AS owners
    )
"""

_TAKE_MAJORS = sa.text(
    f"""
    {_ASKED}
    INSERT INTO {SCHEMA}.run_counter (owner_id, name, run_number_major, last)
    SELECT owner_id, name, major, amount
    FROM locked CROSS JOIN asked
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = run_counter.last + excluded.last
    RETURNING owner_id, name, run_number_major, last
    """
)

_TAKE_MINORS = sa.text(
    f"""
    {_ASKED}
    INSERT INTO {SCHEMA}.run_counter (owner_id, name, run_number_major, last)
    SELECT asked.owner_id, asked.name, coalesce(nullif(asked.major, 0), runs.last), asked.amount
    FROM locked CROSS JOIN asked
    JOIN {SCHEMA}.run_counter AS runs
      ON runs.owner_id = asked.owner_id AND runs.name = asked.name AND runs.run_number_major = 0
     AND asked.major <= runs.last
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = run_counter.last + excluded.last
    RETURNING owner_id, name, run_number_major, last
    """
)

_NOTE_GIVEN_NUMBER = sa.text(
    f"""
    WITH locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended(CAST(:owner_id AS uuid)::text, 0))
    )
    INSERT INTO {SCHEMA}.run_counter (owner_id, name, run_number_major, last)
    SELECT CAST(:owner_id AS uuid), :name, given.major, given.last
    FROM locked CROSS JOIN (VALUES (0, :major), (:major, :minor)) AS given (major, last)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE
        SET last = greatest(run_counter.last, excluded.last)
    """
)
