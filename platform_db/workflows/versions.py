"""Versions of what a run is asked to do: the run has the latest one, and each earlier one is kept.

The run's revision counts a version, too, so a plan that was made for the one before is refused; the history
has an entry for it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount, require_limit
from platform_db.database.distribution import execute_for
from platform_db.database.session import takes_session
from platform_db.lifecycle.target import RunOrId, RunTarget
from platform_db.models import Workflow
from platform_db.models.expiry import expire_row
from platform_db.models.types import encode_json
from platform_db.states import WORKFLOW, RunStatus
from platform_db.workflows.values import require_labels, require_priority

LARGEST_VERSION = 2**31 - 1


class Keep(enum.Enum):
    """Says that something stays as it is; None is a value of its own."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


class NewVersion(NamedTuple):
    """The version that was taken, and the run's revision with it."""

    number: int
    revision: int


@dataclass(frozen=True)
class VersionSummary:
    """A version of a run, without its specification.

    :param number: 1, 2, 3 …
    :param replaced_at: when the next version took its place; None for the latest.
    """

    number: int
    labels: dict[str, str]
    priority: int | None
    replaced_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "replaced_at": self.replaced_at and self.replaced_at.isoformat()}


@dataclass(frozen=True)
class Version(VersionSummary):
    """A version of a run, with its specification."""

    specification: Any


@takes_session
def update_specification(
    session: Session,
    run: RunOrId,
    specification: Any = KEEP,
    *,
    labels: Mapping[str, str] | Literal[Keep.KEEP] | None = KEEP,
    priority: int | Literal[Keep.KEEP] | None = KEEP,
    expected_revision: int | None = None,
) -> NewVersion:
    """Give a run a new version of what it is asked to do, and keep the one before.

    Name and owner stay. A refusal leaves the transaction usable. Two writers wait for each other; with the
    same expected revision, the second one is refused.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :param specification: what is not given stays as it is, here and below.
    :param expected_revision: change it only at this revision.
    :raises errors.Conflict: the run has another revision.
    :raises errors.Refused: the run has ended.
    :raises errors.WorkflowNotFound: there is no such run.
    :raises errors.InvalidArgument: nothing is given that could change, or no value that a run may have.
    """
    if specification is KEEP and labels is KEEP and priority is KEEP:
        raise errors.InvalidArgument("give a specification, labels or a priority for the new version")
    if labels is not KEEP:
        require_labels(labels)
    if priority is not KEEP:
        require_priority(priority)
    if expected_revision is not None:
        require_amount(expected_revision, "expected revision", largest=LARGEST_VERSION)
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    owner_id, id_ = key = target.key(session)
    parameters = {
        "owner": str(owner_id),
        "id": str(id_),
        "revision": expected_revision,
        "new_specification": specification is not KEEP,
        "specification": None if specification is KEEP else encode_json(specification),
        "labels": None if labels is KEEP else encode_json({} if labels is None else labels),
        "new_priority": priority is not KEEP,
        "priority": None if priority is KEEP else priority,
    }
    connection = session.connection()
    written = execute_for(connection, owner_id, _UPDATE, parameters).one_or_none()
    if written is None:
        stored = connection.execute(_READ_STATUS, parameters).one_or_none()
        if stored is None:
            raise target.not_found()
        if RunStatus(stored.status) in WORKFLOW.ended:
            raise errors.Refused(
                f"workflow {id_} has ended, it is {stored.status}: only a restart of it takes a new version"
            )
        raise errors.Conflict(
            "workflow", str(id_), "revision", expected_revision, stored.status, stored.revision
        )
    names = ("version", "specification", "labels", "priority", "revision", "updated")
    expire_row(session, Workflow, key, names)
    return NewVersion(*written)


@takes_session
def get_version(session: Session, run: RunOrId, number: int | None = None) -> Version:
    """Return a version of a run, by default the latest.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :raises errors.NotFound: the run has no such version.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    if number is not None:
        require_amount(number, "number of a version", smallest=1, largest=LARGEST_VERSION)
    target, rows = _read(session, run, _GET, number=number)
    if not rows:
        raise errors.NotFound(f"workflow {target.id_} has no version {number}")
    row = rows[0]
    return Version(row.version, row.labels, row.priority, row.replaced_at, row.specification)


@takes_session
def list_versions(
    session: Session, run: RunOrId, *, after: int = 0, limit: int = 100
) -> list[VersionSummary]:
    """Return the versions of a run, the oldest first, without their specifications.

    :param run: the run, its key ``(owner_id, id_)``, or its id.
    :param after: leave out the versions up to this one: the last one of the list before.
    :param limit: how many to return.
    :raises errors.WorkflowNotFound: there is no such run.
    """
    require_amount(after, "number of a version", largest=LARGEST_VERSION)
    require_limit(limit)
    _, rows = _read(session, run, _LIST, after=after, limit=limit)
    return [VersionSummary(row.version, row.labels, row.priority, row.replaced_at) for row in rows]


def _read(
    session: Session, run: RunOrId, statement: sa.TextClause, **values: Any
) -> tuple[RunTarget, list[sa.Row[Any]]]:
    session.flush()
    target = RunTarget.of(session, run, Workflow)
    owner_id, id_ = target.key(session)
    values |= {"owner": str(owner_id), "id": str(id_)}
    rows = list(session.connection().execute(statement, values))
    if not rows and session.connection().execute(_READ_STATUS, values).one_or_none() is None:
        raise target.not_found()
    return target, rows


_ALIVE = ", ".join(f"'{status}'" for status in WORKFLOW.alive)

_UPDATE = sa.text(f"""
    WITH before AS MATERIALIZED (
        SELECT owner_id, id_, version, specification, labels, priority FROM platform.workflow
        WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid) AND status IN ({_ALIVE})
          AND revision = coalesce(CAST(:revision AS integer), revision)
        FOR NO KEY UPDATE
    ),
    note AS MATERIALIZED (
        SELECT set_config(
            'platform.statement_reason', statement_timestamp()::text || ' version ' || version + 1, true)
        FROM before
    )
    UPDATE platform.workflow AS run SET
        version = before.version + 1,
        specification = CASE WHEN :new_specification THEN CAST(:specification AS jsonb)
            ELSE before.specification END,
        labels = coalesce(CAST(:labels AS jsonb), before.labels),
        priority = CASE WHEN :new_priority THEN CAST(:priority AS integer) ELSE before.priority END
    FROM before, note
    WHERE run.owner_id = before.owner_id AND run.id_ = before.id_
    RETURNING run.version, run.revision
    """)

_READ_STATUS = sa.text("""
    SELECT status, revision FROM platform.workflow
    WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid)
    """)

_VERSIONS = """
    SELECT version, {columns}, NULL AS replaced_at FROM platform.workflow
    WHERE owner_id = CAST(:owner AS uuid) AND id_ = CAST(:id AS uuid) AND {latest}
    UNION ALL
    SELECT version, {columns}, replaced_at FROM platform.workflow_version
    WHERE owner_id = CAST(:owner AS uuid) AND workflow_id = CAST(:id AS uuid) AND {earlier}
    """

_GET = sa.text(
    _VERSIONS.format(
        columns="labels, priority, specification",
        latest="version = coalesce(CAST(:number AS integer), version)",
        earlier="version = CAST(:number AS integer)",
    )
)

_LIST = sa.text(
    _VERSIONS.format(columns="labels, priority", latest="version > :after", earlier="version > :after")
    + "ORDER BY version LIMIT :limit"
)
