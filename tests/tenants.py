"""Two tenants in a database whose roles are made and granted."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import orm

from platform_db.database.session import PlatformSession
from platform_db.models import (
    Base,
    InteractiveSession,
    Job,
    LogChunk,
    Note,
    Resource,
    Service,
    User,
    UserToken,
    UserTokenType,
    Workflow,
    WorkspaceRetentionRule,
)
from platform_db.tenancy import roles


@dataclass(frozen=True)
class Tenant:
    """A tenant's ids, for use where no object may be loaded."""

    id_: uuid.UUID
    run: uuid.UUID
    job: uuid.UUID
    token: uuid.UUID
    note: uuid.UUID

    def rows(self) -> list[tuple[type[Base], uuid.UUID]]:
        """Return the models and ids of the tenant's rows."""
        return [
            (User, self.id_),
            (Workflow, self.run),
            (Job, self.job),
            (UserToken, self.token),
            (Note, self.note),
        ]


def prepare_roles(engine: sa.Engine) -> None:
    """Make and grant the roles."""
    factory = orm.sessionmaker(engine, class_=PlatformSession)
    roles.create_roles(factory)
    roles.grant_privileges(factory)


def make_tenant(session: orm.Session, name: str) -> Tenant:
    """Store a tenant with rows in most tables."""
    Resource.initialise_default_resources(session)
    user = User(email=f"{name}@example.org")
    session.add(user)
    session.flush()
    run = Workflow(name="analysis", owner_id=user.id_, type_="serial", specification={}, logs="begin\n")
    session.add(run)
    session.flush()
    job = Job(workflow_id=run.id_, job_name=name)
    token = UserToken(owner_id=user.id_, type_=UserTokenType.webhook, status="requested")
    note = Note(owner_id=user.id_, entity="workflow", entity_id=run.id_, topic="t", message=name)
    session.add_all(
        [
            job,
            token,
            InteractiveSession(name="notebook", path=f"/{name}", owner_id=user.id_),
            Service(name="dask", owner_id=user.id_),
            WorkspaceRetentionRule(workflow_id=run.id_, workspace_files="*", retention_days=1),
            note,
        ]
    )
    session.flush()
    session.add(LogChunk(workflow_id=run.id_, job_id=job.id_, data=b"x"))
    user.log_action("request_token")
    tenant = Tenant(user.id_, run.id_, job.id_, token.id_, note.id_)
    session.commit()
    return tenant
