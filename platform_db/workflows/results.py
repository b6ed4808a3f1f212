"""Results of runs and of their jobs: bytes or JSON, in the database or, where they are large, in a file.

A large result lies in the run's workspace, where the disk job counts it. The file is written before the row
that names it, so a stored row always has its file. A file that another result replaced is removed after the
commit; one whose transaction was rolled back stays, as a file of the workspace like any other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id
from platform_db.lifecycle.target import RunOrId
from platform_db.logs.target import LogTarget
from platform_db.models import Job, ResourceType, UserResource, Workflow, WorkflowResult
from platform_db.models.expiry import expire_row, expire_rows
from platform_db.models.types import is_text
from platform_db.quota.resources import get_default_key, lock_users
from platform_db.settings import get_settings
from platform_db.workspaces import WorkspaceError, stored_files

logger = logging.getLogger(__name__)

JSON = "application/json"
BYTES = "application/octet-stream"

RunOrJob: TypeAlias = "Job | RunOrId"


@dataclass(frozen=True)
class Result:
    """A result of a run or of a job.

    :param size: bytes of the content.
    :param sha256: the content's digest, in hexadecimal digits.
    :param in_file: whether the content is a file in the run's workspace.
    """

    name: str
    media_type: str
    size: int
    sha256: str
    in_file: bool
    data: bytes = field(repr=False)

    @property
    def value(self) -> Any:
        """What was set: JSON's value where that is the media type, else the bytes."""
        return json.loads(self.data) if self.media_type == JSON else self.data

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON: bytes are text in base64."""
        value = self.value
        return {
            "name": self.name,
            "media_type": self.media_type,
            "size": self.size,
            "sha256": self.sha256,
            "in_file": self.in_file,
            "value": b64encode(value).decode("ascii") if isinstance(value, bytes) else value,
        }


@takes_session
def set_result(
    session: Session,
    row: RunOrJob,
    value: Any,
    *,
    name: str = "result",
    media_type: str | None = None,
    model: type[Workflow] | type[Job] | None = None,
) -> Result:
    """Store a result of a run or of a job, over one of the same name.

    Up to ``PLATFORM_DB_RESULT_DATABASE_LIMIT`` bytes are stored in the database and count in the owner's
    "database storage"; the owner's totals stay locked until the transaction ends. What is larger is written
    to a file in the run's workspace, which must be a managed one. A refusal leaves the transaction usable.

    :param row: the run or the job, or, with ``model``, its key ``(owner_id, id_)`` or its id alone.
    :param value: bytes, or what JSON has a text for; bytes of JSON are UTF-8 without a byte order mark.
    :param media_type: of bytes; by default ``application/octet-stream``.
    :param model: what an id is the id of.
    :raises errors.QuotaExceeded: the database may not store so much more for the owner.
    :raises errors.NotFound: there is no such run or job.
    :raises errors.InvalidArgument: it is more than ``PLATFORM_DB_RESULT_LIMIT`` bytes, or JSON has no text
        for it, or the name or the media type is empty or too long.
    :raises errors.InvalidText: the name or the media type cannot be stored.
    :raises platform_db.workspaces.WorkspaceError: the workspace of a large one is not managed, or lies behind
        a link.
    :raises errors.StorageMissing: the root of the workspace is missing or empty.
    """
    data, media_type = _encode(value, media_type)
    if not is_text(name + media_type):
        raise errors.InvalidText
    require_amount(len(data), "size of a result in bytes", largest=get_settings().result_limit)
    require_amount(len(name.encode()), "length of a result's name in bytes", smallest=1, largest=1024)
    require_amount(len(media_type.encode()), "length of a media type in bytes", smallest=1, largest=255)
    session.flush()
    target = LogTarget.of(session, row, model)
    of = _find(session, target)
    in_file = len(data) > get_settings().result_database_limit
    file = new_id() if in_file else None
    digest = hashlib.sha256(data)
    parameters = {
        "owner": of.owner_id,
        "run": of.run_id,
        "job": of.job_id,
        "id": new_id(),
        "name": name,
        "media_type": media_type,
        "size": len(data),
        "sha256": digest.digest(),
        "data": None if in_file else data,
        "file": file,
    }
    if file is not None:
        stored_files.write_file(of.workspace_path, of.owner_id, file, data)
    try:
        _lock_totals(session, of.owner_id)
        with session.begin_nested():
            stored = session.connection().execute(_SET, parameters).one()
    except BaseException:
        if file is not None:
            stored_files.remove_file(of.workspace_path, of.owner_id, file)
        raise
    expire_row(session, WorkflowResult, (of.owner_id, stored.id_))
    expire_rows(session, UserResource, {of.owner_id})
    if stored.former_file is not None:
        _Replaced.of(session).files.append((of.workspace_path, of.owner_id, stored.former_file))
    return Result(name, media_type, len(data), digest.hexdigest(), in_file, data)


@takes_session
def get_result(
    session: Session,
    row: RunOrJob,
    name: str = "result",
    *,
    model: type[Workflow] | type[Job] | None = None,
) -> Result:
    """Return a result of a run or of a job.

    :param row: the run or the job, or, with ``model``, its key ``(owner_id, id_)`` or its id alone.
    :raises errors.ResultNotFound: it has no result of this name.
    :raises errors.NotFound: there is no such run or job.
    :raises errors.ResultLost: the file of a large one is gone, or was changed; under REPEATABLE READ also
        where the result was replaced since the transaction began.
    :raises errors.StorageMissing: the root of its workspace is missing or empty.
    """
    session.flush()
    target = LogTarget.of(session, row, model)
    of = _find(session, target)
    parameters = {"owner": of.owner_id, "run": of.run_id, "job": of.job_id, "name": name}
    lost = None
    while True:
        found = session.connection().execute(_GET, parameters).one_or_none()
        if found is None:
            raise errors.ResultNotFound(f"{target.table} {target.id_} has no result {name!r}")
        data = found.data if found.file is None else _read(of, found)
        if data is not None:
            break
        if found.file == lost:
            raise errors.ResultLost(
                f"the file of result {name!r} of {target.table} {target.id_} is not as stored"
            )
        # Another writer may have replaced the result, and removed this file, since the row was read.
        lost = found.file
    digest = bytes(found.sha256).hex()
    return Result(name, found.media_type, found.size, digest, found.file is not None, bytes(data))


@takes_session
def delete_result(
    session: Session,
    row: RunOrJob,
    name: str = "result",
    *,
    model: type[Workflow] | type[Job] | None = None,
) -> bool:
    """Delete a result of a run or of a job, and tell whether there was one.

    :param row: the run or the job, or, with ``model``, its key ``(owner_id, id_)`` or its id alone.
    :raises errors.NotFound: there is no such run or job.
    """
    session.flush()
    of = _find(session, LogTarget.of(session, row, model))
    _lock_totals(session, of.owner_id)
    parameters = {"owner": of.owner_id, "run": of.run_id, "job": of.job_id, "name": name}
    deleted = session.connection().execute(_DELETE, parameters).one_or_none()
    if deleted is None:
        return False
    expire_row(session, WorkflowResult, (of.owner_id, deleted.id_))
    expire_rows(session, UserResource, {of.owner_id})
    if deleted.file is not None:
        _Replaced.of(session).files.append((of.workspace_path, of.owner_id, deleted.file))
    return True


def _encode(value: Any, media_type: str | None) -> tuple[bytes, str]:
    """Return the bytes to store, and their media type."""
    is_bytes = isinstance(value, bytes | bytearray | memoryview)
    if is_bytes and media_type != JSON:
        return bytes(value), BYTES if media_type is None else media_type
    if media_type not in (None, JSON):
        raise errors.InvalidArgument(f"give bytes for the media type {media_type}; only {JSON} is made here")
    try:
        if is_bytes:
            json.loads(bytes(value).decode(), parse_constant=_refuse)
            return bytes(value), JSON
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), JSON
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"JSON has no text for this result: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _find(session: Session, target: LogTarget) -> Any:
    """Return the owner, the run, the job if it is one's, and the workspace.

    :raises errors.NotFound: there is no such run or job.
    """
    found = target.execute(session, _FIND).one_or_none()
    if found is None:
        raise target.not_found()
    return found


def _lock_totals(session: Session, owner_id: uuid.UUID) -> None:
    """Lock the owner's totals before a result, as the trigger that counts locks them after it."""
    try:
        lock_users(session, [owner_id], get_default_key(session, ResourceType.database))
    except errors.ResourceNotFound:
        return  # Without the default resources nothing is counted.


def _read(of: sa.Row[Any], stored: sa.Row[Any]) -> bytes | None:
    """Return the content of a result's file; None where that is gone, or was changed."""
    try:
        data = stored_files.read_file(of.workspace_path, of.owner_id, stored.file, stored.size)
    except WorkspaceError:
        return None
    return data if data is not None and hashlib.sha256(data).digest() == bytes(stored.sha256) else None


_FIND = """
    SELECT row.owner_id, {run} AS run_id, {job} AS job_id, run.workspace_path
    FROM platform.{table} AS row
    JOIN platform.workflow AS run ON run.owner_id = row.owner_id AND run.id_ = {run}
    WHERE {row}
    """

# The file before is kept in the row: of the writers that wait for each other here, each learns the right one.
_SET = sa.text("""
    INSERT INTO platform.workflow_result AS result
        (owner_id, workflow_id, job_id, id_, name, media_type, size, sha256, data, file)
    VALUES (CAST(:owner AS uuid), CAST(:run AS uuid), CAST(:job AS uuid), CAST(:id AS uuid), :name,
            :media_type, :size, :sha256, :data, CAST(:file AS uuid))
    ON CONFLICT (owner_id, workflow_id, job_id, name) DO UPDATE
    SET media_type = excluded.media_type, size = excluded.size, sha256 = excluded.sha256,
        data = excluded.data, file = excluded.file, former_file = result.file
    RETURNING id_, former_file
    """)

_IS_MEANT = """owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:run AS uuid)
      AND job_id IS NOT DISTINCT FROM CAST(:job AS uuid) AND name = :name"""

_GET = sa.text(f"SELECT media_type, size, sha256, data, file FROM platform.workflow_result WHERE {_IS_MEANT}")

_DELETE = sa.text(f"DELETE FROM platform.workflow_result WHERE {_IS_MEANT} RETURNING id_, file")

_KEY = "platform_db.replaced_files"


class _Replaced:
    """The files that a session's transaction has replaced; they go once it has committed."""

    def __init__(self) -> None:
        self.files: list[tuple[str, uuid.UUID, uuid.UUID]] = []

    @staticmethod
    def of(session: Session) -> _Replaced:
        replaced: _Replaced = session.info.setdefault(_KEY, _Replaced())
        return replaced


@event.listens_for(Session, "after_commit")
def remove_replaced(session: Session) -> None:
    """Remove what the transaction replaced; what cannot be removed now stays in the workspace."""
    if session.in_nested_transaction():
        return
    replaced: _Replaced | None = session.info.pop(_KEY, None)
    for path, owner_id, file in replaced.files if replaced else ():
        try:
            stored_files.remove_file(path, owner_id, file)
        except (errors.PlatformDBError, OSError) as error:
            logger.warning("a replaced result stays in workspace %r: %s", path, error)


@event.listens_for(Session, "after_soft_rollback")
def keep_replaced(session: Session, transaction: SessionTransaction) -> None:
    """Keep all of them where something was rolled back, if only to a savepoint: some may be in use again."""
    session.info.pop(_KEY, None)


@event.listens_for(Session, "after_transaction_end")
def forget_replaced(session: Session, transaction: SessionTransaction) -> None:
    """Keep them where the transaction ended without a commit, as by closing the session."""
    if transaction.parent is None:
        session.info.pop(_KEY, None)
