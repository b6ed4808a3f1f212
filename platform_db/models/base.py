"""What all models share: the metadata, the naming convention, and the columns that repeat."""

from __future__ import annotations

import importlib
import re
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    QueryableAttribute,
    Session,
    mapped_column,
    object_session,
    validates,
)

from platform_db import errors
from platform_db.database.id_column import Id
from platform_db.identifiers import SCHEMA, new_id, parse_id
from platform_db.models.types import Timestamp, native_enum
from platform_db.states import MACHINES, Machine, RunStatus, Status

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
}

# The tenant of the transaction; NULL where it has none.
CURRENT_TENANT = "(nullif(current_setting('platform.user_id', true), ''))::uuid"

# For columns that triggers may set: the ORM takes their values from the statement that wrote the row.
SET_BY_TRIGGER: Any = {"server_default": sa.FetchedValue(), "server_onupdate": sa.FetchedValue()}


# The key of a table's ``info`` with its storage parameters (SQLAlchemy 2.0 has no argument for them).
STORAGE = "storage"

# The key of a view's ``info`` with the table whose indexes serve its lists.
INDEXED_AS = "indexed_as"

# When to vacuum. Tables that are rewritten all the time: after so many dead rows, whatever their size.
# Tables that only grow: for their visibility map, and after they were pruned.
REWRITTEN_OFTEN = (
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,"
    " autovacuum_analyze_scale_factor = 0.05"
)
CHANGED_OFTEN = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"
ONLY_GROWING = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,"
    " autovacuum_analyze_scale_factor = 0.02"
)


class Base(DeclarativeBase):
    """The base of all models; :attr:`metadata` is what the migrations are compared with."""

    metadata = sa.MetaData(schema=SCHEMA, naming_convention=NAMING_CONVENTION)
    type_annotation_map = {uuid.UUID: Id}

    # Where a child takes its owner from at flush: the attribute with its parent's id, and the parent's model.
    owner_from: ClassVar[tuple[str, str] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the table after the class, ``job_cache`` for ``JobCache``, where that does not name it."""
        if not hasattr(cls, "__tablename__"):
            cls.__tablename__ = re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()
        super().__init_subclass__(**options)

    @classmethod
    def owned_by(cls, tenant: uuid.UUID) -> sa.ColumnElement[bool]:
        """Return the condition that a row is the tenant's; true where rows have no owner."""
        if cls is Base:
            # SQLAlchemy asks the base itself, once, to see which parts of a criterion are parameters.
            return sa.column("owner_id", Id) == tenant
        owner = getattr(cls, "owner_id", None)
        return sa.true() if owner is None else owner == tenant

    def __repr__(self) -> str:
        # Only the identity: other columns may hold secrets, or load from the database when touched.
        identity = sa.inspect(self).identity
        return f"<{type(self).__name__} {', '.join(map(str, identity)) if identity else 'not stored'}>"


@event.listens_for(Base, "attribute_instrument")
def parse_ids(model: type[Base], name: str, attribute: QueryableAttribute[Any]) -> None:
    """Let an id be set by its text. What is none is refused then: a failed flush ends the transaction."""
    columns = getattr(attribute.property, "columns", ())
    if not columns or not isinstance(columns[0].type, Id):
        return
    what = name.strip("_").replace("_", " ")

    @event.listens_for(attribute, "set", retval=True)
    def parse(row: Base, value: Any, *_: Any) -> Any:
        if value is None or isinstance(value, uuid.UUID):
            return value
        return value if isinstance(value, sa.ClauseElement) else parse_id(value, what)


class Identified:
    """A row with an id of its own, given as soon as the object exists."""

    id_: Mapped[uuid.UUID] = mapped_column(default=new_id, sort_order=-2)

    def __init__(self, **values: Any) -> None:
        # First of all: an encrypted value is bound to the id of its row.
        super().__init__(**{"id_": new_id(), **values})


class Timestamped:
    """A row that knows when it was made and last changed. A trigger keeps both, by the database's clock."""

    created: Mapped[datetime] = mapped_column(Timestamp, server_default=sa.FetchedValue(), sort_order=90)
    updated: Mapped[datetime] = mapped_column(Timestamp, **SET_BY_TRIGGER, sort_order=91)


class Guarded(Identified, Timestamped):
    """A row with a status that the database guards, counting its changes. It may be set by its name."""

    revision: Mapped[int] = mapped_column(server_default="0", server_onupdate=sa.FetchedValue())

    __mapper_args__ = {"eager_defaults": True}

    @validates("status")
    def _status_by_name(self, key: str, status: Status | str) -> Status:
        named: Status = self._machine.status(status)
        return named

    def can_transition_to(self, status: Status | str) -> bool:
        """Tell whether the states let ``status`` follow the status that this object has loaded.

        Extra transitions are not asked for.

        :param status: a status, or its name.
        :raises errors.UnknownStatus: there is no status of this name.
        """
        machine = self._machine
        return machine.allows(self.status, machine.status(status))  # type: ignore[attr-defined]

    @property
    def _machine(self) -> Machine[Any]:
        return MACHINES[self.__tablename__]  # type: ignore[attr-defined]


class OfWorkflow:
    """A row of a workflow's, with the same owner."""

    owner_from: ClassVar[tuple[str, str] | None] = ("workflow_id", "Workflow")

    owner_id: Mapped[uuid.UUID]
    workflow_id: Mapped[uuid.UUID]


class OfTenant:
    """A row of the tenant that writes it, where no other owner is named: views have no column for one."""

    owner_id: Mapped[uuid.UUID] = mapped_column(server_default=sa.text(CURRENT_TENANT), sort_order=-1)


def tenant_keys() -> tuple[sa.Constraint, ...]:
    """Return the keys of a tenant's table: its primary key starts with the tenant, and ids are unique.

    ``UNIQUE (id_)`` finds a row by its id alone. It is what distributing the table would drop.
    """
    return (sa.PrimaryKeyConstraint("owner_id", "id_"), sa.UniqueConstraint("id_"))


def tenant_foreign_key(column: str, table: str) -> sa.ForeignKeyConstraint:
    """Return a foreign key to a row of the same owner."""
    return sa.ForeignKeyConstraint(
        ["owner_id", column], [f"{SCHEMA}.{table}.owner_id", f"{SCHEMA}.{table}.id_"], ondelete="CASCADE"
    )


def tenant_reference(column: str, refers_to: str, **options: Any) -> sa.ForeignKeyConstraint:
    """Return a foreign key to a row of the same owner that is known by another name than an id.

    :param refers_to: such as ``value.value_hash``.
    :param options: further arguments of the constraint.
    """
    table = refers_to.partition(".")[0]
    return sa.ForeignKeyConstraint(
        ["owner_id", column], [f"{SCHEMA}.{table}.owner_id", f"{SCHEMA}.{refers_to}"], **options
    )


def user_foreign_key() -> sa.ForeignKeyConstraint:
    """Return a foreign key to the owner, who is not deleted while there is such a row."""
    return sa.ForeignKeyConstraint(["owner_id"], [f"{SCHEMA}.user_.id_"])


def partial_index(name: str, where: str, *columns: str) -> sa.Index:
    """Return an index on the rows that meet a condition; it is unique where its name begins with ``uq_``."""
    return sa.Index(name, *columns, unique=name.startswith("uq_"), postgresql_where=where)


def alive_index(table: str) -> sa.Index:
    """Return the index of the rows that have not ended."""
    alive = ", ".join(f"'{status}'" for status in MACHINES[table].alive)
    return partial_index(f"ix_{table}_in_progress", f"status IN ({alive})", "status")


class Running(Guarded):
    """What a run, a session and a service share: an owner, and the times that the guard keeps."""

    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.user_.id_"))
    name: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[RunStatus] = mapped_column(native_enum(RunStatus, "run_status"), server_default="created")
    run_started_at: Mapped[datetime | None] = mapped_column(Timestamp, **SET_BY_TRIGGER)
    run_finished_at: Mapped[datetime | None] = mapped_column(Timestamp, **SET_BY_TRIGGER)
    run_stopped_at: Mapped[datetime | None] = mapped_column(Timestamp, **SET_BY_TRIGGER)

    @staticmethod
    def constraints() -> tuple[sa.Constraint, ...]:
        """Return the keys and checks that they share."""
        return (
            *tenant_keys(),
            sa.CheckConstraint("status <> 'running' OR run_started_at IS NOT NULL", name="running_has_start"),
            sa.CheckConstraint(
                "status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL", name="finished_has_end"
            ),
            sa.CheckConstraint("status <> 'stopped' OR run_stopped_at IS NOT NULL", name="stopped_has_end"),
        )


class OnWorkflows(Running):
    """What a session and a service share: the workflows that they belong to. A new one has their owner."""

    def take_owner_from_workflow(self) -> None:
        """Set the owner's id where only a workflow was given."""
        if self.owner_id is None:
            for workflow in self.__dict__.get("workflows", ())[:1]:
                workflow.take_defaults_from_owner()
                self.owner_id = workflow.owner_id


def session_of(row: Base) -> Session:
    """Return the session that ``row`` is in.

    :raises errors.PlatformDBError: it is in none.
    """
    session = object_session(row)
    if session is None:
        raise errors.PlatformDBError(f"this {type(row).__name__} is in no session; add it to one first")
    return session


def identity_of(row: Base) -> tuple[uuid.UUID, uuid.UUID]:
    """Return the owner's id and the row's own, without loading what a commit has expired."""
    identity = sa.inspect(row).identity
    owner_id, id_ = identity or (row.owner_id, row.id_)  # type: ignore[attr-defined]
    return uuid.UUID(str(owner_id)), uuid.UUID(str(id_))


def room_above(room: str, function: str) -> Callable[..., Any]:
    """Return a function of a room above the models, which a model offers as a method.

    It is found when it is called: the models import nothing from above, and yet offer the names that people
    look for on them.
    """
    found: Callable[..., Any] = getattr(importlib.import_module(f"platform_db.{room}"), function)
    return found
