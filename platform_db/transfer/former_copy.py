"""What a target is: empty, or a former copy of this source that no service has worked with.

A comment on the key of the schema's revision says of which source it is a copy, and how far the histories of
the two had come. That on the revision's table says which code the schema serves.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.models import Base

# What a new database has, or a process that looked at it has left.
NOT_OF_USERS = frozenset({"resource", "audit_chain", "prune_mark", "task_lease", "task_outcome"})

_PREFIX = "a copy of the database "


@dataclass(frozen=True)
class Former:
    """The mark of a copy.

    :param source: the server's identifier and the database's.
    """

    source: str

    @classmethod
    def begin(cls, snapshot: sa.Connection, session: Session) -> Former:
        """Refuse a target that holds something else, and mark it as a copy that has begun.

        :raises errors.Refused: it does.
        """
        connection = session.connection()
        made = cls(str(snapshot.scalar(_IDENTITY)))
        mark = str(connection.scalar(_READ_MARK) or "")
        if not mark.startswith(_PREFIX):
            if used := _used_tables(connection):
                raise errors.Refused(
                    f"the target is no copy of this database, and has rows in {', '.join(used[:3])}",
                    hint="make a new database, and migrate it: platform-db db create, then alembic upgrade",
                )
        else:
            source, _, numbers = mark.removeprefix(_PREFIX).partition(": ")
            if source != made.source:
                raise errors.Refused(
                    "the target is a copy of another database", hint="copy into a new database"
                )
            if numbers and numbers != _numbers(connection):
                raise errors.Refused(
                    "services have worked with the target since, and a pass would take that back",
                    hint="the move is over; to try it again, copy into a new database",
                )
        made._store(connection)
        return made

    def end(self, snapshot: sa.Connection, session: Session) -> None:
        """Let the sequences go on from where the source's are, and note how far the histories are."""
        connection = session.connection()
        for name, last in snapshot.execute(_SEQUENCES):
            connection.execute(_SET_SEQUENCE, {"name": name, "last": last or 1, "used": last is not None})
        self._store(connection, _numbers(connection))

    def _store(self, connection: sa.Connection, numbers: str = "") -> None:
        text = f"{_PREFIX}{self.source}: {numbers}"
        connection.exec_driver_sql(f"COMMENT ON {_KEY} IS '{text}'")


def _used_tables(connection: sa.Connection) -> list[str]:
    names = [table.name for table in Base.metadata.sorted_tables if table.name not in NOT_OF_USERS]
    query = " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT FROM platform.{name})" for name in names
    )
    return list(connection.exec_driver_sql(query).scalars())


def _numbers(connection: sa.Connection) -> str:
    return ", ".join(f"{name} {last or 0}" for name, last in connection.execute(_SEQUENCES))


_IDENTITY = sa.text("""
    SELECT concat(system_identifier, '/', pg_database.oid) FROM pg_control_system(), pg_database
    WHERE datname = current_database()
    """)
_KEY = "CONSTRAINT alembic_version_pkc ON platform.alembic_version"
_READ_MARK = sa.text("""
    SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint
    WHERE conrelid = 'platform.alembic_version'::regclass AND conname = 'alembic_version_pkc'
    """)
_SEQUENCES = sa.text("""
    SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'platform' ORDER BY sequencename
    """)
_SET_SEQUENCE = sa.text("SELECT setval(CAST('platform.' || :name AS regclass), :last, :used)")
