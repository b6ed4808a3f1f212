"""Listing runs and jobs, and acting on them, on the command line."""

from __future__ import annotations

import json
import re

import pytest

from platform_db import errors
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import history
from platform_db.models import Job, User
from tests.command_line import one_line, run
from tests.factories import make_run, make_user


@pytest.fixture
def ada(session: PlatformSession) -> User:
    ada = make_user(session, email="ada@example.org")
    for name, status, team in (("fit", "failed", "a"), ("plot", "finished", "a"), ("fit", "running", "b")):
        make_run(session, ada, name=name, status=status, labels={"team": team})
    make_run(session, make_user(session, email="bob@example.org"), name="secret")
    return ada


def names(uri: str, *arguments: str) -> list[str]:
    """Return the names of the runs that a list has."""
    result = run(uri, "workflow", "list", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [row["name"] for row in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["fit.2", "plot.1", "fit.1"]),
        (["--status", "failed", "--status", "running"], ["fit.2", "fit.1"]),
        (["--name", "fi?"], ["fit.2", "fit.1"]),
        (["--label", "team in (a),!old"], ["plot.1", "fit.1"]),
        (["--search", "LO"], ["plot.1"]),
        (["--filter", '{"$or": [{"status": "failed"}, {"labels.team": "b"}]}'], ["fit.2", "fit.1"]),
        (["--sort", "-name"], ["plot.1", "fit.2", "fit.1"]),
        (["--since", "2026-01-01", "--sort", "created"], ["fit.1", "plot.1", "fit.2"]),
        (["--since", "2100-01-01"], []),
    ],
)
def test_options_filter_and_sort(database_uri: str, ada: User, options: list[str], found: list[str]) -> None:
    assert names(database_uri, "--user", ada.email, *options) == found


def test_a_page_says_how_to_go_on_and_how_many_there_are(database_uri: str, ada: User) -> None:
    options = ("workflow", "list", "--user", ada.email, "--limit", "2", "--total")
    first = run(database_uri, *options)
    assert first.stdout.splitlines()[0].split() == [
        *("ID", "NAME", "STATUS", "CREATED", "STARTED", "ENDED", "OWNER", "LABELS")
    ]
    assert "ada@example.org" in first.stdout
    total, more = first.stderr.splitlines()
    assert total == "3 in all"
    rest = run(database_uri, *options, *more.removeprefix("more: ").split())
    assert "fit.1" in rest.stdout
    assert "more:" not in rest.stderr


def test_all_users_runs_are_looked_through_only_when_told(database_uri: str, ada: User) -> None:
    assert names(database_uri) == ["secret.1", "fit.2", "plot.1", "fit.1"]
    refused = run(database_uri, "workflow", "list", "--name", "secret")
    assert refused.exit_code == 11
    assert "no index serves this list of all owners' rows" in one_line(refused.output)
    assert "--all-users" in one_line(refused.output)
    assert names(database_uri, "--name", "secret", "--all-users") == ["secret.1"]
    assert run(database_uri, "workflow", "list", "--user", ada.email, "--all-users").exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--status", "done"], "status takes one of created, queued"),
        (["--filter", '{"stauts": "failed"}'], "did you mean status?"),
        (["--sort", "size"], "cannot be sorted by 'size'; choose from created, updated"),
        (["--label", "team="], None),
        (["--label", "=a"], "no label selector goes on so"),
        (["--cursor", "x"], "this list gave no such cursor"),
    ],
)
def test_a_wrong_option_ends_in_one_line(
    database_uri: str, ada: User, options: list[str], message: str | None
) -> None:
    result = run(database_uri, "workflow", "list", "--user", ada.email, *options)
    if message is None:
        assert (result.exit_code, result.output) == (0, "none\n")
    else:
        assert result.exit_code == 2
        assert message in one_line(result.output)


def test_json_that_is_none_is_a_wrong_usage(database_uri: str) -> None:
    result = run(database_uri, "workflow", "list", "--filter", "{")
    assert result.exit_code == 2
    assert re.search("--filter takes JSON", result.output)


def test_jobs_are_listed_alike(database_uri: str, session: PlatformSession, ada: User) -> None:
    found = ada.workflows[0]
    for name, status in (("align", "finished"), ("sort", "failed"), ("call", "failed")):
        session.add(Job(workflow_id=found.id_, job_name=name, status=status))
        session.flush()
    session.commit()
    listed = run(database_uri, "job", "list", str(found.id_), "--status", "failed", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["sort", "call"]
    listed = run(database_uri, "job", "list", str(found.id_), "--name", "*a*", "--sort", "-name", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["call", "align"]


def test_a_run_is_stopped_and_its_status_set(database_uri: str, session: PlatformSession, ada: User) -> None:
    stopped = run(
        database_uri,
        "workflow",
        "stop",
        "fit.2",
        "fit.9",
        "--user",
        ada.email,
        "--reason",
        "wrong input",
        "--force",
        "--json",
    )
    assert stopped.exit_code == 9
    missing, row = json.loads(stopped.stdout)
    assert (missing["name"], "fit.9" in missing["refused"]) == ("fit.9", True)
    assert (row["name"], row["status"], row["asked"], row["refused"]) == ("fit.2", "stopped", False, None)
    refused = run(database_uri, "workflow", "set-status", "fit.2", "running", "--user", ada.email)
    assert (refused.exit_code, "cannot go from stopped to running" in one_line(refused.output)) == (11, True)
    unsaid = run(
        database_uri, "workflow", "set-status", "fit.2", "running", "--user", ada.email, "--override"
    )
    assert "an override needs a reason" in one_line(unsaid.output)
    reasons = ("--reason", "it ran on")
    done = run(
        database_uri,
        "workflow",
        "set-status",
        "fit.2",
        "running",
        "--user",
        ada.email,
        "--override",
        *reasons,
    )
    assert done.output == "fit.2 is running\n"
    session.expire_all()
    changed = [row for row in ada.workflows if row.get_full_workflow_name() == "fit.2"]
    assert [(entry.to_status, entry.reason) for entry in history(session, changed[0]).rows] == [
        ("stopped", "wrong input"),
        ("running", "it ran on"),
    ]


def test_many_runs_are_deleted_each_by_itself(database_uri: str, session: PlatformSession, ada: User) -> None:
    deleted = run(database_uri, "workflow", "delete", "fit.1", "plot", "--user", ada.email, "--json")
    assert deleted.exit_code == 0
    assert [(row["name"], row["status"]) for row in json.loads(deleted.stdout)] == [
        ("fit.1", "deleted"),
        ("plot.1", "deleted"),
    ]
    make_run(session, ada, name="plot", status="finished")
    partly = run(database_uri, "workflow", "delete", "none.1", "plot", "fit.2", "--user", ada.email)
    assert partly.exit_code == 9
    assert "cannot go from running to deleted" in partly.stdout
    assert "there is no workflow 'none.1'" in partly.stdout
    assert "2 of 3 runs could not be deleted" in one_line(partly.stderr)
    assert names(database_uri, "--user", ada.email, "--status", "deleted", "--sort", "name") == [
        *("fit.1", "plot.1", "plot.2")
    ]


def test_a_job_is_named_within_its_run(database_uri: str, session: PlatformSession, ada: User) -> None:
    run_ = make_run(session, ada, name="named", status="running")
    for name in ("load", "fit", "twice", "twice"):
        session.add(Job(owner_id=ada.id_, workflow_id=run_.id_, job_name=name))
    session.commit()
    of_run = ("--user", ada.email, "--json")

    listed = json.loads(run(database_uri, "job", "list", "named", *of_run, "--sort", "name").stdout)
    assert [job["name"] for job in listed] == ["fit", "load", "twice", "twice"]
    shown = json.loads(run(database_uri, "job", "show", "fit", "--run", "named.1", *of_run).stdout)
    assert shown["id_"] == listed[0]["id"]
    twice = run(database_uri, "job", "show", "twice", "--run", "named", *of_run)
    assert "several jobs of this run are called 'twice'" in one_line(twice.stderr)
    unknown = run(database_uri, "job", "show", "plot", "--run", "named", *of_run)
    assert unknown.exit_code == errors.NotFound.exit_code
    assert run(database_uri, "job", "show", "fit", *of_run).exit_code == 2
    nameless = run(database_uri, "job", "list", "named")
    assert "a run's name is looked for with --user" in one_line(nameless.stderr)


@pytest.mark.parametrize(("typed", "meant"), [("workfow list", "workflow"), ("workflow lst", "list")])
def test_a_mistyped_command_is_told_what_was_meant(typed: str, meant: str) -> None:
    result = run(None, *typed.split())
    assert (result.exit_code, f"Did you mean '{meant}'?" in result.output) == (2, True)
