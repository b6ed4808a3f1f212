"""A database of each test's own, which the thread's session is on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reana_db import database, models, utils
from reana_db.models import User, Workflow

pytest_plugins = ["platform_db.testing.plugin"]


@pytest.fixture(autouse=True)
def session(configured_database: str) -> Iterator[Any]:
    """Give the thread's session; the next test's is another one."""
    yield database.Session
    database.Session.remove()


@pytest.fixture
def user(session: Any) -> User:
    """Give a user with an access token."""
    return new_user(session, "ada@example.org", "ada's token")


@pytest.fixture
def other(session: Any) -> User:
    """Give another user."""
    return new_user(session, "bob@example.org", "bob's token")


def new_user(session: Any, email: str, token: str) -> User:
    user = User(email=email, access_token=token)
    session.add(user)
    session.commit()
    return user


@pytest.fixture
def create(session: Any, user: User) -> Callable[..., Any]:
    """Give what creates a run, as the workflow controller does on a request."""

    def create(name: str = "analysis", **values: Any) -> Workflow:
        run = Workflow(
            **{
                "id_": str(uuid.uuid4()),
                "name": name,
                "owner_id": str(user.id_),
                "reana_specification": {"workflow": {"type": "serial"}},
                "type_": "serial",
                "logs": "",
                **values,
            }
        )
        session.add(run)
        session.object_session(run).commit()
        return run

    return create


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what sets the two policies."""

    def set_policy(*at_the_end: str, periodic: bool = False) -> None:
        for module in (models, utils):
            monkeypatch.setattr(module, "WORKFLOW_TERMINATION_QUOTA_UPDATE_POLICY", list(at_the_end))
        monkeypatch.setattr(utils, "PERIODIC_RESOURCE_QUOTA_UPDATE_POLICY", periodic)

    return set_policy
