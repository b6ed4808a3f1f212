"""Limits and reservations, and comparing what is stored with what is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from platform_db import errors, quota, settings
from platform_db.audit import list_audit
from platform_db.health.deep_check import check_deeply
from platform_db.models import QuotaReservation, ResourceType, ResourceUnit, User, UserResource
from platform_db.quota.limits import parse_limit
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock


def disk_total(session: Session, user: User) -> tuple[int, int]:
    """Return what is used and what is reserved."""
    session.expire_all()
    total = next(r for r in user.resources if r.resource.type_ is ResourceType.disk)
    return total.quota_used, total.quota_reserved


def test_a_reservation_becomes_use_or_is_released(session: Session) -> None:
    user = make_user(session)
    quota.set_limit(session, user, "disk", 100)
    first, second = (quota.reserve(session, user, "shared storage", 40) for _ in range(2))
    assert disk_total(session, user) == (0, 80)
    with pytest.raises(errors.QuotaExceeded, match="cannot have 21 more"):
        quota.reserve(session, user, "disk", 21)
    assert not user.has_exceeded_quota()
    quota.commit_reservation(session, first, 30)
    quota.release(session, second.id_)
    assert disk_total(session, user) == (30, 0)
    for end in (quota.commit_reservation, quota.release):
        with pytest.raises(errors.ReservationNotFound):
            end(session, first)
    assert quota.reserve(session, user, "disk", 70).amount == 70


def test_what_does_not_worsen_an_overage_is_allowed(session: Session) -> None:
    user = make_user(session)
    quota.update_users_disk_quota(session, user, bytes_to_sum=120)
    quota.set_limit(session, user, "disk", 100)
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, user, "disk", 1)
    quota.commit_reservation(session, quota.reserve(session, user, "disk", 0))
    smaller = quota.reserve(session, user, "disk", -30)
    assert disk_total(session, user) == (120, 0)
    quota.commit_reservation(session, smaller)
    assert disk_total(session, user) == (90, 0)


def test_zero_is_none_and_unlimited_is_unlimited(session: Session) -> None:
    user = make_user(session)
    assert quota.reserve(session, user, "cpu", 2**60)
    quota.set_limit(session, user, "cpu", 0)
    with pytest.raises(errors.QuotaExceeded):
        quota.reserve(session, user, "cpu", 1)


def test_expired_reservations_are_released(session: Session, session_factory: sessionmaker[Session]) -> None:
    user, other = make_user(session), make_user(session)
    quota.set_limit(session, user, "disk", 10)
    quota.reserve(session, user, "disk", 10, ttl=0)
    quota.reserve(session, other, "disk", 5, ttl=0)
    kept = quota.reserve(session, other, "disk", 7)
    session.commit()
    assert quota.reserve(session, user, "disk", 10, ttl=0), "an expired one is not in the way"
    session.commit()
    assert quota.release_expired_reservations(session_factory) == 2
    assert disk_total(session, user) == (0, 0)
    assert disk_total(session, other) == (0, 7)
    assert session.scalars(sa.select(QuotaReservation.id_)).all() == [kept.id_]


def test_what_stays_reserved_without_a_reservation_is_found(session: Session) -> None:
    make_user(session)
    session.execute(sa.update(UserResource).values(quota_reserved=7))
    session.commit()
    assert {fault.check for fault in check_deeply(session)} == {
        "reserved amounts that are not the sum of their reservations"
    }


def test_releasing_locks_totals_before_reservations(
    session: Session, session_factory: sessionmaker[Session]
) -> None:
    user = make_user(session)
    held = quota.reserve(session, user, "disk", 10, ttl=0)
    session.commit()
    session.execute(sa.select(UserResource).with_for_update())
    with ThreadPoolExecutor() as pool:
        released = pool.submit(quota.release_expired_reservations, session_factory)
        wait_for_a_lock(session_factory)
        mine = sa.select(QuotaReservation).where(QuotaReservation.id_ == held.id_)
        assert session.scalars(mine.with_for_update(nowait=True)).one()
        session.rollback()
        assert released.result() == 1


def test_a_cronjob_releases_what_has_expired_unless_the_policy_switches_it_off(
    session: Session, session_factory: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = make_user(session)
    quota.reserve(session, user, "disk", 10, ttl=0)
    session.commit()

    monkeypatch.setenv("PLATFORM_DB_PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY", "false")
    settings.reset_settings()
    assert quota.update_usage(session_factory) == quota.UsageReport()
    dry = quota.update_usage(session_factory, override_policy=True, dry_run=True)
    assert dry.cpu is not None
    assert dry.disk is not None
    assert disk_total(session, user) == (0, 10)
    done = quota.update_usage(session_factory, [ResourceType.cpu], override_policy=True)
    assert (done.disk, disk_total(session, user)) == (None, (0, 0))
    monkeypatch.undo()
    settings.reset_settings()


def test_setting_a_limit_leaves_an_audit_row(session: Session) -> None:
    user, boss = make_user(session), make_user(session)
    assert quota.set_limit(session, user, "disk", 50) is None
    assert quota.set_limit(session, user.id_, "shared storage", None, actor=boss) == 50
    assert quota.set_limit(session, user, "disk", None) is None, "no change"
    second, first = list_audit(session, action="set_quota_limit").rows
    assert (first.user_id, first.actor_id) == (user.id_, None)
    disk = quota.get_default_quota_resource(session, ResourceType.disk)
    assert first.details == {"resource_id": str(disk.id_), "before": None, "limit": 50}
    assert (second.details["before"], second.details["limit"], second.actor_id) == (50, None, boss.id_)
    with pytest.raises(errors.InvalidArgument, match="the limit must be"):
        quota.set_limit(session, user, "disk", -1)
    with pytest.raises(errors.ResourceNotFound):
        quota.set_limit(session, user, "gold", 1)
    with pytest.raises(errors.UserNotFound):
        quota.reserve(session, "00000000-0000-0000-0000-000000000001", "disk", 1)


def test_limits_are_read_as_people_write_them() -> None:
    assert parse_limit(ResourceUnit.bytes_, "50GiB") == 50 * 2**30
    assert parse_limit(ResourceUnit.milliseconds, "100h") == 360_000_000
    assert parse_limit(ResourceUnit.bytes_, " Unlimited ") is None
    for wrong in ("-1", "many", "5h"):
        with pytest.raises(errors.InvalidArgument):
            parse_limit(ResourceUnit.bytes_, wrong)


def test_what_drifted_is_shown_with_its_reason_and_fixed(
    session: Session, session_factory: sessionmaker[Session], tmp_path: Path
) -> None:
    user = make_user(session)
    (tmp_path / "w").mkdir()
    run = make_run(session, user, workspace_path=str(tmp_path / "w"))
    gone = make_run(session, user, workspace_path="/gone", status="deleted")
    quota.store_workflow_disk_quota(session, gone, bytes_to_sum=10)
    session.execute(sa.update(UserResource).values(quota_used=3, quota_reserved=4))
    session.commit()

    def found(fix: bool) -> dict[str, tuple[int | None, str]]:
        return {
            difference.path or f"{difference.what} {difference.resource}": (
                difference.before,
                difference.reason,
            )
            for difference in quota.reconcile(session_factory, fix=fix)
        }

    shown = found(fix=False)
    assert found(fix=False) == shown
    assert shown[run.workspace_path] == (None, "it was never measured")
    assert shown["/gone"] == (10, "the workspace is gone")
    assert shown["total processing time"][0] == 3
    assert shown["total shared storage"][0] == 3
    assert shown["reserved processing time"] == (4, "it is not the sum of the reservations")
    found(fix=True)
    assert found(fix=False) == {}
    assert disk_total(session, user) == (run.get_quota_usage()["disk"]["usage"]["raw"], 0)
