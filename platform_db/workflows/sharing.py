"""Sharing runs with other users, and finding what is shared.

What is shared belongs to its owner, so inside a tenant's scope only its owner sees it: read it outside. The
functions here check themselves that a share is still valid.
"""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.audit import recorded_as
from platform_db.cursors import Page
from platform_db.database.paging import page_statement, read_page
from platform_db.database.session import takes_session
from platform_db.database.sqlstates import FOREIGN_KEY_VIOLATION, sqlstate_of
from platform_db.models import UserWorkflow, Workflow
from platform_db.models.base import identity_of
from platform_db.models.expiry import expire_row
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.query.shared import shared_with
from platform_db.tenancy import in_tenant_scope


@takes_session
def share_workflow(
    session: Session,
    workflow: Workflow,
    user: UserOrId,
    *,
    message: str | None = None,
    valid_until: datetime | None = None,
    actor_id: uuid.UUID | str | None = None,
) -> None:
    """Let another user read a run; sharing it again replaces the message and the time.

    :param valid_until: when the share ends; None is never.
    :param actor_id: the user who does this, for the audit log.
    :raises errors.Refused: the user is the run's owner.
    :raises errors.UserNotFound: there is no such user.
    :raises errors.WorkflowNotFound: the run was deleted meanwhile.
    """
    user_id = user_id_of(user)
    owner_id, workflow_id = identity_of(workflow)
    if user_id == owner_id:
        raise errors.Refused("a run cannot be shared with its owner")
    key = {"owner_id": owner_id, "workflow_id": workflow_id, "user_id": user_id}
    session.flush()
    try:
        with session.begin_nested(), recorded_as(session, actor_id=actor_id):
            session.execute(_SHARE, {**key, "message": message, "valid_until": valid_until})
    except sa.exc.IntegrityError as error:
        if sqlstate_of(error) != FOREIGN_KEY_VIOLATION:
            raise
        if error.orig.diag.constraint_name == "fk_user_workflow_user_id":  # type: ignore[union-attr]
            raise errors.UserNotFound(f"there is no user {user_id}") from None
        raise errors.WorkflowNotFound(f"there is no workflow {workflow_id}") from None
    session.expire(workflow, ["shares"])
    expire_row(session, UserWorkflow, (owner_id, workflow_id, user_id))


@takes_session
def unshare_workflow(
    session: Session, workflow: Workflow, user: UserOrId, *, actor_id: uuid.UUID | str | None = None
) -> bool:
    """Take a share back, and tell whether there was one.

    :param actor_id: the user who does this, for the audit log.
    """
    user_id = user_id_of(user)
    session.flush()
    with recorded_as(session, actor_id=actor_id):
        deleted = session.execute(
            sa.delete(UserWorkflow)
            .where(
                UserWorkflow.owner_id == workflow.owner_id,
                UserWorkflow.workflow_id == workflow.id_,
                UserWorkflow.user_id == user_id,
            )
            .returning(UserWorkflow.user_id)
        ).all()
    if deleted:
        session.expire(workflow, ["shares"])
    return bool(deleted)


@takes_session
def list_shared(
    session: Session, user: UserOrId, *, limit: int = 100, cursor: str | None = None
) -> Page[Workflow]:
    """Return a page of the runs that others share with the user now, newest first.

    :param cursor: where the page before ended.
    :raises errors.InvalidIdentifier: this list gave no such cursor.
    :raises errors.Refused: the session is in a tenant's scope, which shows no other owner's runs.
    """
    if in_tenant_scope(session):
        raise errors.Refused("what is shared belongs to others: read it outside the tenant's scope")
    user_id = user_id_of(user)
    shared = sa.select(Workflow).where(sa.tuple_(Workflow.owner_id, Workflow.id_).in_(shared_with(user_id)))
    by_age = (Workflow.created, Workflow.id_)
    return read_page(
        session,
        lambda direction: page_statement(shared, by_age, direction),
        by_age,
        query=("shared", user_id),
        limit=limit,
        cursor=cursor,
    )


_INSERT = insert(UserWorkflow).values(
    {name: sa.bindparam(name) for name in ("owner_id", "workflow_id", "user_id", "message", "valid_until")}
)

_SHARE = _INSERT.on_conflict_do_update(
    index_elements=["owner_id", "workflow_id", "user_id"],
    set_={"message": _INSERT.excluded.message, "valid_until": _INSERT.excluded.valid_until},
)
