"""ipyparallel's task database on platform-db.

In ``ipcontroller_config.py``::

    c.IPController.db_class = "platform_db.integrations.ipyparallel.PlatformDB"
    c.PlatformDB.owner = "ada@example.org"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipyparallel.controller.dictdb import BaseDB
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from traitlets import Bool, Float, Integer, Unicode, default

from platform_db import database, errors, schema, sessions
from platform_db.models import User
from platform_db.tasks import TaskStore
from platform_db.tasks.encoding import Record
from platform_db.tenancy import tenant_scope
from platform_db.users import find_user


class PlatformDB(BaseDB):
    """The tasks of a controller, in platform-db's database."""

    url = Unicode(config=True, help="The database; by default the one that PLATFORM_DB_URI names.")
    owner = Unicode(config=True, help="Whose tasks these are: a user's id or e-mail address.")
    cluster = Unicode(config=True, help="The name of the history; by default the profile's.")
    as_tenant = Bool(
        False, config=True, help="Work as the role of tenants, which sees the owner's rows alone."
    )
    commit_delay = Float(
        0.05, min=0, config=True, help="Seconds from a record to its commit; 0 commits each by itself."
    )
    record_limit = Integer(
        0, min=0, config=True, help="Records to keep, 0 for all; the oldest completed ones go."
    )
    size_limit = Integer(
        0, min=0, config=True, help="Bytes to keep, 0 for all; the oldest completed records go."
    )
    cull_fraction = Float(
        0.1, min=0, max=1, config=True, help="The part of a limit that goes when the limit is reached."
    )

    @default("cluster")
    def _name_of_profile(self) -> str:
        profile = getattr(self.parent, "profile_dir", None)
        return Path(profile.location).name.removeprefix("profile_") if profile else "default"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        engine = database.create_engine(self.url) if self.url else sessions.get_engine()
        with engine.connect() as connection:
            schema.status(connection).require_usable()
        self._store = TaskStore(
            engine,
            self._find_owner(engine),
            self.cluster,
            as_tenant=self.as_tenant,
            ids_count_up=True,
            commit_delay=self.commit_delay,
            record_limit=self.record_limit,
            size_limit=self.size_limit,
            cull_fraction=self.cull_fraction,
        )
        self.log.info(
            "tasks are stored as the history %r of user %s", self.cluster, self._store.history.owner_id
        )
        self._store.connect()
        if self.url:
            engine.dispose()

    def _find_owner(self, engine: Engine) -> User:
        if not self.owner:
            raise errors.InvalidSetting(
                "it is not configured whose tasks these are",
                hint='set c.PlatformDB.owner = "USER", an id or e-mail address',
            )
        with tenant_scope(engine, self.owner) if self.as_tenant else Session(engine) as session:
            return find_user(session, self.owner)

    def add_record(self, msg_id: str, rec: Mapping[str, Any]) -> None:
        """Add a task; ``KeyError`` where this controller has had it within ten seconds."""
        self._store.add(msg_id, rec)

    def get_record(self, msg_id: str) -> Record:
        """Return a task; ``KeyError`` where there is none."""
        return self._store.get(msg_id)

    def update_record(self, msg_id: str, rec: Mapping[str, Any]) -> None:
        """Change a task."""
        self._store.update(msg_id, rec)

    def drop_record(self, msg_id: str) -> None:
        """Delete a task; ``KeyError`` where there is none."""
        self._store.drop(msg_id)

    def drop_matching_records(self, check: Mapping[str, Any]) -> None:
        """Delete the tasks that meet a filter."""
        self._store.drop_matching(check)

    def find_records(self, check: Mapping[str, Any], keys: Sequence[str] | None = None) -> list[Record]:
        """Return the tasks that meet a filter, or some keys of them."""
        return self._store.find(check, keys)

    def get_history(self) -> list[str]:
        """Return the ids of all tasks, in the order of their submission."""
        return self._store.list_ids()

    def close(self) -> None:
        """Store what is pending."""
        self._store.close()
