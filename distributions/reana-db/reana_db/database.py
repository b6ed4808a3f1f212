"""The thread's ``Session``, the engine, and the schema for test suites."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm.attributes import get_history

from platform_db import database, schema, sessions
from platform_db.schema.objects import SCHEMAS
from reana_db import config as config
from reana_db import utils
from reana_db.models import Base, RunStatus, Workflow

ENDED = (RunStatus.finished, RunStatus.failed, RunStatus.stopped, RunStatus.deleted)


class Query(orm.Query[Any]):
    """A query that reads what services ask each run of a list for, and updates logs, too."""

    def all(self) -> list[Any]:
        """Return all rows."""
        return list(self)

    def __iter__(self) -> Iterator[Any]:
        are_runs = [column["expr"] for column in self.column_descriptions] == [Workflow]
        return orm.Query.__iter__(self.options(*RELATED) if are_runs else self)

    def update(self, values: Any, *options: Any, **named: Any) -> int:
        """Update the rows that are found, and return how many. Logs are no column."""
        if "logs" not in values:
            return super().update(values, *options, **named)
        rows = self.all()
        for row in rows:
            for name, value in values.items():
                setattr(row, name, value)
        self.session.flush()
        return len(rows)


# One statement each for a whole list, not one for each run.
RELATED = [
    orm.selectinload(attribute)
    for attribute in (
        Workflow.users_it_is_shared_with,
        Workflow.services,
        Workflow.sessions,
        Workflow.resources,
    )
]


class ReanaSession(sessions.session_factory.class_):  # type: ignore[name-defined, misc]
    """A session that counts what runs have used once their end is stored."""

    def commit(self) -> None:
        """Commit, and then update the quotas of the owners of runs that have ended."""
        super().commit()
        for run in self.info.pop("ended", ()):
            utils.account_for_ended_run(run)


@event.listens_for(ReanaSession, "before_flush")
def note_ended_runs(session: orm.Session, *_: object) -> None:
    """Note the runs that end with this flush."""
    for row in session.dirty:
        if isinstance(row, Workflow) and row.status in ENDED and get_history(row, "status").has_changes():
            session.info.setdefault("ended", []).append(row)


@event.listens_for(ReanaSession, "after_rollback")
def forget_ended_runs(session: orm.Session) -> None:
    """Forget the runs whose end was not stored."""
    session.info.pop("ended", None)


Session: Any = orm.scoped_session(orm.sessionmaker(class_=ReanaSession, autoflush=False, query_cls=Query))
"""The session of this thread."""

# The parent's connections are the parent's.
os.register_at_fork(after_in_child=lambda: Session.registry.clear())


def new_session() -> orm.Session:
    """Return a session of its own on the thread's database, for the jobs that commit in batches."""
    return sessions.session_factory(bind=Session().bind)


def init_db() -> None:
    """Create the database, if it is missing, and bring it to the newest revision."""
    database.create_database()
    create_all()


def create_all(bind: sa.Engine | None = None, **_: object) -> None:
    """Bring a database to the newest revision."""
    schema.upgrade(bind or Session().bind)


def drop_all(bind: sa.Engine | None = None, **_: object) -> None:
    """Drop the schema with all that is in it, for test suites."""
    with (bind or Session().get_bind()).begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {', '.join(SCHEMAS)} CASCADE")


# Test suites make and drop the tables of these metadata: the schema is more than its tables.
vars(Base.metadata).update(create_all=create_all, drop_all=drop_all)


def __getattr__(name: str) -> Any:
    if name == "engine":
        return sessions.get_engine()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
