"""What REANA's services read from columns and write to them, in terms of what platform-db stores."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any

import sqlalchemy as sa

from platform_db.models import AuditLog, AuditLogAction, Base, User, UserResource
from platform_db.models.audit import ReadableTime


class LocalTime(sa.TypeDecorator[datetime]):
    """A time as services have it: local and without a zone; a day is its first moment."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: date | None, dialect: sa.Dialect) -> datetime | None:
        """Return the time with its zone."""
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        return moment.astimezone() if moment.tzinfo is None else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the local time."""
        return None if value is None else value.astimezone().replace(tzinfo=None)


class ReadableLocalTime(LocalTime):
    """Such a time of the audit log."""

    cache_ok = True

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return what is read of a column."""
        return ReadableTime().column_expression(column)


class Limit(sa.TypeDecorator[int]):
    """A limit: 0 is unlimited for services, and what is 0 in the database, none at all, is -1 for them."""

    impl = sa.BigInteger
    cache_ok = True

    class Comparator(sa.TypeDecorator.Comparator[int]):
        """Finds what is unlimited by 0."""

        def __eq__(self, other: object) -> Any:
            return self.expr.is_(None) if _is_zero(other) else super().__eq__(other)

        def __ne__(self, other: object) -> Any:
            return self.expr.is_not(None) if _is_zero(other) else super().__ne__(other)

        __hash__ = sa.TypeDecorator.Comparator.__hash__

    comparator_factory = Comparator

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> int | None:
        """Return the limit as it is stored."""
        return max(value, 0) if value else None

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> int:
        """Return the limit as services know it."""
        return 0 if value is None else value or -1


class Email(sa.TypeDecorator[str]):
    """An e-mail address: platform-db lets no two differ in case alone, so they are found in any case."""

    impl = sa.Text
    cache_ok = True

    class Comparator(sa.TypeDecorator.Comparator[str]):
        """Compares by the index that says so."""

        def __eq__(self, other: object) -> Any:
            if not isinstance(other, str):
                return super().__eq__(other)
            return sa.func.lower(self.expr) == sa.func.lower(other)

        __hash__ = sa.TypeDecorator.Comparator.__hash__

    comparator_factory = Comparator


def _is_zero(value: object) -> bool:
    return isinstance(value, int) and value == 0


class Action(sa.TypeDecorator[Any]):
    """An audited action: a member of the enumeration, where it has one of this name."""

    impl = sa.Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> AuditLogAction | str | None:
        """Return the member."""
        return AuditLogAction.__members__.get(value, value) if value else None


def install() -> None:
    """Give the columns these types, in this process."""
    tables: list[sa.FromClause] = [*Base.metadata.tables.values(), AuditLog.__table__]
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, ReadableTime):
                column.type = ReadableLocalTime()
            elif isinstance(column.type, sa.DateTime):
                column.type = LocalTime()
    UserResource.__table__.c.quota_limit.type = Limit()
    User.__table__.c.email.type = Email()
    AuditLog.__table__.c.action.type = Action()
