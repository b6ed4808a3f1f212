"""History: one story of a run and its jobs, in pages that miss nothing."""

from __future__ import annotations

import base64
import json
import random
import threading
import uuid
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from importlib import import_module

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import database, errors
from platform_db.database.session import PlatformSession
from platform_db.lifecycle.history import add_note, history, whole_history
from platform_db.lifecycle.transitions import transition
from platform_db.models import Job, Note, RunStatus, StatusChange, Workflow
from platform_db.states import WORKFLOW
from tests.factories import make_run, make_user
from tests.processes import in_processes

LIFE = (RunStatus.queued, RunStatus.pending, RunStatus.running, RunStatus.finished)


def live(session: Session, run: Workflow) -> None:
    for status in LIFE:
        transition(session, run, status)
        session.commit()


def read_all(session: Session, run: Workflow, **options) -> tuple[list, list[int]]:
    """Read all pages until the last one."""
    entries, sizes, cursor = [], [], None
    while True:
        page = history(session, run, cursor=cursor, **options, limit=3)
        entries += page.rows
        sizes.append(len(page.rows))
        cursor = page.cursor
        if cursor is None:
            return entries, sizes


def test_changes_and_notes_of_a_run_and_its_jobs_come_in_the_order_of_time(session: Session) -> None:
    run = make_run(session, make_user(session))
    other = make_run(session, make_user(session))
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    transition(session, run, "queued", reason="a slot is free")
    add_note(session, run, "placement", "chose the small queue", {"queue": "small"})
    transition(session, job, "running")
    add_note(session, job, "node", "runs on n1")
    transition(session, other, "queued")
    session.commit()

    page = history(session, run)

    assert [(e.kind, e.entity, e.to_status or e.topic) for e in page.rows] == [
        ("status", "workflow", "queued"),
        ("note", "workflow", "placement"),
        ("status", "job", "running"),
        ("note", "job", "node"),
    ]
    assert (page.rows[0].reason, page.rows[1].details) == ("a slot is free", {"queue": "small"})
    assert [e.entity for e in history(session, run, level="workflow").rows] == ["workflow"] * 2
    assert [e.entity for e in history(session, run, level="job").rows] == ["job"] * 2
    for level in (None, "job"):
        assert [e.topic for e in history(session, job, level=level).rows] == [None, "node"]


def test_all_of_a_history_is_read_in_as_many_pages_as_it_takes(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(session, make_user(session))
    live(session, run)
    monkeypatch.setattr(import_module("platform_db.lifecycle.history"), "LARGEST_LIMIT", 3)
    entries = whole_history(session, run)
    assert [entry.to_status for entry in entries] == [status.value for status in LIFE]
    assert whole_history(session, run, since=entries[2].at) == entries[2:]
    assert whole_history(session, run, level="job") == []


def test_since_is_inclusive(session: Session) -> None:
    run = make_run(session, make_user(session))
    live(session, run)
    entries, _ = read_all(session, run)
    later, _ = read_all(session, run, since=entries[1].at)
    assert later == entries[1:]
    assert read_all(session, run, since=entries[1].at + timedelta(microseconds=1))[0] == entries[2:]


def test_since_is_inclusive_for_notes_too(session: Session) -> None:
    run = make_run(session, make_user(session))
    note = add_note(session, run, "topic", "message")
    session.commit()
    assert [entry.topic for entry in history(session, run, since=note.at).rows] == ["topic"]
    assert history(session, run, since=note.at + timedelta(microseconds=1)).rows == []


def test_a_cursor_lives_as_long_as_the_run(session: Session) -> None:
    run = make_run(session, make_user(session))
    page = history(session, run)
    assert (page.rows, bool(page.cursor)) == ([], True)
    transition(session, run, "queued")
    session.commit()
    page = history(session, run, cursor=page.cursor)
    assert [e.to_status for e in page.rows] == ["queued"]
    page = history(session, run, cursor=page.cursor)
    assert page.rows == []
    for status in LIFE[1:]:
        transition(session, run, status)
    page = history(session, run, cursor=page.cursor, limit=2)
    assert ([e.to_status for e in page.rows], bool(page.cursor)) == (["pending", "running"], True)
    page = history(session, run, cursor=page.cursor, limit=2)
    assert ([e.to_status for e in page.rows], page.cursor) == (["finished"], None)


def test_pages_are_full_and_hold_each_entry_once(session: Session) -> None:
    run = make_run(session, make_user(session))
    for number in range(20):
        add_note(session, run, "count", str(number))
    live(session, run)
    entries, sizes = read_all(session, run)
    assert sizes == [3] * 8 + [0]
    assert [e.message for e in entries[:20]] == [str(number) for number in range(20)]


def test_what_commits_behind_a_reader_is_not_missed(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    with session_factory() as slow:
        transition(slow, job.id_, "running", model=Job)
        add_note(slow, slow.get(Job, job.id_), "node", "slow")
        transition(session, run, "queued")
        session.commit()
        page = history(session, run)
        assert [e.to_status for e in page.rows] == ["queued"]
        session.commit()
        page = history(session, run, cursor=page.cursor)
        assert page.rows == []
        slow.commit()
    session.commit()
    page = history(session, run, cursor=page.cursor)
    assert [e.to_status or e.message for e in page.rows] == ["running", "slow"]
    for _ in range(3):
        session.commit()
        page = history(session, run, cursor=page.cursor)
        assert page.rows == []


def test_a_note_of_a_long_transaction_that_snapshots_do_not_show_is_not_missed(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    run_id, owner_id = run.id_, run.owner_id
    with session_factory() as slow:
        # The reader's transaction has a number before the slow one: when it ends, no greater one has ended.
        session.execute(sa.text("SELECT pg_current_xact_id()"))
        long_ago = datetime.now(timezone.utc) - timedelta(hours=10)
        note = {"owner_id": owner_id, "entity": "workflow", "entity_id": run_id, "topic": "slow"}
        slow.add(Note(**note, message="slow", at=long_ago))
        slow.flush()
        add_note(session, run, "quick", "quick")
        session.commit()
        cursor = history(session, run).cursor
        for _ in range(2):
            session.commit()
            cursor = history(session, run, cursor=cursor).cursor
        session.commit()
        slow.commit()
    page = history(session, run, cursor=cursor)
    assert [entry.message for entry in page.rows] == ["slow"]
    session.commit()
    assert history(session, run, cursor=page.cursor).rows == []


def test_what_was_restored_from_another_server_comes_once(session: Session) -> None:
    run = make_run(session, make_user(session))
    for number in range(5):
        add_note(session, run, "restored", str(number))
    session.execute(sa.text("UPDATE platform.note SET transaction_id = 1::bigint << 40"))
    live(session, run)
    entries, sizes = read_all(session, run)
    assert [entry.message for entry in entries[:5]] == [str(number) for number in range(5)]
    assert sizes == [3, 3, 3, 0]


def test_old_entries_do_not_come_again_when_transactions_reach_the_numbers_of_another_server(
    session: Session,
) -> None:
    run = make_run(session, make_user(session))
    add_note(session, run, "restored", "long ago")
    session.execute(
        sa.text(
            "UPDATE platform.note SET at = at - interval '2 days',"
            " transaction_id = pg_current_xact_id()::text::bigint + 5"
        )
    )
    session.commit()
    page = history(session, run)
    assert [entry.message for entry in page.rows] == ["long ago"]
    for _ in range(10):
        session.commit()
        session.execute(sa.text("SELECT pg_current_xact_id()"))
    session.commit()
    assert history(session, run, cursor=page.cursor).rows == []


def test_entries_of_the_same_instant_come_once_each(session: Session) -> None:
    run = make_run(session, make_user(session))
    jobs = [Job(workflow_id=run.id_) for _ in range(3)]
    session.add_all(jobs)
    session.commit()
    for job in jobs:
        transition(session, job, "queued")
        transition(session, job, "running")
        add_note(session, job, "a", "b")
        add_note(session, job, "a", "b")
    for table in ("status_change", "note"):
        session.execute(sa.text(f"UPDATE platform.{table} SET at = now()"))
    session.commit()
    entries, cursor = [], None
    for _ in range(13):
        page = history(session, run, cursor=cursor, limit=1)
        entries += page.rows
        cursor = page.cursor
        session.commit()
    changes = [(entry.entity_id, entry.revision) for entry in entries if entry.kind == "status"]
    notes = [entry.entity_id for entry in entries if entry.kind == "note"]
    assert changes == sorted((job.id_, revision) for job in jobs for revision in (1, 2))
    assert notes == sorted(job.id_ for job in jobs for _ in range(2))


def test_what_the_reader_itself_writes_comes_once(session: Session) -> None:
    run = make_run(session, make_user(session))
    add_note(session, run, "own", "1")
    page = history(session, run)
    add_note(session, run, "own", "2")
    page = history(session, run, cursor=page.cursor)
    assert [e.message for e in page.rows] == ["2"]
    session.commit()
    assert history(session, run, cursor=page.cursor).rows == []


def test_readers_see_each_entry_once_while_others_write(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    run = make_run(session, make_user(session))
    run_id = run.id_  # A commit of this session would have the threads load it there.
    written: list[str] = []

    def write(number: int) -> None:
        chance = random.Random(number)
        with session_factory() as other:
            mine = other.get(Workflow, run_id)
            for turn in range(30):
                for part in range(chance.randint(1, 3)):
                    message = f"{number}.{turn}.{part}"
                    add_note(other, mine, "turn", message)
                    written.append(message)
                    other.execute(sa.text("SELECT pg_sleep(:s)"), {"s": chance.random() / 200})
                other.commit()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    seen, cursor = [], None
    while True:
        alive = any(thread.is_alive() for thread in threads)
        page = history(session, run, cursor=cursor, limit=7)
        session.commit()
        seen += [entry.message for entry in page.rows]
        cursor = page.cursor
        if not alive and not page.rows:
            break
    assert sorted(seen) == sorted(written)


@pytest.mark.parametrize("cursor", ["", "nonsense", "W10", "é", "WyJoaXN0b3J5Il0"])
def test_a_cursor_from_elsewhere_is_refused(session: Session, cursor: str) -> None:
    run = make_run(session, make_user(session))
    with pytest.raises(errors.InvalidIdentifier):
        history(session, run, cursor=cursor)


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_cursor_with_a_time_that_no_server_has_is_refused(session: Session, year: str) -> None:
    run = make_run(session, make_user(session))
    add_note(session, run, "topic", "message")
    genuine = history(session, run, limit=1).cursor
    content = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    content[-1] = f"{year}-01-01T00:00:00+00:00"
    forged = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    with pytest.raises(errors.InvalidIdentifier):
        history(session, run, cursor=forged)


def test_what_has_no_status_has_no_history(session: Session) -> None:
    user = make_user(session)
    for look in (history, lambda session, row: add_note(session, row, "topic", "message")):
        with pytest.raises(errors.InvalidArgument, match="takes no User, only a workflow or"):
            look(session, user)  # type: ignore[arg-type]


def test_a_cursor_of_another_run_is_refused(session: Session) -> None:
    owner = make_user(session)
    cursor = history(session, make_run(session, owner)).cursor
    with pytest.raises(errors.InvalidIdentifier, match="no such cursor"):
        history(session, make_run(session, owner), cursor=cursor)


def test_notes_keep_what_text_cannot_hold_readable(session: Session) -> None:
    run = make_run(session, make_user(session))
    add_note(session, run, "output", "a\0b\udc80c")
    session.commit()
    assert history(session, run).rows[0].message == "a\\x00b\\udc80c"


def make_moves(uri: str, owner: str, moves: int, number: int) -> None:
    """Ask for random statuses of random runs of this owner, legal or not."""
    chance = random.Random(number)
    engine = database.create_engine(uri)
    with PlatformSession(engine) as session:
        ids = session.scalars(sa.select(Workflow.id_).where(Workflow.owner_id == uuid.UUID(owner))).all()
        for _ in range(moves):
            wanted = chance.choice(list(RunStatus))
            transition(
                session, chance.choice(ids), wanted, model=Workflow, reason=str(number), on_conflict="report"
            )
            session.commit()
    engine.dispose()


@pytest.mark.parametrize(
    ("processes", "runs", "moves"),
    [(8, 20, 1000), pytest.param(32, 200, 20_000, marks=pytest.mark.soak)],
)
def test_status_revision_and_history_tell_one_story(
    session: Session, database_uri: str, processes: int, runs: int, moves: int
) -> None:
    owner = make_user(session)
    ids = [make_run(session, owner, name=f"run-{n}").id_ for n in range(runs)]

    in_processes(processes, make_moves, database_uri, str(owner.id_), moves // processes)

    session.expire_all()
    stories = defaultdict(list)
    for change in session.scalars(sa.select(StatusChange).order_by(StatusChange.revision)):
        stories[change.entity_id].append(change)
    assert sum(map(len, stories.values())) > runs
    for run in session.scalars(sa.select(Workflow)):
        story = stories[run.id_]
        assert [change.revision for change in story] == list(range(1, run.revision + 1))
        status = RunStatus.created
        for change in story:
            assert change.from_status == status
            assert WORKFLOW.allows(status, RunStatus(change.to_status))
            status = RunStatus(change.to_status)
        assert status is run.status
        assert [change.at for change in story] == sorted(change.at for change in story)
    assert len(ids) == runs


def test_since_may_be_in_any_time_zone(session: Session) -> None:
    run = make_run(session, make_user(session))
    add_note(session, run, "a", "b")
    east = timezone(timedelta(hours=5))
    assert history(session, run, since=datetime.now(east) - timedelta(minutes=1)).rows
    assert not history(session, run, since=datetime.now(east) + timedelta(minutes=1)).rows
