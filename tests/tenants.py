"""Two tenants in a database whose roles are made and granted."""

from __future__ import annotations

import os
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
from platform_db.tenancy.privileges import Role
from platform_db.testing import pooler

# The role, the tenant and the name by which a connection is known.
WHO = sa.text(
    "SELECT current_user, current_setting('platform.user_id', true), current_setting('application_name')"
)


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


def login_engine(engine: sa.Engine, login: str, role: Role | None = None) -> sa.Engine:
    """Return an engine whose connections are a login that has the role's rights, or none of its own."""
    factory = orm.sessionmaker(engine)
    roles._run_again_if_concurrent(
        factory,
        f"CREATE ROLE {login} LOGIN",
        lambda session: bool(session.scalar(sa.text(f"SELECT to_regrole('{login}') IS NOT NULL"))),
    )
    if role is not None:
        roles.grant_privileges(factory, to=login, role=role)
    if os.environ.get(pooler.VARIABLE):  # which keeps no session's login, and lets in any there is
        return sa.create_engine(engine.url.set(username=login.strip('"')))
    own = sa.create_engine(engine.url)

    @sa.event.listens_for(own, "connect")
    def become(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
        with connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(f"SET SESSION AUTHORIZATION {login}")
        connection.commit()

    return own


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
