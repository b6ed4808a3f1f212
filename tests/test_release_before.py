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

import platform_db
from platform_db import schema
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


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the code as it was before the newest revision that is committed."""
    try:
        for revision in reversed(schema.revisions()):
            (file,) = FOLDERS[0].glob(f"{revision}_*.py")
            added = git("log", "--diff-filter=A", "--format=%H", "--", str(file.relative_to(ROOT))).split()
            if added:
                break
        packed = git("archive", f"{added[-1].decode()}^", "platform_db")
    except (OSError, subprocess.CalledProcessError, UnboundLocalError, IndexError):
        pytest.skip("there is no history of the repository to take the release before from")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def work(code: Path, uri: str, key: str) -> dict[str, object]:
    """Let a release do its work in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLATFORM_DB_")}
    environment |= {"PYTHONPATH": str(code), "PLATFORM_DB_URI": uri, "PLATFORM_DB_SECRET_KEY": key}
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=environment, cwd=code, capture_output=True, text=True, check=False
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
