"""The contents of assets: results of the run, or of an electron's job, under the assets' own keys."""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.integrations.covalent.dispatches import job_id_of, read_dispatch
from platform_db.lifecycle.target import Key
from platform_db.models import Job, Workflow
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.workflows import Result, get_result, set_result


@takes_session
def save_asset(
    session: Session,
    owner: UserOrId,
    dispatch_id: uuid.UUID | str,
    key: str,
    data: bytes,
    *,
    node_id: int | None = None,
) -> Result:
    """Store the content of an asset of a dispatch, over what was stored before.

    Limits, quota and files are those of :func:`platform_db.workflows.set_result`.

    :param key: such as ``result``, ``error`` or ``inputs``; of an electron ``output``, ``stdout`` and others.
    :param node_id: of this electron.
    :raises errors.InvalidArgument: the content is not bytes.
    :raises errors.NotFound: the owner has no such dispatch, or it has no such node.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise errors.InvalidArgument(f"the content of an asset is bytes, not {type(data).__name__}")
    model, of = _owner_of_asset(session, owner, dispatch_id, node_id)
    return set_result(session, of, data, name=key, model=model)


@takes_session
def get_asset(
    session: Session,
    owner: UserOrId,
    dispatch_id: uuid.UUID | str,
    key: str,
    *,
    node_id: int | None = None,
) -> Result:
    """Return the content of an asset of a dispatch.

    :param node_id: of this electron.
    :raises errors.ResultNotFound: its content has not been stored.
    :raises errors.NotFound: the owner has no such dispatch, or it has no such node.
    """
    model, of = _owner_of_asset(session, owner, dispatch_id, node_id)
    return get_result(session, of, key, model=model)


def _owner_of_asset(
    session: Session, owner: UserOrId, dispatch_id: uuid.UUID | str, node_id: int | None
) -> tuple[type[Workflow] | type[Job], Key]:
    owner_id = user_id_of(owner)
    run_id = read_dispatch(session, owner_id, dispatch_id).id_
    if node_id is None:
        return Workflow, (owner_id, run_id)
    return Job, (owner_id, job_id_of(run_id, node_id))
