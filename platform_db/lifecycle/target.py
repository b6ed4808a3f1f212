"""Which row a function is about: a row, its key, or its id with its model."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.distribution import is_distributed
from platform_db.identifiers import parse_id
from platform_db.lifecycle import statements
from platform_db.models import Base, Workflow
from platform_db.models.base import identity_of
from platform_db.states import MACHINES
from platform_db.tenancy import tenant_of

Key = tuple[uuid.UUID, uuid.UUID]
"""A row's whole key: the owner's id and its own."""


def arrays_of(keys: Iterable[Key]) -> dict[str, list[str]]:
    """Return keys as the parameters ``owners`` and ``ids`` of a statement."""
    pairs = [(str(owner_id), str(id_)) for owner_id, id_ in keys]
    return {"owners": [owner_id for owner_id, _ in pairs], "ids": [id_ for _, id_ in pairs]}


@dataclass(frozen=True, slots=True)
class Reference:
    """A row by its model and its key, without an object of it."""

    model: type[Any]
    owner_id: uuid.UUID
    id_: uuid.UUID

    @property
    def key(self) -> Key:
        """The row's key, as ``session.get(reference.model, reference.key)`` takes it."""
        return self.owner_id, self.id_


RowOrId: TypeAlias = Base | Reference | Key | uuid.UUID | str
"""A row, a reference to it such as a worker's claim, its key, or its id."""

RunOrId: TypeAlias = Workflow | Reference | Key | uuid.UUID | str
"""A run, a reference to it such as a worker's claim, its key, or its id."""


T = TypeVar("T", bound="Target")


class Target:
    """The row that is meant.

    :param owner_id: its owner, where it is known.
    """

    __slots__ = ("id_", "model", "owner_id")

    tables: ClassVar[Collection[str]] = ()
    """Which tables' rows may be meant."""

    def __init__(self, model: type[Any], id_: uuid.UUID, owner_id: uuid.UUID | None) -> None:
        self.model = model
        self.id_ = id_
        self.owner_id = owner_id

    @classmethod
    def of(cls: type[T], session: Session, row: RowOrId, model: type[Base] | None = None) -> T:
        """Return the target that is meant.

        :param session: in a tenant's scope, the tenant owns what an id alone names.
        :raises errors.InvalidIdentifier: this is no id, or one without a model.
        :raises errors.InvalidArgument: the model is none of those that may be meant.
        """
        if isinstance(row, Reference):
            model, row = row.model, row.key
        elif isinstance(row, Base):
            model = type(row)
        if model is None:
            raise errors.InvalidIdentifier("an id alone does not say what it is the id of: give its model")
        table = getattr(model, "__tablename__", None)
        if table not in cls.tables:
            raise errors.InvalidArgument(f"this takes no {model.__name__}, only a {' or '.join(cls.tables)}")
        if isinstance(row, Base):
            owner_id, id_ = identity_of(row)
        elif isinstance(row, tuple):
            owner_id, id_ = _parse_key(row, str(table))
        else:
            id_ = parse_id(row, f"{table} id")
            return cls(model, id_, tenant_of(session) or _owner_where_it_counts(session, model, id_))
        return cls(model, id_, owner_id)

    @property
    def table(self) -> str:
        return str(self.model.__tablename__)

    def not_found(self) -> errors.NotFound:
        error = errors.WorkflowNotFound if self.model is Workflow else errors.NotFound
        return error(f"there is no {self.table} {self.id_}")


def _owner_where_it_counts(session: Session, model: type[Any], id_: uuid.UUID) -> uuid.UUID | None:
    """Return the owner of a row where tables are distributed: what names it goes to one node alone.

    Elsewhere the id finds the row at once.
    """
    if not is_distributed(session.connection()):
        return None
    owner_id: uuid.UUID | None = session.scalar(sa.select(model.owner_id).where(model.id_ == id_))
    return owner_id


def _parse_key(key: tuple[Any, ...], table: str) -> Key:
    try:
        owner_id, id_ = key
    except ValueError:
        raise errors.InvalidIdentifier(f"the key of a {table} is its owner's id and its own") from None
    return parse_id(owner_id, "user id"), parse_id(id_, f"{table} id")


class GuardedTarget(Target):
    """The row that is meant, of those that have a guarded status."""

    tables: ClassVar[Collection[str]] = MACHINES

    @property
    def parameters(self) -> dict[str, str | None]:
        """The parameters that name the row."""
        return {"id": str(self.id_), "owner": None if self.owner_id is None else str(self.owner_id)}

    def has_ended(self, session: Session) -> bool:
        """Tell whether the row is no longer alive.

        :raises errors.NotFound: there is no such row.
        """
        read = statements.read(self.table, statements.Conditions.of(self.parameters))
        stored = session.connection().exec_driver_sql(read, self.parameters).one_or_none()
        if stored is None:
            raise self.not_found()
        machine = MACHINES[self.table]
        return machine.statuses(stored.status) in machine.ended


class RunTarget(Target):
    """The run that is meant."""

    tables = (Workflow.__tablename__,)

    def key(self, session: Session) -> Key:
        """Return the run's key; the owner is looked up where it is not known.

        :raises errors.WorkflowNotFound: there is no such run.
        """
        owner_id = self.owner_id or session.connection().scalar(_OWNER, {"id": str(self.id_)})
        if owner_id is None:
            raise self.not_found()
        return owner_id, self.id_


_OWNER = sa.text("SELECT owner_id FROM platform.workflow WHERE id_ = CAST(:id AS uuid)")
