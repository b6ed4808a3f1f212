"""One filter language for every list: what it finds, in which order, and what it refuses."""

from __future__ import annotations

import pytest

from platform_db import errors
from platform_db.cursors import read_all
from platform_db.database.session import PlatformSession
from platform_db.models import Workflow
from platform_db.query import find
from tests.factories import make_run, make_user


def test_a_filter_names_fields_and_labels(session: PlatformSession) -> None:
    ada = make_user(session)
    for name, status, team in (("one", "failed", "a"), ("two", "finished", "a"), ("three", "failed", "b")):
        make_run(session, ada, name=name, status=status, labels={"team": team})
    mine = {"owner_id": ada.id_}
    assert [run.name for run in find(session, Workflow, {**mine, "status": "failed", "labels.team": "a"}).rows] == ["one"]
    assert [run.name for run in find(session, Workflow, mine, labels="team!=a").rows] == ["three"]
    assert [run.name for run in find(session, Workflow, mine, search="T", sort="name").rows] == ["three", "two"]
    page = find(session, Workflow, mine, sort="-name", limit=2, total=True)
    assert ([run.name for run in page.rows], page.previous, str(page.total)) == (["two", "three"], None, "3")
    rest = find(session, Workflow, mine, sort="-name", limit=2, cursor=page.cursor)
    assert ([run.name for run in rest.rows], rest.cursor) == (["one"], None)
    back = find(session, Workflow, mine, sort="-name", limit=2, cursor=rest.previous)
    assert [run.name for run in back.rows] == ["two", "three"]
