"""ipyparallel's own tests of task databases, and what a controller does with this one."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from tests.factories import make_user

pytest.importorskip(
    "ipyparallel", reason="ipyparallel is not installed: pip install platform-db[ipyparallel]"
)

from ipyparallel.tests.test_db import TaskDBTest

from platform_db.integrations.ipyparallel import PlatformDB


@pytest.fixture
def make_db(database_uri: str, session: Session):
    made = []

    def make(**traits: object) -> PlatformDB:
        made.append(PlatformDB(**{"url": database_uri, "owner": owner, **traits}))
        return made[-1]

    owner = make_user(session).email
    yield make
    for db in made:
        db.close()


@pytest.mark.parametrize("commit_delay", [0.05, 0])
class TestAsIpyparallelTests(TaskDBTest):
    @pytest.fixture(autouse=True)
    def prepare(self, make_db, commit_delay: float) -> None:
        self.create_db = lambda: make_db(commit_delay=commit_delay)
        self.setUp()
