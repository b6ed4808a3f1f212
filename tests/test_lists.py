"""Lists: ordered by the database's clock, read by cursors, and served by an index."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm

from platform_db import errors, users
from platform_db.audit import list_audit
from platform_db.cursors import read_all
from platform_db.database.session import PlatformSession
from platform_db.jobs import list_jobs
from platform_db.lifecycle import history, transition
from platform_db.logs import read_new_log
from platform_db.models import NOBODY, Job, User, UserToken, UserTokenType, UserWorkflow, Workflow
from platform_db.tokens import list_tokens
from platform_db.workflows import list_shared, list_workflows, share_workflow
from tests.factories import make_run, make_user


def test_runs_with_random_ids_list_newest_first(session: PlatformSession) -> None:
    owner = make_user(session)
    names = [f"run-{number}" for number in range(20)]
    for name in names:
        make_run(session, owner, name=name, id_=uuid.uuid4())
    listed = list(read_all(lambda cursor: list_workflows(session, owner.id_, limit=7, cursor=cursor)))
    assert [run.name for run in listed] == names[::-1]
    assert [run.name for run in owner.workflows] == names


def test_what_one_transaction_makes_has_an_order_too(session: PlatformSession) -> None:
    owner = make_user(session)
    names = [f"run-{number}" for number in range(20)]
    for name in names:
        session.add(Workflow(uuid.uuid4(), name, owner.id_, {}, "serial"))
        session.flush()
    session.commit()
    assert [run.name for run in list_workflows(session, owner.id_).rows] == names[::-1]


def test_two_writers_whose_clocks_differ_are_read_in_the_order_of_their_commits(
    session: PlatformSession, session_factory: orm.sessionmaker[PlatformSession]
) -> None:
    owner_id = make_user(session).id_
    for name, hours in (("first", 1), ("second", -1), ("third", 0)):
        with session_factory() as writer, writer.begin():
            clock = datetime.now(timezone.utc) + timedelta(hours=hours)
            writer.add(Workflow(uuid.uuid4(), name, owner_id, {}, "serial", created=clock, updated=clock))
    assert [run.name for run in list_workflows(session, owner_id).rows] == ["third", "second", "first"]


def test_a_page_ends_where_the_stored_time_says_and_not_the_object(session: PlatformSession) -> None:
    owner = make_user(session)
    clock = datetime.now(timezone.utc) - timedelta(hours=1)
    made = [Workflow(uuid.uuid4(), name, owner.id_, {}, "serial", created=clock) for name in ("a", "b", "c")]
    for run in made:
        session.add(run)
        session.flush()
    listed = list(read_all(lambda cursor: list_workflows(session, owner.id_, limit=1, cursor=cursor)))
    assert listed == made[::-1]


def test_the_latest_access_token_is_the_one_that_was_made_last(
    session: PlatformSession, secret_key: str
) -> None:
    user = make_user(session)
    for status in ("revoked", "revoked", "requested"):
        session.add(UserToken(id_=uuid.uuid4(), owner_id=user.id_, type_=UserTokenType.access, status=status))
        session.commit()
    assert user.access_token_status == "requested"
    assert [token.status for token in list_tokens(session, user).rows] == ["revoked", "revoked", "requested"]


def test_jobs_and_tokens_list_oldest_first_a_page_at_a_time(session: PlatformSession) -> None:
    owner = make_user(session)
    run = make_run(session, owner)
    jobs = [Job(workflow_id=run.id_, id_=uuid.uuid4()) for _ in range(5)]
    tokens = [
        UserToken(owner_id=owner.id_, type_=UserTokenType.webhook, status="requested") for _ in range(5)
    ]
    for row in (*jobs, *tokens):
        session.add(row)
        session.flush()
    assert list(read_all(lambda cursor: list_jobs(session, run, limit=2, cursor=cursor))) == jobs
    assert list(read_all(lambda cursor: list_tokens(session, owner, limit=2, cursor=cursor))) == tokens
    assert list_tokens(session, owner, status="active").rows == []


def test_a_cursor_is_bound_to_its_query(session: PlatformSession) -> None:
    owner, other = make_user(session), make_user(session)
    for _ in range(3):
        make_run(session, owner)
        make_run(session, other)
    cursor = list_workflows(session, owner.id_, limit=1).cursor
    assert cursor is not None
    for ask in (
        lambda: list_workflows(session, other.id_, cursor=cursor),
        lambda: list_workflows(session, owner.id_, statuses=["failed"], cursor=cursor),
        lambda: list_shared(session, owner, cursor=cursor),
        lambda: list_tokens(session, owner, cursor=cursor),
        lambda: list_jobs(session, owner.workflows[0], cursor=cursor),
        lambda: users.list_users(session, cursor=cursor),
        lambda: list_audit(session, cursor=cursor),
        lambda: history(session, owner.workflows[0], cursor=cursor),
        lambda: read_new_log(session, owner.workflows[0], cursor),
    ):
        with pytest.raises(errors.InvalidIdentifier, match="gave no such cursor"):
            ask()
    # Nothing of it reached the server, which would have ended the transaction.
    assert len(list_workflows(session, owner.id_, limit=1, cursor=cursor).rows) == 1


def test_a_forged_cursor_is_refused_in_one_line(session: PlatformSession) -> None:
    owner = make_user(session)
    for _ in range(2):
        make_run(session, owner)
    genuine = list_workflows(session, owner.id_, limit=1).cursor
    assert genuine is not None
    content = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    forged = [
        [2, *content[1:]],
        content[:-1],
        [*content, "more"],
        [*content[:2], "sideways", *content[3:]],
        [*content[:3], None, *content[4:]],
        [*content[:4], "infinity", content[5]],
        [*content[:4], "2026-01-01T00:00:00", content[5]],
        [*content[:4], "9999-12-31T23:59:59-14:00", content[5]],
        [*content[:4], content[4], "x' OR true --"],
        [*content[:4], None, {}],
        {"a": 1},
        7,
    ]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in forged]
    for text in ["", "é", "W10", "[" * 100_000, genuine[:-3], *texts]:
        with pytest.raises(errors.InvalidIdentifier) as refused:
            list_workflows(session, owner.id_, cursor=text)
        assert "\n" not in str(refused.value)
    # A zone that Python has and PostgreSQL has not: the place means a time all the same.
    elsewhere = json.dumps([*content[:4], "2026-01-01T00:00:00+23:59", content[5]])
    page = list_workflows(session, owner.id_, cursor=base64.urlsafe_b64encode(elsewhere.encode()).decode())
    assert page.rows == []
    assert session.scalar(sa.select(sa.literal(1))) == 1


@pytest.mark.parametrize("limit", [0, -1, 10**19, 1.5])
def test_a_page_has_a_size(session: PlatformSession, limit: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="1 to 10000"):
        list_workflows(session, uuid.uuid4(), limit=limit)


def test_the_id_of_zeros_is_a_users_and_the_one_of_nobody_is_not(session: PlatformSession) -> None:
    zeros = make_user(session, id_=uuid.UUID(int=0))
    assert zeros.id_ in {user.id_ for user in users.list_users(session).rows}
    session.add(User(id_=NOBODY, email="nobody@example.org"))
    with pytest.raises(sa.exc.IntegrityError, match="ck_user__id_not_reserved"):
        session.flush()


def explained(session: PlatformSession, ask: Callable[[], object]) -> str:
    """Return the plan of the last SELECT that ``ask`` sends."""
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            own = cursor.connection.cursor()
            own.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(line for (line,) in own.fetchall()))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", explain)
    ask()
    event.remove(connection, "before_cursor_execute", explain)
    return plans[-1]


def test_an_index_serves_each_list(session: PlatformSession, secret_key: str) -> None:
    owner, friend = make_user(session), make_user(session)
    run = make_run(session, owner)
    session.execute(
        sa.text(
            "INSERT INTO platform.workflow (id_, owner_id, name, type_, specification, workspace_path)"
            " SELECT gen_random_uuid(), CASE WHEN n % 100 = 0 THEN CAST(:owner AS uuid) ELSE :friend END,"
            "        'n' || n, 'serial', '{}', '/w/' || n"
            " FROM generate_series(1, 3000) AS n"
        ),
        {"owner": owner.id_, "friend": friend.id_},
    )
    session.execute(
        sa.text(
            "INSERT INTO platform.job (id_, owner_id, workflow_id)"
            " SELECT gen_random_uuid(), :owner, :run FROM generate_series(1, 3000)"
        ),
        {"owner": owner.id_, "run": run.id_},
    )
    session.execute(
        sa.text(
            "INSERT INTO platform.user_token (id_, owner_id, type_, status)"
            " SELECT gen_random_uuid(), :owner, 'webhook', 'requested' FROM generate_series(1, 3000)"
        ),
        {"owner": owner.id_},
    )
    session.execute(
        sa.text(
            "INSERT INTO platform.user_ (id_, email) SELECT gen_random_uuid(), n || '@example.org'"
            " FROM generate_series(1, 3000) AS n"
        )
    )
    session.commit()
    session.execute(sa.text("ANALYZE"))
    plans = {
        "ix_workflow_owner_id_created": explained(
            session, lambda: list_workflows(session, owner.id_, limit=5)
        ),
        "ix_user__created": explained(session, lambda: users.list_users(session, limit=5)),
        "ix_user_token_access": explained(session, lambda: owner.latest_access_token),
        "ix_user_token_owner_id_created": explained(session, lambda: list_tokens(session, owner, limit=5)),
        "ix_job_owner_id_workflow_id": explained(session, lambda: list_jobs(session, run, limit=5)),
    }
    for index, plan in plans.items():
        assert index in plan
        assert "Sort" not in plan, plan
    share_workflow(session, run, friend)
    assert [shared.id_ for shared in list_shared(session, friend, limit=5).rows] == [run.id_]
    assert session.scalars(sa.select(UserWorkflow.user_id)).one() == friend.id_


def test_a_transition_moves_no_run_in_the_list(session: PlatformSession) -> None:
    owner = make_user(session)
    first, second = make_run(session, owner), make_run(session, owner)
    transition(session, first, "queued")
    session.commit()
    assert [run.id_ for run in list_workflows(session, owner.id_).rows] == [second.id_, first.id_]


def test_a_page_that_holds_the_last_row_has_no_cursor(session: PlatformSession) -> None:
    owner = make_user(session)
    for _ in range(2):
        make_run(session, owner)
    session.commit()
    assert list_workflows(session, owner.id_, limit=2).cursor is None
    assert list_workflows(session, owner.id_, limit=1).cursor is not None
