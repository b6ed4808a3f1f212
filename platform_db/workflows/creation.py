"""Creating runs, in one statement for any number of them, and each once under its idempotency key.

No unit of work: the values that the constructor of :class:`~platform_db.models.Workflow` would store go to
the database as they are. It numbers, stamps and guards them, as those of every writer.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.bounds import require_amount
from platform_db.database.distribution import by_owner, execute_for
from platform_db.database.session import takes_session
from platform_db.identifiers import new_id, parse_id
from platform_db.models import IdempotencyKey, Workflow, WorkspaceRetentionRule
from platform_db.models.expiry import expire_rows
from platform_db.models.identity import UserOrId, user_id_of
from platform_db.models.run_number import asked_number, format_run_number
from platform_db.models.types import encode_json, is_text
from platform_db.states import WORKFLOW, RunStatus
from platform_db.workflows.values import require_labels, require_moment, require_priority
from platform_db.workspaces import build_workspace_path, canonical_workspace_path

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnDuplicate = Literal["return", "raise", "restart_if_ended"]
"""What a key does that was given before, with the same content."""


class RunOptions(TypedDict, total=False):
    """What may be given with a new run; see :func:`create_workflow`."""

    id_: uuid.UUID | str | None
    status: RunStatus | str
    priority: int | None
    labels: Mapping[str, str] | None
    start_after: datetime | None
    restart: bool
    run_number: str | None
    input_parameters: Any
    operational_options: Any
    engine_specific: Any
    complexity: Any
    workspace_path: str | None
    git_ref: str | None
    git_repo: str | None
    git_provider: str | None
    launcher_url: str | None
    idempotency_key: str | None
    on_duplicate: OnDuplicate


class _Required(TypedDict):
    owner: UserOrId
    name: str
    type_: str


class NewWorkflow(_Required, RunOptions, total=False):
    """A run to create: ``owner``, ``name``, ``type_``, ``specification``, and :class:`RunOptions`."""

    specification: Any


class CreatedWorkflow(NamedTuple):
    """A run that was created, now or earlier under the same key.

    :param run_number: such as ``"2"`` or ``"2.1"``.
    :param is_new: whether this call created it.
    """

    id_: uuid.UUID
    owner_id: uuid.UUID
    run_number: str
    is_new: bool


@takes_session
def create_workflow(
    session: Session,
    owner: UserOrId,
    name: str,
    specification: Any = None,
    *,
    type_: str,
    **options: Unpack[RunOptions],
) -> CreatedWorkflow:
    """Create a run, or return the one that was created under its idempotency key.

    The run has the defaults, and meets the refusals, of ``Workflow(…)``. Its options are the columns of the
    same names, and:

    :param restart: whether it restarts an earlier run of the same name.
    :param run_number: with ``restart``, the run to restart (without it, the latest one); otherwise the number
        to give, for a run that comes from elsewhere.
    :param start_after: when the queue may hand it out first.
    :param idempotency_key: 1 to 255 bytes; of many calls with one key of an owner, one creates the run.
        Compared is all that is asked for, but the id and ``start_after``. Other creators of the owner's runs
        wait for this transaction to end.
    :param on_duplicate: for a key that was given before: ``return`` gives its run, ``raise`` refuses, and
        ``restart_if_ended`` creates a restart of its run, and moves the key to it, once that run has ended
        and no restart of it is alive; a restart that is, it gives. Of a run that was deleted, whose files may
        be gone, it creates no restart but the next run of its name, with a workspace of its own.
    :raises errors.IdempotencyConflict: the key was given before with other content; the transaction stays
        usable.
    :raises errors.InvalidArgument: an option is not known, or is no value for its column; an id comes with
        ``restart_if_ended``: each restart has its own.
    :raises errors.RunNumberError: there is no such run to restart, or the number is taken.
    :raises errors.UserNotFound: the owner is no user.
    :raises errors.WorkflowExists: a run has this id already.
    """
    try:
        asked = _ask(owner, name, specification, type_=type_, **options)
    except TypeError:
        _require_known(options)
        raise
    return _create(session, [asked])[0]


@takes_session
def create_workflows(
    session: Session, workflows: Iterable[NewWorkflow | Mapping[str, Any]]
) -> list[CreatedWorkflow]:
    """Create any number of runs in one statement, and return them in the order given.

    Runs of one name are numbered in that order. Owners are locked in key order, so two calls with the same
    owners wait for each other and do not deadlock.

    :param workflows: the arguments of :func:`create_workflow` by their names, for each run.
    :raises errors.IdempotencyConflict: a key was given before with other content; none is created then.
    :raises errors.InvalidArgument: as :func:`create_workflow`; or one has no owner, name or type.
    """
    asked = [_ask_by_name(workflow) for workflow in workflows]
    if len(asked) < 2 or all(one.key is None for one in asked):
        return _create(session, asked)
    session.flush()
    with session.connection().begin_nested():
        return _create(session, asked)


class _Asked(NamedTuple):
    """A run that is asked for: the values of :data:`COLUMNS`, and those of its key.

    :param own_path: whether its workspace's path was given.
    :param digest: SHA-256 of what is asked for, where there is a key.
    """

    values: tuple[Any, ...]
    id_: uuid.UUID
    owner_id: uuid.UUID
    restart: bool
    own_path: bool
    on_duplicate: OnDuplicate
    key: str | None
    digest: bytes | None


COLUMNS = (
    "id_",
    "owner_id",
    "name",
    "type_",
    "status",
    "specification",
    "input_parameters",
    "operational_options",
    "engine_specific",
    "complexity",
    "labels",
    "priority",
    "start_after",
    "restart",
    "run_number_major",
    "run_number_minor",
    "workspace_path",
    "git_ref",
    "git_repo",
    "git_provider",
    "launcher_url",
)
JSON_COLUMNS = (
    "specification",
    "input_parameters",
    "operational_options",
    "engine_specific",
    "complexity",
    "labels",
)


def _ask_by_name(workflow: NewWorkflow | Mapping[str, Any]) -> _Asked:
    try:
        return _ask(**workflow)
    except TypeError:
        if not isinstance(workflow, Mapping):
            raise errors.InvalidArgument("a run to create is a mapping of options by their names") from None
        _require_known(workflow)
        if missing := sorted(NewWorkflow.__required_keys__ - workflow.keys()):
            raise errors.InvalidArgument(f"a run to create needs {', '.join(missing)}") from None
        raise


def _require_known(options: Mapping[str, Any]) -> None:
    if unknown := sorted(map(str, options.keys() - NewWorkflow.__annotations__.keys())):
        known = ", ".join(sorted(NewWorkflow.__annotations__))
        raise errors.InvalidArgument(
            f"a run to create has no {', '.join(unknown)}; choose from {known}"
        ) from None


def _ask(
    owner: UserOrId,
    name: str,
    specification: Any = None,
    *,
    type_: str,
    id_: uuid.UUID | str | None = None,
    status: RunStatus | str = RunStatus.created,
    priority: int | None = None,
    labels: Mapping[str, str] | None = None,
    start_after: datetime | None = None,
    restart: bool = False,
    run_number: str | None = None,
    input_parameters: Any = None,
    operational_options: Any = None,
    engine_specific: Any = None,
    complexity: Any = None,
    workspace_path: str | None = None,
    git_ref: str | None = "",
    git_repo: str | None = None,
    git_provider: str | None = None,
    launcher_url: str | None = None,
    idempotency_key: str | None = None,
    on_duplicate: OnDuplicate = "return",
) -> _Asked:
    """Look at what is asked for, before the database is."""
    texts = (
        ("name", name),
        ("type_", type_),
        ("run_number", run_number),
        ("git_ref", git_ref),
        ("git_repo", git_repo),
        ("git_provider", git_provider),
        ("launcher_url", launcher_url),
        ("idempotency_key", idempotency_key),
    )
    for option, text in texts:
        if not isinstance(text, str) and (text is not None or option in NewWorkflow.__required_keys__):
            raise errors.InvalidArgument(f"{option} is text, not {text!r}")
    if not isinstance(restart, bool):
        raise errors.InvalidArgument(f"restart is True or False, not {restart!r}")
    require_priority(priority)
    require_labels(labels)
    require_moment(start_after)
    if on_duplicate not in get_args(OnDuplicate):
        choice = ", ".join(get_args(OnDuplicate))
        raise errors.InvalidArgument(f"on_duplicate is one of {choice}, not {on_duplicate!r}")
    if on_duplicate == "restart_if_ended" and id_ is not None:
        raise errors.InvalidArgument("give no id with restart_if_ended: each restart has its own")
    if idempotency_key is not None:
        if not is_text(idempotency_key):
            raise errors.InvalidText
        size = len(idempotency_key.encode())
        require_amount(size, "length of an idempotency key in bytes", smallest=1, largest=255)
    owner_id = user_id_of(owner)
    run_id = new_id() if id_ is None else parse_id(id_, "workflow id")
    owner_text, id_text = str(owner_id), str(run_id)
    path = build_workspace_path(owner_text, id_text) if workspace_path is None else workspace_path
    values = (
        id_text,
        owner_text,
        name,
        type_,
        WORKFLOW.status(status).value,
        encode_json(specification),
        encode_json(input_parameters),
        encode_json(operational_options),
        encode_json(engine_specific),
        encode_json(complexity),
        "{}" if labels is None else encode_json(labels),
        priority,
        start_after,
        restart,
        *((None, None) if run_number is None else asked_number(run_number, restart=restart)),
        canonical_workspace_path(path),
        git_ref,
        git_repo,
        git_provider,
        launcher_url,
    )
    own_path = workspace_path is not None
    digest = None if idempotency_key is None else _digest(values, own_path)
    return _Asked(values, run_id, owner_id, restart, own_path, on_duplicate, idempotency_key, digest)


def _digest(values: tuple[Any, ...], own_path: bool) -> bytes:
    """Return SHA-256 of the values in JSON that has one form: of what the run is to do.

    Not of its id and what follows from it, nor of when it may start: who asks again an hour later, for an
    hour later, asks for the same. What is None is left out, so that a release with more columns makes the
    same digest.
    """
    content = {name: value for name, value in zip(COLUMNS, values, strict=True) if value is not None}
    del content["id_"]
    content.pop("start_after", None)
    if not own_path:
        del content["workspace_path"]
    for name in content.keys() & {*JSON_COLUMNS}:
        content[name] = json.loads(content[name])
    return sha256(_CANONICAL.encode(content).encode()).digest()


_CANONICAL = json.JSONEncoder(sort_keys=True)


def _create(session: Session, asked: list[_Asked]) -> list[CreatedWorkflow]:
    session.flush()
    connection = session.connection()
    if any(one.key is not None for one in asked):
        created = _create_once(session, connection, asked)
    elif asked:
        in_key_order = sorted(asked, key=_owner_of) if len(asked) > 1 else asked
        parameters = [value for one in in_key_order for value in one.values]
        created = _created(connection, _INSERT.format(rows=_rows(len(asked))), parameters, in_key_order)
    else:
        return []
    if any(one.restart for one in asked):
        _forget_followers(session, {one.owner_id for one in asked})
    return [created[one.id_] for one in asked]


def _create_once(
    session: Session, connection: sa.Connection, asked: list[_Asked]
) -> dict[uuid.UUID, CreatedWorkflow]:
    """Create those whose key is new, or who have none, and find or restart the others.

    What is left is tried again: pruning deletes keys, and users start ended runs again, at any time.
    """
    created: dict[uuid.UUID, CreatedWorkflow] = {}
    left = sorted(asked, key=_owner_of)
    while left:
        if len(left) == 1 and left[0].key is not None:
            created |= _create_one_with_key(connection, left[0])
        else:
            created |= _create_with_keys(connection, _insert_new(), left)
        lost = [one for one in left if one.id_ not in created]
        if not lost:
            break
        stored = {(str(row.owner_id), row.key): row for row in _read_keys(connection, lost)}
        ended = []
        for one in lost:
            found = stored.get((str(one.owner_id), one.key))
            if found is None:
                continue
            same = bytes(found.digest) == one.digest
            if not same or one.on_duplicate == "raise":
                raise errors.IdempotencyConflict(
                    str(one.key), str(found.id_), same, found.status, found.revision
                )
            id_, minor = found.id_, found.run_number_minor
            if one.on_duplicate == "restart_if_ended" and RunStatus(found.status) in WORKFLOW.ended:
                if found.again_id is None:
                    ended.append(one)
                    continue
                id_, minor = found.again_id, found.again_minor
            number = format_run_number(found.run_number_major, minor)
            created[one.id_] = CreatedWorkflow(uuid.UUID(str(id_)), one.owner_id, number, False)
        if ended:
            created |= _create_with_keys(connection, _insert_restarts(), ended)
            owners = {one.owner_id for one in ended}
            expire_rows(session, IdempotencyKey, owners)
            _forget_followers(session, owners)
        left = [one for one in lost if one.id_ not in created]
    return created


def _owner_of(asked: _Asked) -> uuid.UUID:
    return asked.owner_id


def _forget_followers(session: Session, owners: set[uuid.UUID]) -> None:
    """Let retention rules be read again: a restart inactivates them (schema/sql/workspace_retention.sql)."""
    expire_rows(session, WorkspaceRetentionRule, owners)


def _create_one_with_key(connection: sa.Connection, one: _Asked) -> dict[uuid.UUID, CreatedWorkflow]:
    id_, owner = one.values[:2]
    parameters = [owner, str(new_id()), owner, id_, one.key, one.digest, *one.values]
    return _created(connection, _insert_one(), parameters, [one], of_owner=owner)


def _create_with_keys(
    connection: sa.Connection, statement: str, asked: list[_Asked]
) -> dict[uuid.UUID, CreatedWorkflow]:
    created: dict[uuid.UUID, CreatedWorkflow] = {}
    for some in by_owner(connection, asked, _owner_of):
        parameters = [
            value
            for place, one in enumerate(some)
            for value in (*one.values, place, one.own_path, one.key, one.digest, str(new_id()))
        ]
        text = statement.replace("{rows}", _rows(len(some), more=5))
        created |= _created(connection, text, parameters, some, of_owner=some[0].owner_id)
    return created


def _created(
    connection: sa.Connection,
    statement: str,
    parameters: list[Any],
    asked: Sequence[_Asked],
    of_owner: uuid.UUID | str | None = None,
) -> dict[uuid.UUID, CreatedWorkflow]:
    """Execute a statement that creates runs, and return those that it created by their ids.

    :param of_owner: whose rows alone it is about; None where Citus plans the statement itself.
    """
    rows = execute_for(connection, of_owner, statement, tuple(parameters))
    numbers = {str(id_): format_run_number(major, minor) for id_, major, minor in rows}
    return {
        one.id_: CreatedWorkflow(one.id_, one.owner_id, numbers[one.values[0]], True)
        for one in asked
        if one.values[0] in numbers
    }


def _read_keys(connection: sa.Connection, asked: list[_Asked]) -> Sequence[Any]:
    rows: list[Any] = []
    for some in by_owner(connection, asked, _owner_of):
        parameters = ([str(one.owner_id) for one in some], [one.key for one in some])
        rows += execute_for(connection, some[0].owner_id, _READ_KEYS, parameters).all()
    return rows


# The driver's own parameters, by their places: SQLAlchemy's, by name, take twice as long for so many.
def _rows(count: int, *, more: int = 0) -> str:
    row = f"({', '.join(['%s'] * (len(COLUMNS) + more))})"
    return ", ".join([row] * count)


_NAMES = ", ".join(COLUMNS)
_RETURNING = "RETURNING id_::text, run_number_major, run_number_minor"

# VALUES, which the server plans in a quarter less time than a row that it takes out of JSON or arrays.
_INSERT = f"INSERT INTO platform.workflow ({_NAMES}) VALUES {{rows}} {_RETURNING}"

_GIVEN = f"given ({_NAMES}, place, own_path, key, digest, key_id) AS (VALUES {{rows}})"

_ALIVE = ", ".join(f"'{status}'" for status in WORKFLOW.alive)

# A restart of the key's run may be alive that recovery, a worker or a user has queued.
_READ_KEYS = f"""
    SELECT given.owner_id::text, given.key, kept.digest, run.id_::text, run.run_number_major,
           run.run_number_minor, run.status, run.revision,
           again.id_ AS again_id, again.run_number_minor AS again_minor
    FROM unnest(%s::uuid[], %s::text[]) AS given (owner_id, key)
    JOIN platform.idempotency_key AS kept ON kept.owner_id = given.owner_id AND kept.key = given.key
    JOIN platform.workflow AS run ON run.owner_id = kept.owner_id AND run.id_ = kept.workflow_id
    LEFT JOIN LATERAL (
        SELECT id_::text, run_number_minor FROM platform.workflow
        WHERE owner_id = run.owner_id AND name = run.name AND run_number_major = run.run_number_major
          AND run_number_minor > run.run_number_minor AND status IN ({_ALIVE})
        ORDER BY run_number_minor DESC LIMIT 1
    ) AS again ON true
    """


# The owners are locked first: the new run's number takes the same lock, and a transaction that has written
# another key of the owner would wait for it with this one in hand.


@cache
def _insert_one() -> str:
    """Return what :func:`_insert_new` does for one run alone, in half the time."""
    return f"""
        WITH held AS MATERIALIZED (SELECT platform.lock_owner(%s::uuid)),
        taken AS (
            INSERT INTO platform.idempotency_key (id_, owner_id, workflow_id, key, digest)
            SELECT %s::uuid, %s::uuid, %s::uuid, %s, %s FROM held
            ON CONFLICT (owner_id, key) DO NOTHING
            RETURNING workflow_id
        )
        INSERT INTO platform.workflow ({_NAMES})
        SELECT {", ".join(f"%s::{type_}" for type_ in _types().values())} FROM taken
        {_RETURNING}
        """


@cache
def _insert_new() -> str:
    """Return the statement that creates the runs whose keys are new, or that have none."""
    return f"""
        WITH {_GIVEN},
        locked AS MATERIALIZED (
            SELECT platform.lock_owner(owner_id) FROM (
                SELECT DISTINCT owner_id::uuid FROM given ORDER BY owner_id
            ) AS owners
        ),
        held AS MATERIALIZED (SELECT count(*) FROM locked),
        taken AS (
            INSERT INTO platform.idempotency_key (id_, owner_id, workflow_id, key, digest)
            SELECT key_id::uuid, owner_id::uuid, id_::uuid, key, digest FROM held, given
            WHERE key IS NOT NULL
            ORDER BY place
            ON CONFLICT (owner_id, key) DO NOTHING
            RETURNING workflow_id
        )
        INSERT INTO platform.workflow ({_NAMES})
        SELECT {_typed()} FROM held, given
        WHERE key IS NULL OR id_::uuid IN (SELECT workflow_id FROM taken)
        ORDER BY place
        {_RETURNING}
        """


@cache
def _insert_restarts() -> str:
    """Return the statement that moves keys from runs that have ended to restarts of them.

    Or to new runs, from those that were deleted.
    """
    ended = ", ".join(f"'{status}'" for status in sorted(WORKFLOW.ended))
    values = _typed(
        restart="moved.restart OR given.restart::boolean",
        run_number_major="CASE WHEN moved.restart THEN moved.run_number_major"
        " ELSE given.run_number_major::integer END",
        run_number_minor="CASE WHEN NOT moved.restart THEN given.run_number_minor::integer END",
        workspace_path="CASE WHEN moved.restart AND NOT given.own_path THEN moved.workspace_path"
        " ELSE given.workspace_path END",
    )
    return f"""
        WITH {_GIVEN},
        moved AS (
            UPDATE platform.idempotency_key AS kept SET workflow_id = given.id_::uuid
            FROM given JOIN platform.workflow AS run
              ON run.owner_id = given.owner_id::uuid AND run.status IN ({ended})
            WHERE kept.owner_id = given.owner_id::uuid AND kept.key = given.key AND run.id_ = kept.workflow_id
            RETURNING kept.workflow_id, run.run_number_major, run.workspace_path,
                      run.status <> 'deleted' AS restart
        )
        INSERT INTO platform.workflow ({_NAMES})
        SELECT {values} FROM given JOIN moved ON moved.workflow_id = given.id_::uuid
        ORDER BY place
        {_RETURNING}
        """


def _typed(**instead: str) -> str:
    """Return the columns of ``given`` as those of a run, or what is to be there instead."""
    return ", ".join(instead.get(name, f"given.{name}::{type_}") for name, type_ in _types().items())


def _types() -> dict[str, str]:
    columns, dialect = Workflow.__table__.columns, postgresql.dialect()  # type: ignore[no-untyped-call]
    return {name: columns[name].type.compile(dialect) for name in COLUMNS}
