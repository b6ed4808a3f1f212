"""Pruning keeps what a watcher has not seen, up to a bound."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import settings
from platform_db.events import watch, watchers
from platform_db.lifecycle import add_note
from platform_db.models import EventCheckpoint, Note, RowEvent, StatusChange, Workflow
from platform_db.retention import RULES, choose_rules, prune
from tests import command_line
from tests.factories import make_run, make_user
from tests.test_prune import make_life

Factory = sessionmaker[Session]

NOW = timedelta(0)
RUNS = choose_rules(["workflow"], older_than=NOW)
EVENTS = choose_rules(["row_event"], older_than=NOW)


def let_pass(session: Session, time: timedelta) -> None:
    """Make everything that is stored so much older."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for model, columns in (
        (Workflow, ("created", "updated")),
        (StatusChange, ("at",)),
        (Note, ("at",)),
        (RowEvent, ("at",)),
        (EventCheckpoint, ("seen_at", "moved_at")),
    ):
        session.execute(sa.update(model).values({c: getattr(model, c) - time for c in columns}))
    session.commit()


def see_all(factory: Factory, name: str) -> int:
    return len(list(watch(factory, name=name, wait=0)))


def gone(factory: Factory, rules) -> int:
    (result,) = prune(factory, rules)
    assert result.left == 0
    return result.rows


def test_a_run_stays_until_each_watcher_has_seen_its_end(session: Session, session_factory: Factory) -> None:
    see_all(session_factory, "mailer")
    see_all(session_factory, "index")
    make_life(session, "deleted")
    let_pass(session, timedelta(days=3))

    assert gone(session_factory, RUNS) == 0
    see_all(session_factory, "mailer")
    assert gone(session_factory, RUNS) == 0
    see_all(session_factory, "index")
    assert gone(session_factory, RUNS) == 1


@pytest.mark.parametrize("of", ["run", "job"])
def test_a_run_stays_for_a_young_note_on_it_or_on_its_job(
    session: Session, session_factory: Factory, of: str
) -> None:
    run = make_life(session, "deleted")
    let_pass(session, timedelta(days=3))
    see_all(session_factory, "mailer")
    session.execute(sa.update(EventCheckpoint).values(seen_at=EventCheckpoint.seen_at - timedelta(days=1)))
    add_note(session, run if of == "run" else run.jobs[0], "late", "word")
    session.commit()
    assert gone(session_factory, RUNS) == 0
    let_pass(session, timedelta(days=3))
    see_all(session_factory, "mailer")
    assert gone(session_factory, RUNS) == 1


def test_creations_and_deletions_stay_until_each_watcher_has_passed_them(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    see_all(session_factory, "mailer")
    session.delete(make_run(session, owner))
    session.commit()
    let_pass(session, timedelta(days=3))
    assert gone(session_factory, EVENTS) == 0
    assert see_all(session_factory, "mailer") == 2
    make_run(session, owner)  # Younger than a day: a transaction that is open may still stand before it.
    assert gone(session_factory, EVENTS) == 2
    assert gone(session_factory, EVENTS) == 0


def test_without_watchers_age_alone_counts(session: Session, session_factory: Factory) -> None:
    owner = make_user(session)
    for _ in range(3):
        make_run(session, owner)
    assert gone(session_factory, [rule for rule in RULES if rule.table == "row_event"]) == 0
    let_pass(session, timedelta(days=31))
    make_run(session, owner)
    (rule,) = choose_rules(["row_event"], batch=2)
    assert prune(session_factory, [rule], dry_run=True)[0].rows == 3
    assert gone(session_factory, [rule]) == 3


def test_events_are_pruned_off_the_index_a_batch_at_a_time(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    many = sa.text("""
        INSERT INTO platform.row_event
            (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
        SELECT nextval('platform.history_number'), :owner, 'workflow', gen_random_uuid(), 'created',
               'created', 0, now() - interval '90 days', 3
        FROM generate_series(1, 2000)
    """)
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(many, {"owner": owner.id_})
    session.commit()
    read = sa.text("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ix_row_event_number'")
    with session_factory() as reader:
        before = reader.scalar(read)
    (rule,) = choose_rules(["row_event"], batch=100)

    assert gone(session_factory, [rule]) == 2000

    with session_factory() as reader:
        reader.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        reader.commit()
        assert reader.scalar(read) - before < 10_000  # Each row is read once or twice.


def test_a_watcher_that_reads_from_the_beginning_holds_what_it_has_not_reached(
    session: Session, session_factory: Factory
) -> None:
    owner = make_user(session)
    make_run(session, owner)
    let_pass(session, timedelta(days=3))
    make_run(session, owner)
    watching = watch(session_factory, name="mailer", limit=1)
    next(watching)
    assert gone(session_factory, EVENTS) == 0
    next(watching)  # Now it has stored that it has seen the first one.
    (watcher,) = watchers(session)
    assert timedelta(days=2) < datetime.now(timezone.utc) - watcher.seen_at < timedelta(days=4)
    assert gone(session_factory, EVENTS) == 0
    assert list(watch(session_factory, name="mailer", wait=0)) != []
    assert gone(session_factory, EVENTS) == 1


def test_a_watcher_that_does_not_move_holds_nothing_for_ever(
    session: Session,
    session_factory: Factory,
    database_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLATFORM_DB_WATCHER_HOLD_DAYS", "20")
    settings.reset_settings()
    see_all(session_factory, "mailer")
    make_life(session, "deleted")
    let_pass(session, timedelta(days=19))
    assert prune(session_factory, RUNS)[0].rows == 0
    let_pass(session, timedelta(days=2))
    (result,) = prune(session_factory, RUNS)
    assert (result.rows, result.not_waited_for) == (1, ("mailer",))
    assert [watcher.holds for watcher in watchers(session)] == [False]
    settings.reset_settings()

    said = command_line.run(database_uri, "db", "prune", PLATFORM_DB_WATCHER_HOLD_DAYS="20")
    assert said.exit_code == 0
    assert said.stderr == "not waited for, since their checkpoints have not moved for long: mailer\n"


def test_a_watcher_that_starts_over_and_over_without_moving_holds_nothing_for_ever(
    session: Session, session_factory: Factory
) -> None:
    make_life(session, "deleted")
    next(watch(session_factory, name="mailer", wait=0))
    let_pass(session, timedelta(days=400))
    next(watch(session_factory, name="mailer", wait=0))

    (result,) = prune(session_factory, RUNS)

    assert (result.rows, result.not_waited_for) == (1, ("mailer",))


def test_a_watcher_from_a_time_to_come_holds_what_it_has_not_seen(
    session: Session, session_factory: Factory
) -> None:
    begin = datetime.now(timezone.utc) + timedelta(days=365)
    list(watch(session_factory, name="mailer", since=begin, wait=0))
    make_life(session, "deleted")
    let_pass(session, timedelta(days=3))

    assert gone(session_factory, RUNS) == 0


def test_what_a_handler_failed_on_is_forgotten_after_its_time(
    session: Session, session_factory: Factory
) -> None:
    session.execute(
        sa.text("""
            INSERT INTO platform.event_checkpoint (name, cursor, number, seen_at)
            VALUES ('mail', '', 0, now())
        """)
    )
    session.execute(
        sa.text("""
            INSERT INTO platform.event_failure (name, number, event, error, attempts, at)
            SELECT 'mail', n, '{}', 'x', 1, now() - n * interval '1 day' FROM generate_series(1, 100) AS n
        """)
    )
    session.commit()
    rules = choose_rules(["event_failure"], batch=4)
    assert prune(session_factory, rules, dry_run=True)[0].rows == 11
    assert prune(session_factory, rules)[0].rows == 11
    assert session.scalar(sa.text("SELECT max(number) FROM platform.event_failure")) == 89
