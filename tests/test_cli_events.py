"""``platform-db events``: what people and scripts see of events."""

from __future__ import annotations

import json
import os
import signal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.lifecycle import add_note, transition
from platform_db.models import EventCheckpoint
from tests import command_line
from tests.factories import make_run, make_user


def test_tail_prints_a_line_for_each_event(session: Session, database_uri: str) -> None:
    run = make_run(session, make_user(session))
    transition(session, run, "queued", reason="a slot\x1b[2J is free")
    add_note(session, run, "placement", "small\nqueue")
    session.commit()

    shown = command_line.run(database_uri, "events", "tail", "--since", "beginning", "--wait", "0")

    assert shown.exit_code == 0, shown.output
    created, changed, noted = shown.output.splitlines()
    assert created.split()[2:] == ["created", "workflow", str(run.id_), "created"]
    assert changed.endswith("created -> queued (a slot\\x1b[2J is free)")
    assert noted.endswith("placement: small\\nqueue")


def test_tail_prints_json_line_by_line(session: Session, database_uri: str) -> None:
    ada = make_user(session, email="ada@example.org")
    run = make_run(session, ada)
    make_run(session, make_user(session))
    shown = command_line.run(
        database_uri,
        *("events", "tail", "--json", "--since", "0", "--wait", "0", "--user", "ada@example.org"),
        *("--kind", "created", "--kind", "deleted", "--entity", "workflow"),
    )
    (line,) = shown.output.splitlines()
    assert json.loads(line)["entity_id"] == str(run.id_)


def test_a_named_tail_goes_on_where_it_was(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    arguments = ("events", "tail", "--name", "mailer", "--since", "beginning", "--wait", "0")
    make_run(session, owner)
    assert len(command_line.run(database_uri, *arguments).output.splitlines()) == 1
    make_run(session, owner)
    assert len(command_line.run(database_uri, *arguments).output.splitlines()) == 1
    (watcher,) = json.loads(command_line.run(database_uri, "events", "watchers", "--json").output)
    assert (watcher["name"], watcher["behind"], watcher["holds"]) == ("mailer", 0, True)
    assert "mailer" in command_line.run(database_uri, "events", "watchers").output

    assert command_line.run(database_uri, "events", "forget", "mailer").output == "forgot mailer\n"
    assert session.scalars(sa.select(EventCheckpoint)).all() == []
    missing = command_line.run(database_uri, "events", "forget", "mailer")
    assert missing.exit_code == errors.NotFound.exit_code
    assert "there is no watcher 'mailer'" in command_line.one_line(missing.stderr)


def test_what_is_no_place_or_no_kind_is_told(database_uri: str) -> None:
    for option, value in (("--since", "yesterday"), ("--kind", "changed"), ("--entity", "run")):
        said = command_line.run(database_uri, "events", "tail", "--wait", "0", option, value)
        assert said.exit_code == errors.WrongUsage.exit_code
        assert value in said.stderr


def test_tail_and_wake_go_on_until_they_are_interrupted(session: Session, database_uri: str) -> None:
    owner = make_user(session)
    wake = command_line.start(database_uri, "events", "wake")
    tail = command_line.start(
        database_uri, "events", "tail", "--json", "--listen", "--since", "beginning", PYTHONUNBUFFERED="1"
    )
    for _ in range(2):
        run = make_run(session, owner)
        assert json.loads(tail.stdout.readline())["entity_id"] == str(run.id_)
    for process in (tail, wake):
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
        process.communicate()


def test_a_watcher_that_cannot_listen_says_why(session: Session, database_uri: str) -> None:
    nowhere = "postgresql://ada:hunter2@127.0.0.1:1/none"
    result = command_line.run(database_uri, "events", "tail", "--listen", PLATFORM_DB_MIGRATION_URI=nowhere)
    assert result.exit_code == errors.Unreachable.exit_code
    assert "127.0.0.1" in result.stderr
    assert "hunter2" not in result.stderr
