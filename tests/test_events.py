"""Events: what happens to rows comes to each watcher, in order and without a gap."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, events
from platform_db.events import Event, consume, forget, read_events, wake, watch, watchers
from platform_db.events import reading as reading_module
from platform_db.events import waking as waking_module
from platform_db.lifecycle import add_note, set_actor, transition
from platform_db.models import EventCheckpoint, EventFailure, Job, User, Workflow
from platform_db.tenancy.privileges import Role
from platform_db.users import delete_user
from tests.factories import make_run, make_user
from tests.tenants import login_engine, prepare_roles

Factory = sessionmaker[Session]


def told(found: Iterator[Event] | list[Event]) -> list[tuple[str, str, str | None, str | None]]:
    return [(event.kind, event.entity, event.before, event.after) for event in found]


def all_events(factory: Factory, **options) -> list[Event]:
    return list(watch(factory, wait=0, **options))


def test_a_watcher_hears_what_becomes_of_a_run(session: Session, session_factory: Factory) -> None:
    run = make_run(session, make_user(session))
    owner_id, run_id = run.owner_id, run.id_
    set_actor(session, "scheduler")
    transition(session, run, "queued", reason="a slot is free")
    add_note(session, run, "placement", "chose the small queue", {"queue": "small"})
    session.commit()
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    job.phase = "bid accepted"
    session.commit()
    session.delete(run)
    session.commit()

    found = all_events(session_factory)

    # The history of a row goes with it. What is left are its creation and its deletion.
    assert told(found) == [
        ("created", "workflow", None, "created"),
        ("created", "job", None, "created"),
        ("deleted", "workflow", "queued", None),
        ("deleted", "job", "created", None),
    ]
    assert {event.owner_id for event in found} == {owner_id}
    assert [event.entity_id for event in found if event.entity == "workflow"] == [run_id] * 2


def test_an_event_says_what_its_entry_says(session: Session, session_factory: Factory) -> None:
    run = make_run(session, make_user(session))
    set_actor(session, "scheduler")
    transition(session, run, "queued", reason="a slot is free")
    add_note(session, run, "placement", "chose the small queue", {"queue": "small"})
    session.commit()

    created, changed, noted = all_events(session_factory)

    assert (created.kind, created.before, created.after, created.revision) == ("created", None, "created", 0)
    assert (changed.kind, changed.before, changed.after, changed.revision) == (
        "status",
        "created",
        "queued",
        1,
    )
    assert (changed.actor, changed.reason) == ("scheduler", "a slot is free")
    assert (noted.kind, noted.topic, noted.message) == ("note", "placement", "chose the small queue")
    assert noted.details == {"queue": "small"}
    assert created.number < changed.number < noted.number
    assert json.loads(json.dumps(noted.as_dict()))["entity_id"] == str(run.id_)


def test_the_phase_of_a_job_is_told_as_a_note(session: Session, session_factory: Factory) -> None:
    job = Job(workflow_id=make_run(session, make_user(session)).id_)
    session.add(job)
    session.commit()
    job.phase = "bid accepted"
    session.commit()
    (event,) = all_events(session_factory, kinds=["note"])
    assert (event.entity, event.topic, event.message) == ("job", "phase", "bid accepted")


def test_filters_hold_before_the_page(session: Session, session_factory: Factory) -> None:
    ada, grace = make_user(session), make_user(session)
    for _ in range(3):
        make_run(session, ada)
    run = make_run(session, grace)
    transition(session, run, "queued")
    session.add(Job(workflow_id=run.id_))
    session.commit()

    page = read_events(session, owners=[grace], limit=2)
    assert told(page.events) == [
        ("created", "workflow", None, "created"),
        ("status", "workflow", "created", "queued"),
    ]
    rest = read_events(session, page.cursor, owners=[grace], limit=2)
    assert (told(rest.events), rest.drained) == ([("created", "job", None, "created")], True)
    assert len(all_events(session_factory, kinds=["created"], entities=["workflow"])) == 4
    assert all_events(session_factory, owners=[]) == []
    with pytest.raises(errors.InvalidArgument, match="kind changed; choose from created"):
        watch(session_factory, kinds=["changed"])
    with pytest.raises(errors.InvalidArgument, match="entity run; choose from"):
        watch(session_factory, entities=["run"])


def test_a_watcher_begins_where_it_is_told_to(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    make_run(session, owner, name="first")
    between = session.scalar(sa.text("SELECT clock_timestamp()"))
    second = make_run(session, owner, name="second").id_
    first, other = all_events(session_factory)

    def begins_with(since) -> list[int]:
        return [event.number for event in all_events(session_factory, since=since)]

    assert begins_with("beginning") == [first.number, other.number]
    assert begins_with(first.number) == [other.number]
    assert begins_with(between) == [other.number]
    assert begins_with("latest") == []
    assert begins_with(datetime.now(timezone.utc) + timedelta(days=1)) == []
    for since in (-1, 2**63, "yesterday", datetime(2020, 1, 1)):  # noqa: DTZ001 - that it has no zone is the point
        with pytest.raises(errors.WrongUsage):
            begins_with(since)
    assert [event.entity_id for event in all_events(session_factory, since=between)] == [second]


def test_what_is_beyond_the_last_event_is_the_last_event(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    make_run(session, owner)
    cursor = read_events(session, 10**12).cursor
    make_run(session, owner)
    assert len(read_events(session, cursor).events) == 1

    assert all_events(session_factory, name="mailer", since=10**12) == []
    session.execute(sa.update(EventCheckpoint).values(cursor=beyond(cursor)))
    session.commit()
    assert all_events(session_factory, name="mailer") == []
    make_run(session, owner)
    assert len(all_events(session_factory, name="mailer")) == 1


def beyond(cursor: str) -> str:
    version, digest, number, *rest = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    forged = json.dumps([version, digest, str(int(number) + 10**6), *rest])
    return base64.urlsafe_b64encode(forged.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (0, 2),
        (1, "AAAA"),
        (2, "-1"),
        (2, None),
        (3, "3:1:"),
        (3, "1:5:9"),
        (3, "1:5:2); DROP"),
        (4, "1e9"),
        (5, "yesterday"),
        (6, "x"),
        (7, "1:1"),
        (8, ""),
    ],
)
def test_a_forged_cursor_is_refused(session: Session, part: int, value: object) -> None:
    cursor = read_events(session).cursor
    parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    parts[part] = value
    forged = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")
    with pytest.raises(errors.InvalidIdentifier):
        read_events(session, forged)
    assert read_events(session, cursor).drained


def test_what_commits_late_comes_with_the_next_page_and_in_order(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    slow_run, quick_run = make_run(session, owner, name="slow"), make_run(session, owner, name="quick")
    page = read_events(session, "latest")
    slow_id = slow_run.id_
    with session_factory() as slow:
        for status in ("queued", "pending"):
            transition(slow, slow_id, status, model=Workflow)
        transition(session, quick_run, "queued")
        session.commit()
        page = read_events(session, page.cursor)
        assert [event.entity_id for event in page.events] == [quick_run.id_]
        session.commit()
        slow.commit()
    transition(session, slow_run, "running")
    session.commit()

    page = read_events(session, page.cursor)

    assert [(event.entity_id, event.after) for event in page.events] == [
        (slow_id, status) for status in ("queued", "pending", "running")
    ]
    session.commit()
    assert read_events(session, page.cursor).events == []


def test_a_reader_that_has_written_itself_misses_nothing_either(
    session: Session, session_factory: Factory
) -> None:
    owner_id, slow_owner = make_user(session).id_, make_user(session).id_
    page = read_events(session, "latest")
    session.commit()
    with session_factory() as slow:
        late = make_runs_in(slow, slow_owner, "late")
        make_runs_in(session, owner_id, "own")
        page = read_events(session, page.cursor)
        assert [event.owner_id for event in page.events] == [owner_id]
        session.commit()
        slow.commit()
    assert late in [event.entity_id for event in read_events(session, page.cursor).events]


def test_a_transaction_that_reads_on_for_long_misses_nothing(
    session: Session, session_factory: Factory
) -> None:
    owner_id, late_owner_id = make_user(session).id_, make_user(session).id_
    with session_factory() as reader, session_factory() as late:
        cursor = read_events(reader, "latest").cursor
        quick_id = make_runs_in(session, owner_id, "quick")
        session.commit()
        late_id = make_runs_in(late, late_owner_id, "late")
        page = read_events(reader, cursor)
        assert [event.entity_id for event in page.events] == [quick_id]
        late.commit()

        found = read_events(reader, page.cursor)

    assert [event.entity_id for event in found.events] == [late_id]


def test_very_many_late_events_come_in_parts(
    session: Session, session_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "LATE_AT_ONCE", 3)
    owner = make_user(session)
    with session_factory() as slow, session_factory() as later:
        first = [make_runs_in(slow, owner.id_, name) for name in "abcdefgh"]
        second = [make_runs_in(later, make_user(session).id_, name) for name in "ij"]
        cursor = read_events(session, "beginning", limit=2).cursor
        ahead = make_run(session, make_user(session), name="ahead").id_
        page = read_events(session, cursor, limit=2)
        assert [event.entity_id for event in page.events] == [ahead]
        session.commit()
        slow.commit()
        pages = [page := read_events(session, page.cursor, limit=2)]
        session.commit()
        later.commit()  # Behind the part that was read.
        last = make_run(session, make_user(session), name="last").id_
        while not page.drained:
            pages.append(page := read_events(session, page.cursor, limit=2))
            session.commit()
    assert [event.entity_id for page in pages for event in page.events] == [*first, *second, last]
    assert max(len(page.events) for page in pages) == 3


def make_runs_in(session: Session, owner_id, name: str):
    run = Workflow(owner_id=owner_id, name=name, type_="serial", specification={})
    session.add(run)
    session.flush()
    return run.id_


def test_no_transaction_is_open_while_the_caller_works(session: Session, session_factory: Factory) -> None:
    make_run(session, make_user(session))
    engine = session_factory.kw["bind"]
    session.close()
    for _ in watch(session_factory, name="mailer", wait=0):
        assert engine.pool.checkedout() == 0


def test_a_named_watcher_goes_on_where_it_was(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    make_run(session, owner)
    assert len(all_events(session_factory, name="mailer")) == 1
    make_run(session, owner)
    # What is stored counts more than where it would begin without.
    assert len(all_events(session_factory, name="mailer", since="beginning")) == 1
    assert len(all_events(session_factory, name="mailer", since="latest")) == 0
    assert len(all_events(session_factory, name="other")) == 2


def test_a_page_counts_as_seen_when_the_caller_asks_for_what_follows(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    for _ in range(5):
        make_run(session, owner)

    def take(count: int) -> list[int]:
        watching = watch(session_factory, name="mailer", limit=2, wait=0)
        found = [next(watching).number for _ in range(count)]
        watching.close()
        return found

    first, second = take(2), take(3)
    assert second[:2] == first  # The second one was cut off before it had asked for a third page.
    assert take(1) == second[2:]


def test_a_watcher_that_another_process_replaced_ends(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    for _ in range(3):
        make_run(session, owner)
    older = watch(session_factory, name="mailer", limit=1)
    next(older)
    newer = watch(session_factory, name="mailer", limit=1, wait=0)
    assert next(newer).number
    with pytest.raises(errors.Conflict, match="another process watches as 'mailer' now"):
        next(older)
    assert len(list(newer)) == 2


def test_a_watcher_that_was_forgotten_ends_and_the_next_one_begins_afresh(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    for _ in range(2):
        make_run(session, owner)
    watching = watch(session_factory, name="mailer", limit=1)
    next(watching)
    forget(session, "mailer")
    session.commit()
    with pytest.raises(errors.WatcherReplaced):
        next(watching)
    assert watchers(session) == []
    with pytest.raises(errors.NotFound, match="there is no watcher 'mailer'"):
        forget(session, "mailer")
    assert len(all_events(session_factory, name="mailer")) == 2


def test_a_watcher_that_was_forgotten_does_not_move_the_one_that_took_its_name(
    session: Session, session_factory: Factory
) -> None:
    make_run(session, make_user(session))
    session.commit()
    old = watch(session_factory, name="mailer", wait=0)
    next(old)
    forget(session, "mailer")
    session.commit()
    new = watch(session_factory, name="mailer", wait=0)
    next(new)

    with pytest.raises(errors.WatcherReplaced):
        list(old)

    assert list(new) == []


def test_a_watcher_that_was_forgotten_while_its_handler_fails_ends(
    session: Session, session_factory: Factory
) -> None:
    make_run(session, make_user(session))
    session.commit()

    def forget_and_fail(event: Event) -> None:
        with session_factory.begin() as other:
            forget(other, "mailer")
        raise ValueError("no address")

    with pytest.raises(errors.WatcherReplaced):
        consume(session_factory, "mailer", forget_and_fail, on_error="skip", attempts=1, wait=0)


def test_watchers_tell_how_far_they_are(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    all_events(session_factory, name="mailer", since="latest")
    make_run(session, owner)
    (watcher,) = watchers(session)
    assert (watcher.name, watcher.behind, watcher.failed, watcher.holds) == ("mailer", 1, 0, True)
    all_events(session_factory, name="mailer")
    session.commit()
    (watcher,) = watchers(session)
    assert watcher.behind == 0
    assert datetime.now(timezone.utc) - watcher.seen_at < timedelta(minutes=1)


def test_a_watcher_waits_for_events_and_ends_when_none_came(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    late = threading.Timer(0.3, make_run, (session, owner))
    late.start()
    began = time.monotonic()
    found = list(watch(session_factory, since="latest", wait=1.5))
    late.join()
    assert len(found) == 1
    assert 1.5 < time.monotonic() - began < 10


def test_a_watcher_that_listens_is_woken(
    session: Session, session_factory: Factory, database_uri: str
) -> None:
    owner = make_user(session)
    waking = threading.Thread(target=wake, args=(session_factory,), kwargs={"wait": 4})
    waking.start()
    heard = []

    def listen() -> None:
        for event in watch(session_factory, since="latest", wait=3, listen=database_uri):
            heard.append((datetime.now(timezone.utc) - event.at).total_seconds())

    listening = threading.Thread(target=listen)
    listening.start()
    for _ in range(2):
        time.sleep(1.3)  # By now it looks once a second.
        make_run(session, owner)
    listening.join()
    waking.join()
    assert len(heard) == 2
    assert max(heard) < 0.3  # Usually 0.05: this machine may be busy.


def test_the_waker_hears_of_a_transaction_that_begins_while_it_reads(
    session: Session, session_factory: Factory, database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(session, make_user(session))
    late, read_page = session_factory(), waking_module.read_page

    def read_and_let_another_begin(*given: Any, **named: Any) -> Any:
        page = read_page(*given, **named)
        if page.events and not late.in_transaction():
            add_note(late, session_factory().get_one(Workflow, (run.owner_id, run.id_)), "late", "it begins")
        return page

    monkeypatch.setattr(waking_module, "read_page", read_and_let_another_begin)
    waker = threading.Thread(target=wake, args=(session_factory,), kwargs={"wait": 3})
    with waking_module.listening(database_uri) as sleep:
        waker.start()
        time.sleep(0.3)
        add_note(session, run, "early", "it is committed")
        session.commit()
        assert sleep(3)
        assert not sleep(0.3)
        late.commit()
        assert sleep(2)
    waker.join()


def test_a_handler_that_fails_is_called_again(session: Session, session_factory: Factory) -> None:
    make_run(session, make_user(session))
    calls: list[Event] = []

    def handle(event: Event) -> None:
        calls.append(event)
        if len(calls) < 3:
            raise ValueError("not yet")

    assert consume(session_factory, "mailer", handle, wait=0) == (1, 0)
    assert len(calls) == 3
    assert consume(session_factory, "mailer", handle, wait=0) == (0, 0)


def test_a_handler_that_keeps_failing_ends_and_the_next_one_tries_again(
    session: Session, session_factory: Factory
) -> None:
    make_run(session, make_user(session))

    def handle(event: Event) -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            consume(session_factory, "mailer", handle, attempts=2, wait=0)
    assert session.scalars(sa.select(EventFailure)).all() == []


def test_what_a_handler_fails_on_may_be_skipped_and_is_stored(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    bad, good = make_run(session, owner), make_run(session, owner)
    secret = "pdb_a" + "0" * 49

    def handle(event: Event) -> None:
        if event.entity_id == bad.id_:
            raise ValueError(f"\0 {secret} is no e-mail address")

    assert consume(session_factory, "mailer", handle, on_error="skip", attempts=2, wait=0) == (1, 1)
    (failure,) = session.scalars(sa.select(EventFailure))
    assert failure.event["entity_id"] == str(bad.id_)
    assert (failure.attempts, failure.name) == (2, "mailer")
    assert failure.error.startswith("ValueError: ")
    assert secret not in failure.error
    assert [watcher.failed for watcher in watchers(session)] == [1]
    assert good.id_
    with pytest.raises(errors.InvalidArgument, match="on_error is retry or skip"):
        consume(session_factory, "mailer", handle, on_error="stop")  # type: ignore[arg-type]
    forget(session, "mailer")
    session.commit()
    assert session.scalars(sa.select(EventFailure)).all() == []


def test_a_tenant_hears_of_its_own_rows_alone(session: Session, as_tenant) -> None:
    ada, grace = make_user(session), make_user(session)
    mine = make_run(session, ada).id_
    make_run(session, grace)
    with as_tenant(ada) as own:
        page = read_events(own)
        assert [event.entity_id for event in page.events] == [mine]
        assert read_events(own, page.cursor).events == []
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), as_tenant(ada) as own:
        watchers(own)


def test_the_deletion_of_a_user_leaves_what_became_of_the_rows(
    session: Session, session_factory: Factory
) -> None:
    run = make_run(session, make_user(session))
    owner_id = run.owner_id
    session.commit()
    delete_user(session, session.get_one(User, owner_id), delete_work=True)
    session.commit()
    assert [event.kind for event in all_events(session_factory)] == ["created", "deleted"]
    assert events.read_events(session, owners=[owner_id], kinds=["deleted"]).events[0].after is None


def test_the_readers_role_reads_from_any_place(session: Session, engine: sa.Engine) -> None:
    prepare_roles(engine)
    owner = make_user(session)
    make_run(session, owner)
    session.commit()
    login = login_engine(engine, "platform_test_reader", Role.readonly)
    with Session(login) as reading:
        page = read_events(reading, "latest")
        assert page.events == []
        make_run(session, owner)
        session.commit()
        page = read_events(reading, page.cursor)
        assert len(page.events) == 1
        assert read_events(reading, page.cursor).events == []
    login.dispose()


@pytest.mark.parametrize("name", ["", "n" * 256, "a\0b"])
def test_a_name_that_no_watcher_can_have_is_refused(
    session_factory: sessionmaker[Session], name: str
) -> None:
    with pytest.raises((errors.InvalidArgument, errors.InvalidText)):
        next(watch(session_factory, name=name, wait=0))
