"""How each scheduled command ended last is stored, for monitoring."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from platform_db import database, errors
from platform_db.database.session import PlatformSession
from platform_db.leases.outcomes import Outcome, read_outcomes, record_outcome
from tests.command_line import run
from tests.factories import make_user


def outcomes(session: PlatformSession) -> dict[str, Outcome]:
    session.rollback()
    return {outcome.name: outcome for outcome in read_outcomes(session.connection())}


def test_a_job_that_ends_well_is_stored(session: PlatformSession, database_uri: str) -> None:
    assert run(database_uri, "audit", "seal").exit_code == 0
    first = outcomes(session)["audit seal"]
    assert run(database_uri, "audit", "seal").exit_code == 0

    (again,) = outcomes(session).values()

    assert (first.exit_code, first.seconds > 0, first.succeeded_at is not None) == (0, True, True)
    assert again.ended_at > first.ended_at


def test_a_failure_keeps_the_last_success(session: PlatformSession, database_uri: str) -> None:
    assert run(database_uri, "audit", "verify").exit_code == 0
    succeeded_at = outcomes(session)["audit verify"].succeeded_at
    make_user(session)
    assert run(database_uri, "audit", "seal").exit_code == 0
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    session.execute(sa.text("UPDATE platform.audit_sealed SET action = 'forged'"))
    session.commit()

    assert run(database_uri, "audit", "verify").exit_code == errors.AuditLogChanged.exit_code

    found = outcomes(session)["audit verify"]
    assert (found.exit_code, found.succeeded_at) == (errors.AuditLogChanged.exit_code, succeeded_at)


@pytest.mark.parametrize(
    "command",
    ["db prune --dry-run", "audit seal --wait x", "workflow recover --node n1", "task prune", "db check"],
)
def test_what_is_no_whole_run_of_a_job_is_not_stored(
    session: PlatformSession, database_uri: str, command: str
) -> None:
    run(database_uri, *command.split())
    assert outcomes(session) == {}


def test_drift_is_stored_with_the_job_that_looks(session: PlatformSession, database_uri: str) -> None:
    make_user(session)
    session.execute(sa.text("UPDATE platform.user_resource SET quota_used = 7"))
    session.commit()

    assert run(database_uri, "quota", "reconcile").exit_code == 0
    wrong = outcomes(session)["quota reconcile"].drift
    assert run(database_uri, "quota", "reconcile", "--fix").exit_code == 0
    assert run(database_uri, "quota", "reconcile").exit_code == 0

    assert wrong == {"processing time": 1, "shared storage": 1, "database storage": 1}
    assert set((outcomes(session)["quota reconcile"].drift or {}).values()) == {0}


def test_shards_are_taken_together(session: PlatformSession) -> None:
    def end(exit_code: int, shard: tuple[int, int], drift: int = 0) -> None:
        record_outcome(session, "disk", exit_code, 1.0 * shard[0], shard=shard, drift={"disk": drift})
        session.commit()

    end(0, (1, 1), 50)
    end(0, (1, 2), 1)
    assert outcomes(session)["disk"].succeeded_at is None, "one half has never succeeded"
    end(0, (2, 2), 2)
    found = outcomes(session)["disk"]
    assert (found.exit_code, found.seconds, found.drift) == (0, 2.0, {"disk": 3})
    end(9, (1, 2))
    failed = outcomes(session)["disk"]
    assert (failed.exit_code, failed.succeeded_at) == (9, found.succeeded_at)


def test_an_outcome_that_cannot_be_stored_changes_no_exit_code(
    engine: sa.Engine, database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE platform.task_outcome RENAME TO gone"))

    assert run(database_uri, "audit", "seal").exit_code == 0

    assert "how audit seal ended was not stored for metrics: " in caplog.text
    database.create_engine(database_uri).dispose()
