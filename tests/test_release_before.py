"""The release before this schema's newest revision works beside it.

Its code is taken from the repository's history: the commit before the newest revision came. Where the history
is not there, as in an unpacked archive, this is skipped.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import orm

import platform_db
from platform_db import schema
from platform_db.audit import record_action, seal_audit_log
from platform_db.database.session import PlatformSession
from platform_db.models import NOBODY
from platform_db.schema.status import FOLDERS

ROOT = Path(platform_db.__file__).parents[1]

# What a service of a platform does all day, in names that the release before has, too.
WORK = """
import json, sys
from sqlalchemy import orm
from platform_db import database, schema
from platform_db.audit import list_audit
from platform_db.lifecycle import transition
from platform_db.logs import append_log, read_log
from platform_db.testing.factories import make_run, make_user
from platform_db.tokens import authenticate, issue

with orm.Session(database.create_engine(database.database_url())) as session:
    user = make_user(session)
    run = make_run(session, user, jobs=["running"])
    for status in ("queued", "pending", "running", "finished"):
        transition(session, run, status)
        session.commit()
    append_log(session, run, "it works")
    value = issue(session, user)
    for action in ("request_token", "grant_token"):
        user.log_action(action)
    session.commit()
    print(json.dumps({
        "ends at": schema.revisions()[-1],
        "status": str(run.status.value),
        "log": str(read_log(session, run)),
        "user": authenticate(session, value).user_id == user.id_,
        "recorded": sorted(row.action for row in list_audit(session, user_id=user.id_).rows),
    }))
"""


def git(*arguments: str) -> bytes:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def code_before(revisions: list[str], folder: Path) -> Path:
    """Give the code as it was before the first of these revisions that is committed."""
    try:
        for revision in revisions:
            (file,) = FOLDERS[0].glob(f"{revision}_*.py")
            added = git("log", "--diff-filter=A", "--format=%H", "--", str(file.relative_to(ROOT))).split()
            if added:
                break
        packed = git("archive", f"{added[-1].decode()}^", "platform_db")
    except (OSError, subprocess.CalledProcessError, UnboundLocalError, IndexError):
        pytest.skip("there is no history of the repository to take the release before from")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the code as it was before the newest revision that is committed."""
    return code_before(list(reversed(schema.revisions())), tmp_path_factory.mktemp("before"))


def work(code: Path, uri: str, key: str, script: str = WORK) -> dict[str, object]:
    """Let a release do its work in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLATFORM_DB_")}
    environment |= {"PYTHONPATH": str(code), "PLATFORM_DB_URI": uri, "PLATFORM_DB_SECRET_KEY": key}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=code, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_release_before_works_beside_the_newest_schema(
    release_before: Path, database_uri: str, secret_key: str
) -> None:
    before = work(release_before, database_uri, secret_key)
    now = work(ROOT, database_uri, secret_key)

    assert before.pop("ends at") < now.pop("ends at")  # type: ignore[operator]
    recorded = ["create_user", "grant_token", "grant_token", "request_token"]
    assert before == now == {"status": "finished", "log": before["log"], "user": True, "recorded": recorded}
    assert "it works" in str(before["log"])


# Its lists go by time and number, and its export by number; rows that wait in the inbox have none.
READ_AUDIT = """
import json
from sqlalchemy import orm
from platform_db import database, errors
from platform_db.audit import export_audit, list_audit

with orm.Session(database.create_engine(database.database_url())) as session:
    listed, cursor, refused = [], None, False
    while not refused and (cursor or not listed):
        try:
            page = list_audit(session, limit=1, cursor=cursor)
        except errors.InvalidIdentifier:
            refused = True
        else:
            listed += [row.number for row in page.rows]
            cursor = page.cursor
    exported = [row["number"] for row in export_audit(session)]
    print(json.dumps({"listed": listed, "refused": refused, "exported": exported}))
"""


def test_the_release_before_the_inbox_reads_what_is_sealed(
    tmp_path: Path, database_uri: str, secret_key: str, session_factory: orm.sessionmaker[PlatformSession]
) -> None:
    before = code_before(["0013"], tmp_path)

    def record(count: int) -> None:
        with session_factory() as session, session.begin():
            for _ in range(count):
                record_action(session, NOBODY, "rotate_keys")

    record(2)
    seal_audit_log(session_factory)
    assert work(before, database_uri, secret_key, READ_AUDIT) == {
        "listed": [2, 1],
        "refused": False,
        "exported": [1, 2],
    }

    record(2)
    assert work(before, database_uri, secret_key, READ_AUDIT) == {
        "listed": [None],
        "refused": True,
        "exported": [1, 2],
    }
