"""One filter language for every list: what it finds, in which order, and what it refuses."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from platform_db.database.session import PlatformSession
from platform_db.models import Workflow
from platform_db.query import find, select_rows
from tests.factories import make_run, make_user
from tests.filters import BEGIN, LABELS, VALUES, filters, meets


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


@pytest.mark.parametrize("examples", [300, pytest.param(5000, marks=pytest.mark.soak)])
def test_the_database_answers_as_plain_python_does(session: PlatformSession, examples: int) -> None:
    owner = make_user(session)
    pick = random.Random(7).choice
    values: list[dict[str, Any]] = []
    for number in range(1000):
        row = {name: pick(choices) for name, choices in VALUES.items()}
        times = {"finished": "run_finished_at", "failed": "run_finished_at", "stopped": "run_stopped_at"}
        if row["status"] == "running":
            row["run_started_at"] = row["run_started_at"] or BEGIN
        ended = {times[row["status"]]: BEGIN} if row["status"] in times else {}
        values.append({**row, **ended, "labels": pick(LABELS), "id_": uuid.uuid4(), "run_number_major": number + 1})
    for row in values:
        session.execute(
            sa.insert(Workflow),
            {**row, "owner_id": owner.id_, "type_": "serial", "workspace_path": "/w", "run_number_minor": 0},
        )
    session.commit()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(filters())
    def agrees(filter_: dict[str, Any]) -> None:
        statement = select_rows(Workflow, {"owner_id": owner.id_, "$and": [filter_]})
        found = session.scalars(statement.with_only_columns(Workflow.id_)).all()
        assert set(found) == {row["id_"] for row in values if meets(row, filter_)}, filter_

    agrees()
