"""What others share with a user."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from platform_db.models import UserWorkflow


def shared_with(user_id: uuid.UUID | sa.BindParameter[uuid.UUID]) -> sa.Select[uuid.UUID, uuid.UUID]:
    """Select the owner and the id of the runs that are shared with the user now."""
    return sa.select(UserWorkflow.owner_id, UserWorkflow.workflow_id).where(
        UserWorkflow.user_id == user_id, UserWorkflow.grants()
    )
