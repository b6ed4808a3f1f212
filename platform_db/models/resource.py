"""Resources, and how much of each a user may use, has used and has reserved."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column, relationship, synonym

from platform_db import units
from platform_db.models.base import (
    CHANGED_OFTEN,
    STORAGE,
    Base,
    Identified,
    OfWorkflow,
    Timestamped,
    tenant_foreign_key,
    tenant_keys,
)
from platform_db.models.types import Timestamp, native_enum
from platform_db.settings import get_settings

if TYPE_CHECKING:
    from platform_db.models.user import User

WARNING_PERCENT = 80
CRITICAL_PERCENT = 100


class ResourceType(str, enum.Enum):
    """Kinds of resources."""

    cpu = "cpu"
    disk = "disk"
    database = "database"


class ResourceUnit(str, enum.Enum):
    """Units of resources."""

    milliseconds = "milliseconds"
    bytes_ = "bytes"

    @staticmethod
    def human_readable_unit(unit: ResourceUnit, value: int) -> str:
        """Return ``value`` for people: ``35 KiB``, ``2h 35m 10s``."""
        if unit is ResourceUnit.bytes_:
            return units.human_readable_bytes(value)
        return units.human_readable_milliseconds(value)


class Resource(Identified, Timestamped, Base):
    """Something of which users have a quota."""

    name: Mapped[str] = mapped_column(sa.Text)
    type_: Mapped[ResourceType] = mapped_column(native_enum(ResourceType, "resource_type"))
    unit: Mapped[ResourceUnit] = mapped_column(native_enum(ResourceUnit, "resource_unit"))
    title: Mapped[str] = mapped_column(sa.Text)

    __table_args__ = (sa.PrimaryKeyConstraint("id_"), sa.UniqueConstraint("name"))

    @staticmethod
    def initialise_default_resources(session: Session) -> list[str]:
        """Create the default resources that are missing, give all users their limits, and return their names.

        Two processes that do it at once are fine.
        """
        columns = ("name", "type_", "unit", "title")
        statement = (
            insert(Resource)
            .values([dict(zip(columns, row, strict=True)) for row in DEFAULT_RESOURCES])
            .on_conflict_do_nothing(index_elements=["name"])
            .returning(Resource.name)
        )
        created = sorted(session.scalars(statement))
        if created:
            if DATABASE_STORAGE in created:
                # A writer that stores something meanwhile commits first, or waits and is counted then.
                session.execute(_HOLD_STORING)
            UserResource.create_defaults(session)
        return created


DATABASE_STORAGE = "database storage"

DEFAULT_RESOURCES = (
    ("processing time", ResourceType.cpu, ResourceUnit.milliseconds, "Processing time"),
    ("shared storage", ResourceType.disk, ResourceUnit.bytes_, "Shared storage"),
    (DATABASE_STORAGE, ResourceType.database, ResourceUnit.bytes_, "Database storage"),
)


class UserResource(Base):
    """A user's quota of one resource. A limit of NULL is unlimited; 0 is none.

    :param quota_pruned: what of ``quota_used`` was used by runs, sessions and services that have been pruned.
    """

    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.user_.id_", ondelete="CASCADE"))
    resource_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.resource.id_"))
    quota_limit: Mapped[int | None] = mapped_column(sa.BigInteger)
    quota_used: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    quota_reserved: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    quota_pruned: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    quota_period_months: Mapped[int | None] = mapped_column(sa.Integer)
    quota_period_start_at: Mapped[datetime | None] = mapped_column(Timestamp)
    measured_at: Mapped[datetime | None] = mapped_column(Timestamp)

    user_id: Mapped[uuid.UUID] = synonym("owner_id")
    user: Mapped[User] = relationship(back_populates="resources")
    resource: Mapped[Resource] = relationship(lazy="joined", innerjoin=True)

    __table_args__ = (
        sa.PrimaryKeyConstraint("owner_id", "resource_id"),
        sa.CheckConstraint("quota_used >= 0", name="used_not_negative"),
        sa.CheckConstraint("quota_reserved >= 0", name="reserved_not_negative"),
        sa.CheckConstraint("quota_pruned >= 0", name="pruned_not_negative"),
        sa.CheckConstraint("quota_limit >= 0", name="limit_not_negative"),
        sa.CheckConstraint("quota_period_months >= 1", name="period_at_least_a_month"),
        {"info": {STORAGE: f"fillfactor = 70, {CHANGED_OFTEN}"}},
    )

    @staticmethod
    def create_defaults(session: Session, user_ids: Iterable[uuid.UUID] | None = None) -> None:
        """Give the users, by default all, the default limit of each resource that they lack."""
        settings = get_settings()
        session.execute(
            _CREATE_DEFAULTS_OF_ALL if user_ids is None else _CREATE_DEFAULTS,
            {
                "user_ids": None if user_ids is None else list(user_ids),
                "cpu_limit": settings.default_quota_cpu_limit,
                "disk_limit": settings.default_quota_disk_limit,
                "database_limit": settings.default_quota_database_limit,
                "period_months": settings.default_quota_cpu_period_reset_months,
            },
        )


def stored_bytes(owner: str) -> str:
    """Return the expression of how many bytes the database stores for an owner, as ``storage.sql`` counts."""
    return f"""(SELECT coalesce(sum(size), 0)::bigint FROM (
        SELECT size FROM platform.workflow_result WHERE workflow_result.owner_id = {owner} AND file IS NULL
        UNION ALL SELECT size FROM platform.task_record WHERE task_record.owner_id = {owner}
        UNION ALL SELECT octet_length(value) FROM platform.value WHERE value.owner_id = {owner}) AS stored)"""


_HOLD_STORING = sa.text(
    "LOCK TABLE platform.workflow_result, platform.task_record, platform.value IN SHARE MODE"
)


def _defaults(of_users: str, of_owners: str) -> str:
    # The sum joins, since Citus takes no subquery that is evaluated user by user.
    return f"""
        INSERT INTO platform.user_resource
            (owner_id, resource_id, quota_used, quota_limit, quota_period_months, quota_period_start_at)
        SELECT u.id_, r.id_,
               CASE WHEN r.name = '{DATABASE_STORAGE}' THEN coalesce(stored.bytes_, 0) ELSE 0 END,
               CASE r.type_ WHEN 'cpu' THEN CAST(:cpu_limit AS bigint) WHEN 'disk' THEN :disk_limit
                            ELSE :database_limit END,
               CASE r.type_ WHEN 'cpu' THEN CAST(:period_months AS integer) END,
               CASE WHEN r.type_ = 'cpu' AND :period_months IS NOT NULL THEN u.created END
        FROM platform.user_ AS u CROSS JOIN platform.resource AS r
        LEFT JOIN (
            SELECT owner_id, sum(size)::bigint AS bytes_ FROM (
                SELECT owner_id, size FROM platform.workflow_result WHERE file IS NULL {of_owners}
                UNION ALL SELECT owner_id, size FROM platform.task_record WHERE true {of_owners}
                UNION ALL SELECT owner_id, octet_length(value) FROM platform.value WHERE true {of_owners}
            ) AS each_ GROUP BY owner_id
        ) AS stored ON stored.owner_id = u.id_
        WHERE true {of_users}
        ORDER BY u.id_, r.id_
        ON CONFLICT DO NOTHING
    """


_CREATE_DEFAULTS_OF_ALL = sa.text(_defaults("", ""))
_CREATE_DEFAULTS = sa.text(
    _defaults("AND u.id_ = ANY(:user_ids)", "AND owner_id = ANY(:user_ids)")
).bindparams(sa.bindparam("user_ids", type_=ARRAY(sa.Uuid)))


# Versions of figures: a measurement that begins later has a larger one.
QUOTA_VERSION = sa.Sequence("quota_version", data_type=sa.BigInteger, metadata=Base.metadata)


class Usage:
    """How much of a resource something of a user's has used, and when that was measured."""

    owner_id: Mapped[uuid.UUID]
    resource_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("platform.resource.id_"))
    quota_used: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    measured_at: Mapped[datetime | None] = mapped_column(Timestamp)

    @declared_attr
    def resource(cls) -> Mapped[Resource]:
        """Of what."""
        return relationship(lazy="joined", innerjoin=True)

    @staticmethod
    def constraints(column: str, table: str) -> tuple[sa.Constraint, ...]:
        """Return the keys and checks of the figures of a table's rows.

        :param column: refers to the row.
        """
        return (
            sa.PrimaryKeyConstraint("owner_id", column, "resource_id"),
            tenant_foreign_key(column, table),
            sa.CheckConstraint("quota_used >= 0", name="used_not_negative"),
        )


class WorkflowResource(OfWorkflow, Usage, Base):
    """How much of a resource a workflow uses, and when that was measured.

    The runs that share a workspace have equal figures for the disk. ``version`` orders figures by the start
    of their measurement; ``delta`` is the sum of all changes that were reported since the row was created.
    ``stale`` asks the next disk run for a new figure. ``method`` and ``apparent`` say how it was measured.
    """

    version: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    delta: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    stale: Mapped[bool] = mapped_column(server_default="false")
    method: Mapped[str | None] = mapped_column(sa.Text)
    apparent: Mapped[bool] = mapped_column(server_default="false")

    __table_args__ = (*Usage.constraints("workflow_id", "workflow"), {"info": {STORAGE: "fillfactor = 80"}})


class InteractiveSessionResource(Usage, Base):
    """How much of a resource an interactive session uses, and when that was measured."""

    owner_from = ("session_id", "InteractiveSession")

    session_id: Mapped[uuid.UUID]

    __table_args__ = Usage.constraints("session_id", "interactive_session")


class ServiceResource(Usage, Base):
    """How much of a resource a service uses, and when that was measured."""

    owner_from = ("service_id", "Service")

    service_id: Mapped[uuid.UUID]

    __table_args__ = Usage.constraints("service_id", "service")


class QuotaReservation(Identified, Timestamped, Base):
    """An amount of a user's quota that is held for something that is about to use it.

    A negative amount holds nothing: it is given back when the reservation is committed.
    """

    owner_id: Mapped[uuid.UUID]
    resource_id: Mapped[uuid.UUID]
    amount: Mapped[int] = mapped_column(sa.BigInteger)
    expires_at: Mapped[datetime] = mapped_column(Timestamp)

    user_id: Mapped[uuid.UUID] = synonym("owner_id")

    __table_args__ = (
        *tenant_keys(),
        sa.ForeignKeyConstraint(
            ["owner_id", "resource_id"],
            ["platform.user_resource.owner_id", "platform.user_resource.resource_id"],
            ondelete="CASCADE",
        ),
        sa.Index("ix_quota_reservation_expires_at", "expires_at"),
        sa.Index("ix_quota_reservation_owner_id_resource_id", "owner_id", "resource_id"),
    )


def quota_usage(unit: ResourceUnit, used: int, limit: int | None = None) -> dict[str, Any]:
    """Return ``{"usage": {"raw", "human_readable"}}``, with a limit also ``limit`` and ``health``.

    Health is ``warning`` from 80 % of the limit and ``critical`` from 100 %; a limit of 0 is critical.
    """

    def amount(value: int) -> dict[str, Any]:
        return {"raw": value, "human_readable": ResourceUnit.human_readable_unit(unit, value)}

    result: dict[str, Any] = {"usage": amount(used)}
    if limit is not None:
        result["limit"] = amount(limit)
        if used * 100 >= limit * CRITICAL_PERCENT:
            result["health"] = "critical"
        else:
            result["health"] = "warning" if used * 100 >= limit * WARNING_PERCENT else "healthy"
    return result
