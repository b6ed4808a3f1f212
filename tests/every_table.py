"""Rows in every table, for what is to move all of them."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from platform_db.database.id_column import Id
from platform_db.models import Base
from platform_db.testing.factories import make_user
from tests.calls import record_call
from tests.tenants import make_tenant

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
OWNER = uuid.UUID(int=7)

# What constraints ask for beyond a column's type.
VALUES: dict[str, dict[str, Any]] = {
    "audit_seal": {"previous_hash": bytes(32), "content_hash": bytes(32), "hash": bytes(32)},
    "entity_tag": {"entity_type": "Value"},
    "extra_transition": {"entity": "job", "from_status": "failed", "to_status": "running"},
    "idempotency_key": {"digest": bytes(32)},
    "secret_digest": {"digest": bytes(32)},
    "workflow_result": {"data": b"3.14", "size": 4, "sha256": bytes(32)},
}


def fill(session: orm.Session, names: tuple[str, ...] = ("ann", "bob")) -> None:
    """Store rows of some tenants, and at least one in each table."""
    for name in names:
        tenant = make_tenant(session, name)
        for number in range(3):
            record_call(
                session, tenant.id_, f"{name} {number}", children=(f"{name} {number - 1}",) * (number > 0)
            )
    friend = make_user(session).id_
    session.commit()
    session.execute(sa.text("SET LOCAL session_replication_role = 'replica'"))
    for table in Base.metadata.sorted_tables:
        if session.execute(sa.select(table).limit(1)).first() is None:
            row = _row(session, table)
            if table.name == "user_workflow":  # which nobody shares with themselves
                row["user_id"] = friend
            session.execute(table.insert().values(row))
    session.commit()


def empty_tables(session: orm.Session) -> list[str]:
    """Return the tables without a row."""
    tables = Base.metadata.sorted_tables
    return [table.name for table in tables if session.execute(sa.select(table).limit(1)).first() is None]


def _row(session: orm.Session, table: sa.Table) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for reference in table.foreign_key_constraints:
        referred = session.execute(sa.select(reference.referred_table).limit(1)).mappings().one()
        row |= {e.parent.name: referred[e.column.name] for e in reference.elements}
    for column in table.columns:
        if column.name not in row and column.computed is None and column.identity is None:
            row[column.name] = _value(column)
    return row | VALUES.get(table.name, {})


def _value(column: sa.Column[Any]) -> Any:
    type_ = column.type
    if column.nullable:
        return None
    if isinstance(type_, Id):
        return OWNER
    if isinstance(type_, sa.TypeDecorator):
        type_ = type_.impl_instance
    if isinstance(type_, sa.Enum):
        return type_.enums[0]
    for kind, value in (
        (sa.Uuid, OWNER),
        (sa.Boolean, True),
        (sa.DateTime, AT),
        (sa.LargeBinary, b"\0\1"),
        (postgresql.ARRAY, []),
        (sa.JSON, {"a": [1]}),
        (sa.Text, "text"),
        (sa.String, "text"),
        (sa.Integer, 1),
        (sa.BigInteger, 1),
    ):
        if isinstance(type_, kind):
            return value
    return column.type.python_type()
