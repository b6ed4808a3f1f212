"""What no table, page or clock can hold is refused, by the library and by the command line alike."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import audit, crypto, errors, jobs, leases, logs, quota, schema, tokens, users, workflows
from platform_db.audit.reading import list_audit
from platform_db.leases.tasks import lease
from platform_db.lifecycle import history
from platform_db.quota.figures import Figure, read_workspace, write_figures
from platform_db.quota.report import report_workflows
from platform_db.quota.scope import Scope
from platform_db.retention import choose_rules
from platform_db.workspaces import measure_many
from tests.command_line import one_line, run
from tests.factories import make_run, make_user

NOW = timedelta(0)
RUN = "0190f0c4-0000-7000-8000-000000000000"
Call = Callable[[Session, "sessionmaker[Session]", Any], object]

LIMITS: dict[str, Call] = {
    "a page of users": lambda session, _, n: users.list_users(session, limit=n),
    "a page of runs": lambda session, _, n: workflows.list_workflows(session, None, limit=n),
    "a page of shared runs": lambda session, _, n: workflows.list_shared(session, uuid.uuid4(), limit=n),
    "a page of the audit log": lambda session, _, n: list_audit(session, limit=n),
    "a page of a history": lambda session, _, n: history(
        session, make_run(session, make_user(session)), limit=n
    ),
    "a report's runs": lambda session, _, n: report_workflows(session, uuid.uuid4(), limit=n),
    "seals to prune": lambda session, _, n: audit.prune_seals(session, NOW, limit=n),
    "rows to prune": lambda _, __, n: choose_rules(batch=n),
    "rows to recover": lambda session, _, n: leases.recover(session, NOW, batch=n),
    "results to evict": lambda session, _, n: jobs.evict_cached_results(session, uuid.uuid4(), 0, batch=n),
    "secrets to rotate": lambda _, factory, n: tokens.rotate(factory, batch=n),
    "tokens to purge": lambda _, factory, n: tokens.purge(factory, revoked_for=NOW, batch=n),
    "tokens to revoke": lambda _, factory, n: tokens.revoke_expired(factory, batch=n),
    "workers": lambda _, __, n: list(measure_many([], workers=n)),
}

DURATIONS: dict[str, Call] = {
    "a token's life": lambda session, _, s: tokens.issue(
        session, make_user(session), expires_in=s if isinstance(s, timedelta) else timedelta(days=3_000_000)
    ),
    "a reservation's life": lambda session, _, s: quota.reserve(
        session, make_user(session), "disk", 1, ttl=s
    ),
    "a lease's life": lambda _, factory, s: lease(factory, "any", seconds=s).__enter__(),
    "a figure's age": lambda _, __, s: Scope(stale_after=s),
    "a client's patience": lambda _, __, s: schema.wait_until_ready(timeout=s),
    "an audit row's age": lambda _, factory, s: audit.prune_audit_log(factory, s),
    "a row's age": lambda _, __, s: choose_rules(older_than=s),
    "a heartbeat's age": lambda session, _, s: leases.recover(session, s),
    "a revocation's age": lambda _, factory, s: tokens.purge(factory, revoked_for=s),
}

AMOUNTS: dict[str, Call] = {
    "a limit": lambda session, _, n: quota.set_limit(session, make_user(session), "disk", n),
    "results to keep": lambda session, _, n: jobs.evict_cached_results(session, uuid.uuid4(), n),
    "a log's last lines": lambda session, _, n: logs.read_log_tail(
        session, make_run(session, make_user(session)), n
    ),
    "a seal": lambda session, _, n: list(audit.export_seals(session, after=n)),
}

# What may be negative, too.
CHANGES: dict[str, Call] = {
    "a reservation": lambda session, _, n: quota.reserve(session, make_user(session), "disk", n),
    "what was used of a reservation": lambda session, _, n: quota.commit_reservation(session, RUN, n),
    "a figure's change": lambda session, _, n: quota.store_workflow_disk_quota(session, RUN, bytes_to_sum=n),
    "a total's change": lambda session, _, n: quota.update_users_disk_quota(session, RUN, bytes_to_sum=n),
}


@pytest.fixture(autouse=True)
def _key(secret_key: str) -> None:
    """Let what needs a secret key get so far that it looks at numbers."""


def refuse(call: Call, session: Session, factory: sessionmaker[Session], *values: object) -> None:
    """Assert that each value is refused, in a transaction that can be used afterwards."""
    taken = []
    for value in values:
        try:
            call(session, factory, value)
            taken.append(value)
        except errors.InvalidArgument:
            assert session.scalar(sa.text("SELECT 1")) == 1
    assert taken == []


@pytest.mark.parametrize("what", LIMITS)
def test_how_many_rows(session: Session, session_factory: sessionmaker[Session], what: str) -> None:
    refuse(LIMITS[what], session, session_factory, 0, -1, 10**19, float("nan"), True)


@pytest.mark.parametrize("what", DURATIONS)
def test_how_long(session: Session, session_factory: sessionmaker[Session], what: str) -> None:
    no_numbers = (float("nan"), float("inf"), -1.0, "1", True)
    of_no_clock = (timedelta(days=3_000_000), timedelta(seconds=-1))
    refuse(DURATIONS[what], session, session_factory, *no_numbers, *of_no_clock)


@pytest.mark.parametrize("what", AMOUNTS)
def test_how_much(session: Session, session_factory: sessionmaker[Session], what: str) -> None:
    refuse(AMOUNTS[what], session, session_factory, -1, 10**19, float("nan"), True)


@pytest.mark.parametrize("what", CHANGES)
def test_how_much_more_or_less(session: Session, session_factory: sessionmaker[Session], what: str) -> None:
    refuse(CHANGES[what], session, session_factory, 2**63, 10**19, -(2**63), float("nan"), True, "1")


LARGEST, MOST = 2**63 - 1, 2**62


@pytest.mark.parametrize("change", [LARGEST, -LARGEST])
def test_changes_of_any_size_stop_at_the_most_that_is_counted_and_at_zero(
    session: Session, caplog: pytest.LogCaptureFixture, change: int
) -> None:
    owner = make_user(session)
    found = make_run(session, owner)
    disk = quota.get_default_quota_resource(session, "disk")
    begun = read_workspace(session, disk, owner.id_, found.workspace_path)
    stop = max(0, min(MOST, change))

    for _ in range(2):
        figure = quota.store_workflow_disk_quota(session, found, bytes_to_sum=change)
        quota.update_users_disk_quota(session, owner, bytes_to_sum=change)
        quota.commit_reservation(session, quota.reserve(session, owner, "cpu", 0), change)

    assert (figure.quota_used, figure.delta) == (stop, MOST if change > 0 else -MOST)
    used = {total.resource.type_.value: total.quota_used for total in owner.resources}
    assert used == {"cpu": stop, "disk": stop, "database": 0}
    assert f"stops at {stop}" in caplog.text
    (written,) = write_figures(session, disk, [Figure(begun, MOST, "scan")])
    assert written.used == stop


def test_a_reservation_beyond_a_limit_is_refused_whatever_is_used(session: Session) -> None:
    owner = make_user(session)
    quota.reserve(session, owner, "disk", LARGEST)
    quota.update_users_disk_quota(session, owner, bytes_to_sum=LARGEST)
    quota.set_limit(session, owner, "disk", 0)
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, owner, "disk", LARGEST)


def test_a_reservation_may_be_as_large_as_a_column_and_no_sum_is_larger(session: Session) -> None:
    user = make_user(session)
    with pytest.raises(errors.InvalidArgument):
        quota.reserve(session, user, "disk", 2**63)
    held = quota.reserve(session, user, "disk", 2**63 - 1)
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, user, "disk", 1)
    quota.release(session, held)
    assert quota.reserve(session, user, "disk", 1)


@pytest.mark.parametrize(
    "command",
    [
        "audit list --limit",
        "audit export-seals --after",
        "db prune --batch-size",
        "quota disk-usage-update --workers",
        "secret rotate --batch",
        "workflow list --limit",
        f"workflow logs {RUN} --tail",
    ],
)
def test_the_command_line_has_the_bounds_of_the_library(
    session: Session, database_uri: str, command: str
) -> None:
    make_run(session, make_user(session), id_=RUN)
    session.commit()

    for number in ("-1", "10000000000000000000"):
        refused = run(database_uri, *command.split(), number, PLATFORM_DB_SECRET_KEY=crypto.generate_key())

        assert refused.exit_code == errors.InvalidArgument.exit_code, number
        assert "must be a number from" in one_line(refused.stderr), number
