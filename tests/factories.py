"""Rows that tests start from."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db.models import (
    Base,
    InteractiveSession,
    Job,
    Service,
    User,
    UserToken,
    UserTokenType,
    Workflow,
    WorkspaceRetentionRule,
)
from platform_db.testing import factories


def make_user(session: Session, **values: Any) -> User:
    """Store a user, who was created when ``created`` says."""
    if "created" in values:
        session.execute(sa.text("SET LOCAL platform.import = 'on'"))  # It keeps the time that it is given.
        values.setdefault("updated", values["created"])
    user = factories.make_user(session, **values)
    session.commit()
    return user


def make_run(session: Session, owner: User, name: str = "analysis", **values: Any) -> Workflow:
    """Store a run as it is given, in any status, without the way there; a user's tests take the plugin's."""
    run = Workflow(**{"name": name, "owner_id": owner.id_, "type_": "serial", "specification": {}, **values})
    session.add(run)
    session.commit()
    return run


def rule_of(run: Workflow, apply_on: datetime) -> WorkspaceRetentionRule:
    """Return an active rule for a run's temporary files, which is not stored yet."""
    return WorkspaceRetentionRule(
        workflow_id=run.id_, workspace_files="*.tmp", retention_days=1, status="active", apply_on=apply_on
    )


def make_guarded(session: Session, owner: User, entity: str, status: str) -> Any:
    """Store a row of the table ``entity`` with this status."""
    row: Base
    if entity == "workflow":
        return make_run(session, owner, name=f"run-{uuid.uuid4()}", status=status)
    if entity == "job":
        row = Job(workflow_id=make_run(session, owner).id_, status=status)
    elif entity == "interactive_session":
        row = InteractiveSession(name="notebook", path=f"/{uuid.uuid4()}", owner_id=owner.id_, status=status)
    elif entity == "service":
        row = Service(name=f"dask-{uuid.uuid4()}", owner_id=owner.id_, status=status)
    elif entity == "user_token":
        row = UserToken(
            owner_id=owner.id_, type_=UserTokenType.webhook, status=status, token=str(uuid.uuid4())
        )
    else:
        row = WorkspaceRetentionRule(
            workflow_id=make_run(session, owner).id_,
            workspace_files="*",
            retention_days=1,
            status=status,
            apply_on="2030-01-01T00:00:00Z",
        )
    session.add(row)
    session.commit()
    return row
