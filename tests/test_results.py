"""Results: what was set comes back, large ones from a file, and what the database stores counts."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from platform_db import errors, quota, settings
from platform_db.health.deep_check import check_deeply
from platform_db.models import Job, Resource, User, UserResource, Workflow, WorkflowResult
from platform_db.models.resource import DATABASE_STORAGE
from platform_db.quota import reconcile
from platform_db.retention import choose_rules, prune
from platform_db.workflows import delete_result, get_result, set_result
from platform_db.workspaces import WorkspaceError, stored_files
from tests.command_line import run as run_command
from tests.factories import make_run, make_user
from tests.locks import wait_for_a_lock
from tests.test_prune import NOW

LARGE = b"x" * 1001


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let results of more than 1000 bytes lie below a root that is there."""
    (tmp_path / ".platform-db-root").touch()
    monkeypatch.setenv("PLATFORM_DB_WORKSPACE_ROOT", str(tmp_path))
    monkeypatch.setenv("PLATFORM_DB_RESULT_DATABASE_LIMIT", "1000")
    monkeypatch.setenv("PLATFORM_DB_RESULT_LIMIT", "5000")
    settings.reset_settings()
    yield tmp_path
    settings.reset_settings()


@pytest.fixture
def run(session: Session) -> Workflow:
    return make_run(session, make_user(session))


def stored(session: Session, run: Workflow) -> int:
    """Return how many bytes count in the owner's database storage."""
    return int(
        session.scalar(
            sa.select(UserResource.quota_used)
            .join(Resource)
            .where(Resource.name == DATABASE_STORAGE, UserResource.owner_id == run.owner_id)
        )
        or 0
    )


def files(root: Path) -> list[Path]:
    return list(root.glob("users/*/workflows/*/.platform-db/results/*"))


@pytest.mark.parametrize(
    "value", [{"a": [1, None, "ü\0"]}, "text", None, 0, False, [], b"", b"\x00\xff", bytearray(b"b")]
)
def test_what_was_set_comes_back(session: Session, run: Workflow, value: object) -> None:
    set_result(session, run, value)
    session.commit()
    found = get_result(session, run)
    assert found.value == value
    assert found.media_type == (
        "application/octet-stream" if isinstance(value, bytes | bytearray) else "application/json"
    )
    assert (found.size, found.in_file) == (len(found.data), False)
    assert stored(session, run) == found.size


def test_results_have_names_and_jobs_have_their_own(session: Session, run: Workflow) -> None:
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.commit()
    set_result(session, run, b"<svg/>", name="plot", media_type="image/svg+xml")
    set_result(session, run.id_, 1, model=Workflow)
    set_result(session, (job.owner_id, job.id_), 2, model=Job)
    assert get_result(session, run, "plot").media_type == "image/svg+xml"
    assert [get_result(session, row).value for row in (run, job)] == [1, 2]
    assert get_result(session, job.id_, model=Job).value == 2
    with pytest.raises(errors.ResultNotFound, match=f"job {job.id_} has no result 'plot'"):
        get_result(session, job, "plot")
    with pytest.raises(errors.NotFound, match="there is no workflow"):
        set_result(session, uuid.uuid4(), 1, model=Workflow)


def test_setting_it_again_replaces_it_and_counts_the_difference(session: Session, run: Workflow) -> None:
    set_result(session, run, b"x" * 900)
    set_result(session, run, b"y" * 300)
    session.commit()
    assert get_result(session, run).data == b"y" * 300
    assert stored(session, run) == 300
    assert delete_result(session, run)
    assert not delete_result(session, run)
    assert stored(session, run) == 0


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (b"x" * 5001, {}),
        (float("nan"), {}),
        ({1, 2}, {}),
        ("half \ud800", {}),
        ("text", {"media_type": "text/plain"}),
        (b"{", {"media_type": "application/json"}),
        (b"[NaN]", {"media_type": "application/json"}),
        (b"", {"name": ""}),
        (b"", {"name": "x" * 1025}),
        (b"", {"media_type": ""}),
    ],
)
def test_what_cannot_be_a_result_is_refused(
    session: Session, run: Workflow, value: object, options: dict
) -> None:
    with pytest.raises(errors.InvalidArgument):
        set_result(session, run, value, **options)
    set_result(session, run, 1)


def test_a_name_that_is_no_text_is_refused(session: Session, run: Workflow) -> None:
    with pytest.raises(errors.InvalidText):
        set_result(session, run, 1, name="\0")


def test_a_large_result_is_a_file_in_the_workspace(session: Session, run: Workflow, root: Path) -> None:
    assert set_result(session, run, LARGE).in_file
    session.commit()
    (file,) = files(root)
    assert file.read_bytes() == LARGE
    assert str(file).startswith(run.workspace_path)
    assert get_result(session, run).data == LARGE
    assert stored(session, run) == 0, "the disk job counts it"


def test_a_replaced_file_goes_after_the_commit_and_not_before(
    session: Session, run: Workflow, root: Path
) -> None:
    set_result(session, run, LARGE)
    session.commit()
    set_result(session, run, b"2" + LARGE)
    session.rollback()
    assert get_result(session, run).data == LARGE
    session.commit()
    with session.begin_nested() as savepoint:
        set_result(session, run, b"3" + LARGE)
        savepoint.rollback()
    session.commit()
    assert get_result(session, run).data == LARGE
    with session.begin_nested():
        set_result(session, run, b"4" + LARGE)
    assert len(files(root)) == 4, "of the two that were rolled back, the files stay"
    session.commit()
    assert get_result(session, run).data == b"4" + LARGE
    assert len(files(root)) == 3
    set_result(session, run, b"small")
    session.commit()
    assert len(files(root)) == 2


def test_a_reader_finds_the_file_that_another_writer_puts_in_the_place_of_the_one_it_looked_for(
    session: Session,
    session_factory: orm.sessionmaker[Session],
    run: Workflow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_result(session, run, LARGE)
    session.commit()
    key, read_file = (run.owner_id, run.id_), stored_files.read_file
    session.commit()

    def replaced_before(*args: Any) -> bytes | None:
        monkeypatch.setattr(stored_files, "read_file", read_file)
        with session_factory() as other, other.begin():
            set_result(other, key, b"2" + LARGE, model=Workflow)
        return read_file(*args)

    monkeypatch.setattr(stored_files, "read_file", replaced_before)
    assert get_result(session, key, model=Workflow).data == b"2" + LARGE


@pytest.mark.parametrize("harm", ["gone", "changed", "cut", "link", "directory", "linked place"])
def test_a_file_that_is_not_what_was_stored_is_not_returned(
    session: Session, run: Workflow, root: Path, harm: str
) -> None:
    set_result(session, run, LARGE)
    session.commit()
    (file,) = files(root)
    elsewhere = root / "elsewhere"
    if harm == "changed":
        file.write_bytes(b"y" * len(LARGE))
    elif harm == "cut":
        file.write_bytes(LARGE[:-1])
    elif harm == "linked place":
        file.parent.rename(elsewhere)
        file.parent.symlink_to(elsewhere)
    else:
        file.rename(elsewhere)
        if harm == "link":
            file.symlink_to(elsewhere)
        elif harm == "directory":
            file.mkdir()
    with pytest.raises(errors.ResultLost, match="result 'result' of workflow"):
        get_result(session, run)


def test_no_link_leads_a_file_out_of_the_workspace(session: Session, run: Workflow, root: Path) -> None:
    outside = root / "outside"
    outside.mkdir()
    workspace = Path(run.workspace_path)
    workspace.mkdir(parents=True)
    (workspace / ".platform-db").symlink_to(outside)
    with pytest.raises(WorkspaceError, match="behind a link"):
        set_result(session, run, LARGE)
    assert list(outside.iterdir()) == []
    session.commit()


def test_only_a_managed_workspace_holds_files(session: Session, run: Workflow, tmp_path: Path) -> None:
    run.workspace_path = f"{tmp_path}/elsewhere"
    with pytest.raises(WorkspaceError, match="is not managed"):
        set_result(session, run, LARGE)
    assert not (tmp_path / "elsewhere").exists()


def test_a_root_that_is_not_mounted_gets_no_file(session: Session, run: Workflow, root: Path) -> None:
    (root / ".platform-db-root").unlink()
    with pytest.raises(errors.StorageMissing):
        set_result(session, run, LARGE)
    assert list(root.iterdir()) == []


# -- database storage


def test_a_limit_refuses_what_is_beyond_it_and_the_transaction_goes_on(
    session: Session, run: Workflow
) -> None:
    quota.set_limit(session, run.owner_id, "database", 100)
    set_result(session, run, b"x" * 60, name="a")
    session.commit()
    with pytest.raises(errors.QuotaExceeded) as refused:
        set_result(session, run, b"x" * 41, name="b")
    error = refused.value
    assert (error.resource, error.amount, error.used, error.reserved, error.limit) == (
        DATABASE_STORAGE,
        41,
        60,
        0,
        100,
    )
    assert error.user_id == str(run.owner_id)
    set_result(session, run, b"x" * 100, name="a")
    set_result(session, run, b"x" * 40, name="a")
    set_result(session, run, LARGE, name="file")
    session.commit()
    assert stored(session, run) == 40
    quota.set_limit(session, run.owner_id, "database", 10)
    set_result(session, run, b"x" * 30, name="a")
    assert stored(session, run) == 30, "less is allowed, also above the limit"
    assert run.owner.get_quota_usage()["database"]["health"] == "critical"


def test_two_writers_together_do_not_pass_a_limit(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    quota.set_limit(session, run.owner_id, "database", 100)
    session.commit()
    key, refused = (run.owner_id, run.id_), []
    session.commit()

    def set_other() -> None:
        try:
            with session_factory() as second, second.begin():
                set_result(second, key, b"x" * 60, name="b", model=Workflow)
        except errors.QuotaExceeded as error:
            refused.append(error)

    with session_factory() as first, first.begin():
        set_result(first, key, b"x" * 60, name="a", model=Workflow)
        other = threading.Thread(target=set_other)
        other.start()
        wait_for_a_lock(session_factory)
    other.join()
    assert len(refused) == 1
    assert stored(session, run) == 60


def test_writers_of_many_results_in_opposite_orders_lose_nothing(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    key, failures = (run.owner_id, run.id_), []
    session.commit()

    def work(names: list[str]) -> None:
        try:
            for size in range(10):
                with session_factory() as own, own.begin():
                    for name in names:
                        set_result(own, key, b"x" * size, name=name, model=Workflow)
        except BaseException as error:
            failures.append(error)

    names = list("abcd")
    threads = [threading.Thread(target=work, args=(order,)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(session, run) == session.scalar(sa.select(sa.func.sum(WorkflowResult.size)))


def test_whatever_changes_the_rows_changes_the_total(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    other = make_run(session, run.owner)
    job = Job(workflow_id=other.id_, owner_id=other.owner_id)
    session.add(job)
    session.flush()
    for row, size in ((run, 10), (other, 20), (job, 30)):
        set_result(session, row, b"x" * size)
    session.execute(
        sa.text("""
            INSERT INTO platform.workflow_result
                (id_, owner_id, workflow_id, name, media_type, size, sha256, data)
            SELECT gen_random_uuid(), owner_id, id_, 'raw', 'text/plain', 3, sha256('abc'), 'abc'
            FROM platform.workflow
            """)
    )
    assert stored(session, run) == 66
    session.delete(job)
    session.commit()
    assert stored(session, run) == 36
    other.status = "deleted"
    session.commit()
    rules = choose_rules(["workflow"], older_than=NOW)
    (pruned,) = prune(session_factory, rules)
    assert (pruned.rows, pruned.with_them["workflow_result"]) == (1, 2)
    session.rollback()
    assert stored(session, run) == 13
    assert check_deeply(session) == []
    session.delete(run)
    session.commit()
    assert stored(session, run) == 0


def test_pruning_waits_for_no_total(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    """Or it would deadlock with a service that ends a run after it has set a result."""
    set_result(session, run, 1)
    run.status = "deleted"
    session.commit()
    with session_factory() as busy, busy.begin():
        busy.execute(sa.text("SELECT FROM platform.user_resource FOR NO KEY UPDATE"))
        (pruned,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    assert (pruned.rows, pruned.left) == (0, 1)
    (pruned,) = prune(session_factory, choose_rules(["workflow"], older_than=NOW))
    assert pruned.rows == 1


def test_a_total_that_was_changed_by_hand_is_found_and_mended(
    session: Session, session_factory: orm.sessionmaker[Session], run: Workflow
) -> None:
    set_result(session, run, b"x" * 10)
    session.execute(sa.update(UserResource).values(quota_used=UserResource.quota_used + 1))
    session.commit()
    assert any("database storage" in finding.check for finding in check_deeply(session))
    session.rollback()
    found = [d for d in reconcile(session_factory, fix=True) if d.resource == DATABASE_STORAGE]
    assert [(d.what, d.before, d.now) for d in found] == [("total", 11, 10)]
    session.expire_all()
    assert stored(session, run) == 10


def test_what_is_stored_before_the_resource_is_counted_once_it_is_created(
    session: Session, session_factory: orm.sessionmaker[Session]
) -> None:
    """Also what another transaction stores while it is being created."""
    session.execute(sa.delete(UserResource))
    session.execute(sa.delete(Resource).where(Resource.name == DATABASE_STORAGE))
    run = make_run(session, make_user(session))
    set_result(session, run, b"x" * 10)
    session.commit()
    key = (run.owner_id, run.id_)
    session.commit()

    def create() -> None:
        with session_factory() as second, second.begin():
            Resource.initialise_default_resources(second)

    with session_factory() as first, first.begin():
        set_result(first, key, b"x" * 5, name="other", model=Workflow)
        creating = threading.Thread(target=create)
        creating.start()
        wait_for_a_lock(session_factory)
    creating.join()
    assert stored(session, run) == 15
    new = User(email="new@example.org")
    session.add(new)
    session.commit()
    assert new.get_quota_usage()["database"]["usage"]["raw"] == 0


def test_a_new_user_gets_the_default_limit(
    session: Session, run: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DB_DEFAULT_QUOTA_DATABASE_LIMIT", "7")
    settings.reset_settings()
    usage = make_user(session).get_quota_usage()
    assert usage["database"]["limit"]["raw"] == 7
    assert "limit" not in usage["disk"]


# -- the command


def test_the_command_prints_a_result(session: Session, run: Workflow, database_uri: str, root: Path) -> None:
    job = Job(workflow_id=run.id_)
    session.add(job)
    session.flush()
    set_result(session, run, {"a": "ü"})
    set_result(session, job, b"\xff\n", name="raw")
    session.commit()
    command = ("workflow", "result", str(run.id_))
    variables = {"PLATFORM_DB_WORKSPACE_ROOT": str(root)}
    assert json.loads(run_command(database_uri, *command, **variables).stdout) == {"a": "ü"}
    described = json.loads(run_command(database_uri, *command, "--json", **variables).stdout)
    assert (described["value"], described["media_type"], described["size"]) == (
        {"a": "ü"},
        "application/json",
        11,
    )
    of_job = (*command, "--job", str(job.id_), "--name", "raw")
    assert run_command(database_uri, *of_job, **variables).stdout_bytes == b"\xff\n"
    described = json.loads(run_command(database_uri, *of_job, "--json", **variables).stdout)
    assert base64.b64decode(described["value"]) == b"\xff\n"
    missing = run_command(database_uri, *command, "--name", "x", **variables)
    assert missing.exit_code == errors.NotFound.exit_code
    assert missing.stderr == f"platform-db: workflow {run.id_} has no result 'x'\n"
