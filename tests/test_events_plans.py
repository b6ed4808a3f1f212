"""Watchers read their pages off indexes, however long the history is."""

from __future__ import annotations

import re
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db.events import read_events, watch
from platform_db.lifecycle import transition
from platform_db.models import Workflow
from tests.factories import make_run, make_user
from tests.test_plans import plans_of, wait_for_earlier_transactions

# By the transactions of a server that is as old as its history.
CHANGES = """
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, from_status, to_status, number, at, transaction_id)
    SELECT :owner, md5((n % 50000)::text)::uuid, n / 50000 + 1, 'workflow', 'queued', 'pending', n,
           now() - make_interval(secs => :count - n), 3
    FROM generate_series(1, :count) AS n
"""
OTHERS = """
    INSERT INTO platform.row_event
        (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
    SELECT :count + n, :owner, 'workflow', md5(n::text)::uuid, 'created', 'created', 0, now(), 3
    FROM generate_series(1, :count / 20) AS n;
    SELECT setval('platform.history_number', :count + :count / 20)
"""


@pytest.fixture(params=[50_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def entries(request: pytest.FixtureRequest, session: Session) -> int:
    """Fill the history with so many entries."""
    owner = make_user(session)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    parameters = {"owner": owner.id_, "count": request.param}
    session.execute(sa.text(CHANGES), parameters)
    session.execute(sa.text(OTHERS), parameters)
    session.commit()
    session.execute(sa.text("ANALYZE platform.status_change, platform.row_event, platform.note"))
    session.commit()
    return request.param


def test_a_watcher_reads_on_from_a_number_off_an_index(session: Session, entries: int) -> None:
    for since in ("beginning", entries // 2, "latest"):
        plan = plans_of(session, lambda since=since: read_events(session, since))
        assert "Index Scan using ix_status_change_number" in plan
        assert not re.search(r"Seq Scan on (status_change|row_event)", plan)
        assert "Merge Append" in plan or since == "latest"


def test_late_events_are_found_by_their_transactions_alone(
    session: Session, session_factory: sessionmaker[Session], entries: int
) -> None:
    run = make_run(session, make_user(session))
    wait_for_earlier_transactions(session)
    with session_factory() as slow:
        transition(slow, run.id_, "queued", model=Workflow)
        cursor = read_events(session, "latest").cursor
        session.commit()
        slow.commit()
    plan = plans_of(session, lambda: read_events(session, cursor))
    assert "ix_status_change_transaction_id" in plan
    assert not re.search(r"Seq Scan on (status_change|row_event)", plan)
    began = time.perf_counter()
    assert [event.after for event in read_events(session, cursor).events] == ["queued"]
    assert time.perf_counter() - began < 0.5


def test_a_watcher_that_wants_nothing_of_it_passes_a_history_once(
    session: Session, session_factory: sessionmaker[Session], entries: int
) -> None:
    owner = make_user(session)
    assert list(watch(session_factory, name="mailer", owners=[owner], wait=0)) == []
    plan = plans_of(session, lambda: list(watch(session_factory, name="mailer", owners=[owner], wait=0)))
    assert not re.search(r"Seq Scan on (status_change|row_event)", plan)
