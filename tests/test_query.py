"""One filter language for every list: what it finds, in which order, and what it refuses."""

from __future__ import annotations

import gc
import random
import tracemalloc
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_db import errors
from platform_db.cursors import read_all
from platform_db.database.session import PlatformSession
from platform_db.lifecycle import transition
from platform_db.models import (
    AuditLog,
    Base,
    InteractiveSession,
    Job,
    RunStatus,
    Service,
    User,
    UserToken,
    UserWorkflow,
    Workflow,
)
from platform_db.query import find, select_rows
from platform_db.query.fields import fields_of
from platform_db.query.language import OPERATORS
from platform_db.query.sorting import sorts_of
from platform_db.tenancy import tenant_sessionmaker
from platform_db.workflows import share_workflow
from tests.factories import make_run, make_user
from tests.filters import BEGIN, LABELS, VALUES, filters, meets
from tests.tenants import prepare_roles


def test_a_filter_names_fields_and_labels(session: PlatformSession) -> None:
    ada = make_user(session)
    for name, status, team in (("one", "failed", "a"), ("two", "finished", "a"), ("three", "failed", "b")):
        make_run(session, ada, name=name, status=status, labels={"team": team})
    mine = {"owner_id": ada.id_}
    assert [
        run.name for run in find(session, Workflow, {**mine, "status": "failed", "labels.team": "a"}).rows
    ] == ["one"]
    assert [run.name for run in find(session, Workflow, mine, labels="team!=a").rows] == ["three"]
    assert [run.name for run in find(session, Workflow, mine, search="T", sort="name").rows] == [
        "three",
        "two",
    ]
    page = find(session, Workflow, mine, sort="-name", limit=2, total=True)
    assert ([run.name for run in page.rows], page.previous, str(page.total)) == (["two", "three"], None, "3")
    rest = find(session, Workflow, mine, sort="-name", limit=2, cursor=page.cursor)
    assert ([run.name for run in rest.rows], rest.cursor) == (["one"], None)
    back = find(session, Workflow, mine, sort="-name", limit=2, cursor=rest.previous)
    assert [run.name for run in back.rows] == ["two", "three"]


@pytest.mark.parametrize("examples", [80, pytest.param(5000, marks=pytest.mark.soak)])
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
        values.append(
            {**row, **ended, "labels": pick(LABELS), "id_": uuid.uuid4(), "run_number_major": number + 1}
        )
    for row in values:
        session.execute(
            sa.insert(Workflow),
            {**row, "owner_id": owner.id_, "type_": "serial", "workspace_path": "/w", "run_number_minor": 0},
        )
    session.commit()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(filters())
    def agrees(filter_: dict[str, Any]) -> None:
        mine = {"owner_id": owner.id_, "$and": [filter_]}
        found = session.scalars(select_rows(Workflow, mine).with_only_columns(Workflow.id_)).all()
        assert set(found) == {row["id_"] for row in values if meets(row, filter_)}, filter_
        page = find(session, Workflow, mine, limit=2, total=True)
        assert [row.id_ for row in page.rows] == found[:2], filter_
        assert page.total == (len(found), True), filter_

    agrees()


@pytest.mark.parametrize("way", ["", "-"])
@pytest.mark.parametrize("name", sorted(sorts_of(Workflow)))
def test_pages_repeat_nothing_and_lose_nothing_that_was_there_throughout(
    session: PlatformSession, name: str, way: str
) -> None:
    owner = make_user(session)
    chance = random.Random(f"{name}{way}")
    started = ("running", "finished", "failed", "stopped")
    rows = [
        make_run(session, owner, name=f"run-{chance.randrange(5)}", id_=uuid.uuid4(), status=status)
        for status in ("created", *started) * 5
    ]
    for row in rows[::3]:
        transition(session, row, {"created": "queued", "running": "failed"}.get(row.status, row.status))
    # Running ones go on for so long that none passes one that has ended while this test runs.
    session.execute(
        sa.update(Workflow)
        .where(Workflow.owner_id == owner.id_, Workflow.status == "running")
        .values(run_started_at=Workflow.run_started_at - timedelta(hours=1))
    )
    session.commit()
    there = {row.id_ for row in rows}
    mine = {"owner_id": owner.id_}
    selected = select_rows(Workflow, mine, sort=way + name).with_only_columns(Workflow.id_)
    in_order = list(session.scalars(selected))
    assert len(in_order) == len(rows)

    def turn(cursor: str | None) -> Any:
        # One comes, and one goes.
        make_run(session, owner, name="run-2", status=chance.choice(started))
        gone = there.pop() if len(there) > 5 else None
        session.execute(sa.delete(Workflow).where(Workflow.id_ == gone, Workflow.owner_id == owner.id_))
        session.commit()
        return find(session, Workflow, mine, sort=way + name, limit=3, cursor=cursor)

    forward, page = [], turn(None)
    forward += [row.id_ for row in page.rows]
    while page.cursor is not None:
        page = turn(page.cursor)
        forward += [row.id_ for row in page.rows]
    assert len(forward) == len(set(forward))
    backward = [row.id_ for row in page.rows[::-1]]
    while page.previous is not None:
        page = turn(page.previous)
        backward += [row.id_ for row in page.rows[::-1]]
    assert len(backward) == len(set(backward))
    throughout = [id_ for id_ in in_order if id_ in there]
    assert [id_ for id_ in forward if id_ in there] == throughout
    assert [id_ for id_ in backward if id_ in there] == throughout[::-1]


def test_a_way_back_leads_over_a_place_that_is_empty_now(session: PlatformSession) -> None:
    owner = make_user(session)
    first, second, third = (make_run(session, owner) for _ in range(3))
    mine = {"owner_id": owner.id_}
    page = find(session, Workflow, mine, sort="created", limit=2)
    session.delete(third)
    session.commit()
    empty = find(session, Workflow, mine, sort="created", limit=2, cursor=page.cursor)
    assert (empty.rows, empty.cursor) == ([], None)
    back = find(session, Workflow, mine, sort="created", limit=2, cursor=empty.previous)
    assert back.rows == [first, second]


@pytest.mark.parametrize("year", [1, 1800, 9999])
def test_a_page_goes_on_from_whatever_time_a_writer_gave(session: PlatformSession, year: int) -> None:
    owner = make_user(session)
    began = datetime(year, 7, 1, tzinfo=timezone.utc)
    rows = [make_run(session, owner, status="running", run_started_at=began) for _ in range(3)]
    mine = {"owner_id": owner.id_}
    pages = read_all(lambda cursor: find(session, Workflow, mine, sort="started", limit=1, cursor=cursor))
    assert list(pages) == rows


def test_the_runtime_of_what_runs_is_that_of_the_first_page(session: PlatformSession) -> None:
    owner = make_user(session)
    rows = [make_run(session, owner, status="running") for _ in range(4)]
    mine = {"owner_id": owner.id_}
    page = find(session, Workflow, mine, sort="-runtime", limit=2)
    assert page.rows == rows[:2]
    transition(session, rows[3], "finished")
    session.commit()
    assert find(session, Workflow, mine, sort="-runtime", limit=2, cursor=page.cursor).rows == rows[2:]


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"stauts": "failed"}, "workflow has no field 'stauts'; did you mean status?"),
        (
            {"status": "done"},
            "status takes one of created, queued, pending, running, finished, failed, stop",
        ),
        ({"status": {"$gt": "failed"}}, "status has no order; choose from $eq, $ne, $in, $nin, $exists"),
        (
            {"created": "yesterday"},
            "created takes a time with its zone, such as 2026-11-21T07:30:00Z, not 'yesterday'",
        ),
        ({"created": {"$gt": "2026-11-21T07:30:00"}}, "created takes a time with its zone"),
        ({"id_": "7"}, "id_ takes an id, not '7'"),
        ({"priority": True}, "priority takes a number, not True"),
        ({"priority": float("nan")}, "priority takes a number, not nan"),
        ({"name": 7}, "name takes text, not 7"),
        ({"name": "a\0b"}, "name takes text"),
        ({"name": {"$glob": "\ud800"}}, "a pattern has a NUL or half of a surrogate pair"),
        ({"name": {"$regex": "x"}}, "there is no operator '$regex'; choose from $all, $eq,"),
        ({"name": {"$in": "abc"}}, "$in takes a list, not 'abc'"),
        ({"name.first": "x"}, "name is no JSON, so 'name.first' is not in it"),
        ({"labels.a": {"$gt": [1]}}, "$gt compares numbers or text, not [1]"),
        ({"labels.a": float("inf")}, "labels takes what JSON has, not inf"),
        ({"labels.a": object}, "labels takes what JSON has"),
        ({"labels.\0": 1}, "a path has a NUL or half of a surrogate pair"),
        (
            {"priority": {"$mod": [0, 1]}},
            "$mod takes [divisor, remainder], two integers, the first one not 0",
        ),
        ({"name": {"$mod": [2, 1]}}, "$mod divides numbers, which name is not"),
        ({"status": {"$glob": "f*"}}, "$glob looks for a pattern in text, which status is not"),
        ({"name": {"$exists": 1}}, "$exists takes true or false, not 1"),
        ({"$or": []}, "$or takes a list of filters, at least one"),
        ({"$nor": [{}]}, "no operator '$nor' stands there; choose from $and, $or, $not"),
        ({"name": {"$not": "x"}}, "$not takes operators, such as {'$gt': 5}"),
        ({7: 7}, "a field's name is text, not 7"),
        ([], "a filter is a dictionary, not []"),
        ({"token": "x"}, "workflow has no field 'token'"),
    ],
)
def test_a_wrong_filter_is_refused_in_one_line(session: PlatformSession, filter_: Any, message: str) -> None:
    with pytest.raises(errors.InvalidFilter) as refused:
        find(session, Workflow, filter_, scan=True)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert session.scalar(sa.select(sa.literal(1))) == 1


def test_a_filter_nests_only_so_deep(session: PlatformSession) -> None:
    filter_: dict[str, Any] = {}
    for _ in range(10_000):
        filter_ = {"$not": filter_}
    with pytest.raises(errors.InvalidFilter, match="nested deeper than 50 times"):
        find(session, Workflow, filter_, scan=True)


@pytest.mark.parametrize("selector", ["a=b,", ",", "a b", "a in x", "a in (x", "=b", "a=b=c", "!", "a,,b"])
def test_a_wrong_selector_is_refused(session: PlatformSession, selector: str) -> None:
    with pytest.raises(errors.InvalidFilter, match="no label selector goes on so"):
        find(session, Workflow, labels=selector, scan=True)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", "abc"), ("team=a", "a"), ("team==a", "a"), ("team != a", "bc"), ("team in (a, b)", "ab"),
        ("team notin (a)", "bc"), ("team", "ab"), ("!team", "c"), ("team,k8s.io/gpu=1", "b"),
        ("team in (a,b) , !k8s.io/gpu", "a"), ("x=", "c"),
    ],
)  # fmt: skip
def test_labels_are_selected_as_in_kubernetes(session: PlatformSession, selector: str, names: str) -> None:
    owner = make_user(session)
    for name, labels in (("a", {"team": "a"}), ("b", {"team": "b", "k8s.io/gpu": "1"}), ("c", {"x": ""})):
        make_run(session, owner, name=name, labels=labels)
    page = find(session, Workflow, {"owner_id": owner.id_}, labels=selector, sort="name")
    assert "".join(run.name for run in page.rows) == names


@pytest.mark.parametrize("text", ["50%", "a_b", "A_B", "\\", "É"])
def test_a_search_takes_its_text_by_the_letter(session: PlatformSession, text: str) -> None:
    owner = make_user(session)
    for name in ("is 50% done", "a_b", "back\\slash", "éa", "505 done", "aXb"):
        make_run(session, owner, name=name)
    page = find(session, Workflow, {"owner_id": owner.id_}, search=text)
    assert [run.name for run in page.rows if text.lower() not in run.name.lower()] == []
    assert len(page.rows) == 1
    assert (
        find(session, Workflow, {"owner_id": owner.id_}, search=str(page.rows[0].id_)[3:].upper()).rows
        == page.rows
    )


def test_what_no_index_serves_is_refused_across_owners(session: PlatformSession) -> None:
    run = make_run(session, make_user(session))
    for served in (
        find(session, Workflow),
        find(session, Workflow, {"created": {"$gt": "2026-01-01T00:00:00Z"}}, sort="created"),
        find(session, Workflow, {"status": {"$in": ["created", "running"]}}, sort="name"),
        find(session, Workflow, {"id": str(run.id_)}, sort="status"),
        find(session, Workflow, {"labels": {}}, sort="updated", scan=True),
    ):
        assert served.rows == [run]
    for filter_, options in (
        ({"labels": {}}, {}),
        ({"status": "failed"}, {}),
        ({"$or": [{"id": run.id_}, {"name": "x"}]}, {}),
        ({}, {"sort": "name"}),
        ({}, {"search": "x"}),
        ({}, {"labels": "a"}),
    ):
        with pytest.raises(errors.Refused, match="no index serves this list of all owners' rows"):
            find(session, Workflow, filter_, **options)


def test_a_tenant_finds_its_own_rows_whatever_it_asks_for(
    session: PlatformSession, engine: sa.Engine
) -> None:
    prepare_roles(engine)
    ada, bob = make_user(session), make_user(session)
    make_run(session, ada)
    theirs = make_run(session, bob)
    with tenant_sessionmaker(engine, ada.id_)() as scope:
        for filter_ in ({}, {"owner_id": bob.id_}, {"id": theirs.id_}, {"$or": [{"owner_id": bob.id_}, {}]}):
            assert {run.owner_id for run in find(scope, Workflow, filter_).rows} <= {ada.id_}
        assert len(find(scope, Workflow, {"name": {"$exists": True}}, sort="name").rows) == 1
        with pytest.raises(errors.Refused, match="outside the tenant's scope"):
            find(scope, Workflow, include_shared=True)


def test_what_others_share_is_found_too(session: PlatformSession) -> None:
    ada, bob = make_user(session), make_user(session)
    own, shared = make_run(session, ada, name="own"), make_run(session, bob, name="shared")
    make_run(session, bob, name="private")
    share_workflow(session, shared, ada)
    session.commit()
    mine = {"owner_id": ada.id_}
    assert find(session, Workflow, mine, include_shared=True, sort="name").rows == [own, shared]
    assert find(session, Workflow, {**mine, "name": "shared"}, include_shared=True, total=True).total == (
        1,
        True,
    )
    with pytest.raises(errors.InvalidFilter, match="takes one owner_id"):
        find(session, Workflow, include_shared=True)


def test_a_total_is_exact_up_to_a_bound(session: PlatformSession) -> None:
    owner = make_user(session)
    for _ in range(4):
        make_run(session, owner)
    mine = {"owner_id": owner.id_}
    totals = [find(session, Workflow, mine, limit=2, total=most).total for most in (3, 4, True)]
    assert list(map(str, totals)) == ["3+", "4", "4"]
    assert find(session, Workflow, mine).total is None


@pytest.mark.parametrize("model", [Workflow, Job, InteractiveSession, Service, AuditLog, UserToken, User])
def test_every_table_is_found_and_sorted_in_the_same_language(
    session: PlatformSession, model: type[Base]
) -> None:
    for name in sorts_of(model):
        assert find(session, model, {"created": {"$exists": False}}, sort=f"-{name}", scan=True).rows == []
    for name in fields_of(model):
        find(session, model, {name: None}, scan=True)
        find(session, model, {name: {"$in": [None]}}, scan=True)
    secrets = ("token", "secret", "digest")
    assert [name for name in fields_of(model) if any(word in name for word in secrets)] == []


def test_a_page_is_one_statement(session: PlatformSession, engine: sa.Engine) -> None:
    owner_id = make_user(session).id_
    for number in range(5):
        session.add(Workflow(name=f"run-{number}", owner_id=owner_id, type_="serial", specification={}))
    session.commit()
    statements = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    pages = read_all(
        lambda cursor: find(session, Workflow, {"owner_id": owner_id}, sort="name", limit=2, cursor=cursor)
    )
    assert [(run.name, run.labels) for run in pages] == [(f"run-{number}", {}) for number in range(5)]
    assert len(statements) == 3
    assert not any("specification" in statement for statement in statements)


TEXTS = ["\0", "\ud800", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59"]
OBJECTS = [
    10**400,
    2**63,
    object(),
    datetime.min.replace(tzinfo=timezone.utc),
    uuid.UUID(int=0),
    {1, 2},
    b"x",
]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(TEXTS)
    | st.sampled_from([*OBJECTS, RunStatus.failed]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.mark.parametrize("model", [Workflow, AuditLog, UserToken])
def test_whatever_is_asked_for_is_answered_or_refused_in_one_line(
    session: PlatformSession, model: type[Base]
) -> None:
    names = [*fields_of(model), "nothing", "labels.a", "details.a\nb", "$a\nb"]
    operators = [*OPERATORS, "$ne", "$nin", "$not", "$regex"]
    value = ODD | st.dictionaries(st.sampled_from(operators), ODD | st.lists(ODD, max_size=3), max_size=2)

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(names), value, max_size=2), ODD, st.text(max_size=8))
    def is_answered(filter_: dict[str, Any], sort: Any, text: str) -> None:
        asked = {"sort": sort, "search": text, "labels": text} if len(text) > 6 else {}
        try:
            find(session, model, filter_, scan=True, total=True, **asked)
            find(session, model, filter_)
        except (errors.InvalidFilter, errors.Refused) as refused:
            assert "\n" not in str(refused)

    is_answered()
    assert session.scalar(sa.select(sa.literal(1))) == 1


@pytest.mark.parametrize(
    "filter_",
    [
        {"$or": [{"labels.a": number} for number in range(1001)]},
        {"labels.a": {"$all": [0] * 1001}},
        {"labels.a": {"$in": [[number] for number in range(1001)]}},
        {"$and": [{"$not": {}}] * 1001},
        {"$or": [{}] * 1001},
        {"labels" + ".a" * 1000: 1},
        {"name": {"$glob": "?" * 1001}},
        {"labels.a": {"b": "\0"}},
        {"labels.a": 10**5000},
        {"labels.a": {"$in": {10**5000}}},
        {"labels.a": {"$eq": {3, 10}}},
        {"priority": 10**5000},
    ],
)
def test_a_filter_has_bounds(session: PlatformSession, filter_: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidFilter):
        find(session, Workflow, filter_, scan=True)
    with pytest.raises(errors.InvalidFilter):
        find(session, Workflow, labels=",".join(["a"] * 1001), scan=True)
    for total in (0, 2**63 - 1):
        with pytest.raises(errors.InvalidArgument):
            find(session, Workflow, scan=True, total=total)
    many = {"priority": {"$in": [*range(50_000), 2**40]}}
    assert find(session, Workflow, many, scan=True).rows == []


def test_what_others_keep_to_themselves_is_not_shared_by_a_second_owner_in_the_filter(
    session: PlatformSession,
) -> None:
    ada, bob = make_user(session), make_user(session)
    make_run(session, ada)
    make_run(session, bob, name="private")
    for filter_ in (
        {"$and": [{"owner_id": bob.id_}], "owner_id": ada.id_},
        {"owner_id": ada.id_, "$and": [{"owner_id": bob.id_}]},
        {"user_id": ada.id_},
    ):
        with pytest.raises((errors.InvalidFilter, errors.Refused)):
            find(session, Workflow, filter_, include_shared=True)


def test_a_total_counts_the_rows_whatever_the_filter_is(session: PlatformSession, engine: sa.Engine) -> None:
    prepare_roles(engine)
    ada = make_user(session)
    for owner in (ada, ada, make_user(session)):
        make_run(session, owner)
    for filter_ in ({}, {"labels": {}}, {"$or": [{}]}):
        assert find(session, Workflow, filter_, scan=True, total=True).total == (3, True)
        with tenant_sessionmaker(engine, ada.id_)() as scope:
            assert find(scope, Workflow, filter_, total=True).total == (2, True)


def test_a_cursor_knows_its_filter_in_whatever_form(session: PlatformSession) -> None:
    owner = make_user(session)
    for _ in range(2):
        make_run(session, owner)
    asked = {"owner_id": owner.id_, "status": {"$in": {"created", "failed"}}, "priority": {"$exists": False}}
    cursor = find(session, Workflow, asked, limit=1).cursor
    again = {
        "priority": {"$exists": False},
        "status": {"$in": ["failed", RunStatus.created]},
        "owner_id": str(owner.id_),
    }
    assert len(find(session, Workflow, again, limit=1, cursor=cursor).rows) == 1


def test_filters_that_look_alike_are_not_taken_for_one_another(session: PlatformSession) -> None:
    owner = make_user(session)
    for name, value in (
        ("true", True),
        ("one", 1),
        ("text", "1"),
        ("list", [1]),
        ("half", 0.5),
        ("none", None),
    ):
        make_run(session, owner, name=name, labels={"a": value}, priority=len(name))
    asked: list[tuple[dict[str, Any], set[str]]] = [
        ({"$and": [{"labels.a": 1}, {"name": "one"}]}, {"one"}),
        ({"$or": [{"labels.a": 1}, {"name": "one"}]}, {"one", "list"}),
        ({"$not": {"labels.a": 1}}, {"true", "text", "half", "none"}),
        ({"labels.a": True}, {"true"}),
        ({"labels.a": 1.0}, {"one", "list"}),
        ({"labels.a": "1"}, {"text"}),
        ({"labels.a": None}, {"none"}),
        ({"labels.b": 1}, set()),
        ({"labels": {"a": 1}}, {"one"}),
        ({"labels.a": {"$in": [0.5, None]}}, {"half", "none"}),
        ({"labels.a": {"$in": [1, "1"]}}, {"one", "list", "text"}),
        ({"priority": {"$gt": 3}}, {"true", "text", "list", "half", "none"}),
        ({"priority": {"$gt": 3.5}}, {"true", "text", "list", "half", "none"}),
        ({"priority": {"$gte": 3.5, "$lt": 4}}, set()),
        ({"priority": {"$in": [3, None]}}, {"one"}),
        ({"priority": {"$exists": False}}, set()),
        ({"priority": {"$exists": True}, "name": {"$glob": "t*"}}, {"true", "text"}),
    ]
    for filter_, names in [*asked, *asked[::-1]]:
        for search in ("", "T"):
            page = find(session, Workflow, {"owner_id": owner.id_, **filter_}, search=search)
            assert {run.name for run in page.rows} == {name for name in names if search.lower() in name}


def test_a_large_filter_leaves_nothing_in_memory(session: PlatformSession) -> None:
    def ask(comparisons: int) -> None:
        find(session, Workflow, {"$and": [{"labels.a": {"$glob": "x"}}] * comparisons}, scan=True, total=True)
        find(session, Workflow, {"labels.a": {"$in": [None] * 100 * comparisons}}, scan=True)
        find(session, Workflow, {"labels.a": {"$all": [None] * comparisons}}, scan=True)

    ask(151)
    gc.collect()
    tracemalloc.start()
    ask(152)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 * 1024**2


def test_what_was_deleted_while_it_ran_ran_until_then(session: PlatformSession) -> None:
    owner = make_user(session)
    service = Service(name="dask", owner_id=owner.id_, status="running")
    session.add(service)
    session.commit()
    transition(session, service, "deleted")
    session.commit()
    session.refresh(service)
    assert find(session, Service, {"owner_id": owner.id_, "ended": service.updated}).rows == [service]


def test_what_a_list_does_not_load_is_no_field(session: PlatformSession) -> None:
    for model, name in ((Workflow, "specification"), (Job, "environment"), (Job, "command")):
        with pytest.raises(errors.InvalidFilter, match="has no field"):
            find(session, model, {name: {"$exists": True}}, scan=True)


def test_rows_that_are_no_list_are_refused(session: PlatformSession) -> None:
    with pytest.raises(errors.InvalidFilter, match="rows of user_workflow are not listed by themselves"):
        find(session, UserWorkflow, {})
