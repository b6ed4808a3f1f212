"""Pruning leaves totals right: space is counted no more, processing time stays used."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import quota, settings
from platform_db.bounds import LARGEST_AMOUNT
from platform_db.health.deep_check import check_deeply
from platform_db.models import InteractiveSession, ResourceType, User, UserResource, Workflow
from platform_db.quota import Scope, reconcile, update_cpu_usage
from platform_db.retention import choose_rules, prune
from tests.factories import make_run, make_user
from tests.test_prune import NOW

HOUR = 3_600_000
AGES_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let workspaces that were never made lie below a root that is there."""
    (tmp_path / ".platform-db-root").touch()
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    settings.reset_settings()
    yield
    settings.reset_settings()


def lasting(hours: int, start: datetime = AGES_AGO) -> dict:
    return {
        "status": "deleted",
        "run_started_at": start,
        "run_finished_at": start + timedelta(hours=hours),
    }


def used(session: Session, user: User, type_: str) -> int:
    session.expire_all()
    return next(r.quota_used for r in user.resources if r.resource.type_ is ResourceType(type_))


def store_disk(session: Session, run: Workflow, change: int, *, shared: bool = False) -> None:
    quota.store_workflow_disk_quota(session, run, bytes_to_sum=change)
    if not shared:
        quota.update_users_disk_quota(session, run.owner_id, bytes_to_sum=change)
    session.commit()


def require_agreement(session: Session, session_factory: sessionmaker[Session], user: User) -> None:
    """Find nothing to correct, neither by the check nor by the jobs."""
    session.rollback()
    assert check_deeply(session) == []
    session.rollback()
    differences = reconcile(session_factory, Scope(user_id=user.id_))
    assert [found for found in differences if found.what != "workspace"] == []


def test_the_disk_of_pruned_runs_is_counted_no_more(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    shared = str(tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    store_disk(session, make_run(session, user, status="deleted"), 100)
    store_disk(session, make_run(session, user), 30)
    make_run(session, user, status="deleted", workspace_path=shared)
    make_run(session, user, status="deleted", workspace_path=shared)
    store_disk(session, make_run(session, user, workspace_path=shared), 7)
    both = str(tmp_path / "both")
    make_run(session, user, status="deleted", workspace_path=both)
    store_disk(session, make_run(session, user, status="deleted", workspace_path=both), 1000)
    assert used(session, user, "disk") == 1137
    session.commit()

    (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))

    assert (result.rows, result.left) == (5, 0)
    assert used(session, user, "disk") == 37
    require_agreement(session, session_factory, user)


def test_what_was_pruned_is_given_back_whoever_else_has_a_run_of_that_path(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    ann, ben = make_user(session), make_user(session)
    for user, status in ((ann, "deleted"), (ben, "finished")):
        store_disk(
            session, make_run(session, user, status=status, workspace_path=str(tmp_path / "shared")), 9
        )
    prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    assert (used(session, ann, "disk"), used(session, ben, "disk")) == (0, 9)


def test_processing_time_of_what_was_pruned_stays_used(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    make_run(session, user, **lasting(5))
    make_run(session, user, **{**lasting(2), "status": "finished"})
    session.add(InteractiveSession(name="n", path="/n", owner_id=user.id_, **lasting(3)))
    session.commit()
    update_cpu_usage(session_factory)

    prune(session_factory, choose_rules(["workflow", "interactive_session"], older_than=NOW))

    assert used(session, user, "cpu") == 10 * HOUR
    require_agreement(session, session_factory, user)
    update_cpu_usage(session_factory)
    assert used(session, user, "cpu") == 10 * HOUR


def test_a_figure_that_is_as_large_as_can_be_stops_no_pruning(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    make_run(session, user, **{**lasting(2), "status": "deleted"})
    session.commit()
    update_cpu_usage(session_factory)
    session.execute(sa.update(UserResource).values(quota_pruned=LARGEST_AMOUNT))
    session.commit()
    (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    assert (result.rows, result.left) == (1, 0)


def test_a_new_period_forgets_what_was_pruned_in_the_one_before(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    long_ago = datetime.now(timezone.utc) - timedelta(days=400)
    user = make_user(session, created=long_ago)
    total = next(r for r in user.resources if r.resource.type_ is ResourceType.cpu)
    total.quota_period_months, total.quota_period_start_at = 1, long_ago
    make_run(session, user, **lasting(5, start=long_ago + timedelta(days=1)))
    with session_factory() as other:
        other.execute(sa.update(UserResource).values(quota_used=5 * HOUR, quota_pruned=5 * HOUR))
        other.commit()
    session.commit()
    update_cpu_usage(session_factory)
    assert used(session, user, "cpu") == 0
    assert total.quota_pruned == 0


def test_a_first_period_forgets_what_was_pruned(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    from platform_db import settings
    from platform_db.quota.periods import initialise_default_periods
    from platform_db.quota.resources import get_default_key

    user = make_user(session)
    make_run(session, user, **lasting(5))
    update_cpu_usage(session_factory)
    prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_CPU_PERIOD_RESET_MONTHS", "3")
    settings.reset_settings()
    assert used(session, user, "cpu") == 5 * HOUR
    initialise_default_periods(session, get_default_key(session, ResourceType.cpu))
    session.commit()
    settings.reset_settings()
    assert used(session, user, "cpu") == 0
    assert check_deeply(session) == []


def test_an_owner_whose_totals_are_being_written_is_not_waited_for(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    busy, idle = make_user(session), make_user(session)
    for user in (busy, idle):
        store_disk(session, make_run(session, user, status="deleted"), 100)
    busy_id = busy.id_
    session.commit()
    with session_factory() as other:
        quota.update_users_disk_quota(other, busy_id, bytes_to_sum=5)
        (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
        assert (result.rows, result.left) == (1, 1)
        other.rollback()
    (result,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    assert (result.rows, result.left) == (1, 0)
    assert [used(session, user, "disk") for user in (busy, idle)] == [0, 0]


def test_what_is_reserved_is_given_back_by_whoever_reserves(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    quota.reserve(session, user, "disk", 10, ttl=0)
    session.commit()
    prune(session_factory)
    require_agreement(session, session_factory, user)
