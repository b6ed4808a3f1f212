"""redun's backend on platform-db: what a scheduler does often is recorded in batches.

All else goes through redun's own ORM. Its console, ``redun log`` and its queries work on the views in the
schema ``redun``, by a session that belongs to one owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from redun.backends.db import (
    REDUN_DB_VERSIONS,
    DBVersionInfo,
    RedunBackendDb,
    RedunVersionError,
    null_db_version,
)
from redun.backends.db.serializers import RecordSerializer
from redun.backends.value_store import ValueStore
from redun.config import create_config_section
from sqlalchemy import orm

from platform_db import database, provenance, schema, sessions
from platform_db.database.driver_errors import own_connection_errors
from platform_db.integrations.redun import address
from platform_db.integrations.redun.calls import Calls
from platform_db.integrations.redun.handles import Handles
from platform_db.integrations.redun.jobs import Jobs
from platform_db.integrations.redun.latest import LatestCalls
from platform_db.integrations.redun.looking_up import LookingUp
from platform_db.integrations.redun.serializing import make_serializer
from platform_db.integrations.redun.session import OwnersSession
from platform_db.integrations.redun.syncing import Syncing
from platform_db.integrations.redun.tags import Tags
from platform_db.integrations.redun.upcoming import Upcoming
from platform_db.integrations.redun.values import Values
from platform_db.settings import get_settings
from platform_db.tenancy import tenant_scope
from platform_db.users import find_user
from platform_db.workflows import get_workflow

OPTIONS = {"schema_translate_map": {None: "redun"}}
"""redun's tables have no schema; ours are views in this one."""


class PlatformBackend(Calls, Handles, Jobs, LookingUp, Syncing, Tags, Values, RedunBackendDb):
    """The call graph and the cache of one owner.

    :param db_uri: the database and the owner (:mod:`platform_db.integrations.redun.address`).
    :param config: the section ``[backend]``: ``owner`` where the address names none, and redun's own options.
    """

    _has_engine = False

    def __init__(
        self, db_uri: str | None = None, config: Any = None, logger: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        config = config or create_config_section()
        super().__init__(db_uri, config, logger, *args, **kwargs)
        self._begin(config)

    @classmethod
    def adopt(cls, backend: RedunBackendDb) -> None:
        """Turn a backend that redun has made itself, and that is being loaded, into one of this class."""
        backend.__class__ = cls
        backend._begin({})

    def _begin(self, config: Mapping[str, str]) -> None:
        self.address = address.parse(self.db_uri, config)
        self.db_uri = self.address.text
        self.latest = LatestCalls()
        self._started, self._held, self._final = {}, {}, None
        self.workflow_id = get_settings().workflow_id

    def create_engine(self) -> sa.Engine:
        """Prepare connections; none is made yet."""
        if not self._has_engine:
            url = self.address.url
            self.native = sessions.get_engine() if url is None else database.create_engine(url)
            self.engine = self.native.execution_options(**OPTIONS)
            self.Session = orm.sessionmaker(self.engine, class_=OwnersSession, backend=self)
            self.session = self.Session()
            self._has_engine = True
        return self.engine

    @own_connection_errors()
    def get_db_version(self) -> DBVersionInfo:
        """Return the version of redun's tables that the views show."""
        self.create_engine()
        with self.native.connect() as connection:
            usable = schema.status(connection).usable
        return REDUN_DB_VERSIONS[-1] if usable else null_db_version

    @own_connection_errors()
    def is_db_compatible(self) -> bool:
        """Look whether the schema is current, and find the owner: redun asks this when it loads a backend.

        :raises errors.PlatformDBError: the schema is not current, there is no such owner, or the run that the
            process is part of is not the owner's.
        """
        self.create_engine()
        with self.native.connect() as connection:
            schema.status(connection).require_usable()
        owner, as_tenant = self.address.owner, self.address.as_tenant
        with tenant_scope(self.native, owner) if as_tenant else orm.Session(self.native) as session:
            self.owner_id = find_user(session, owner).id_
            if self.workflow_id is not None:
                get_workflow(session, self.workflow_id, self.owner_id)
        self.recorder = provenance.recorder_of(self.native, self.owner_id, as_tenant=as_tenant)
        self.upcoming = Upcoming(self.recorder)
        if self.value_store is not None and not self._database_loaded:
            # Below the owner's id: a value's path must not tell whether another owner has it.
            self.value_store = ValueStore(f"{self.value_store.root_path}/{self.owner_id}")
        return True

    def migrate(self, desired_version: DBVersionInfo | None = None, upgrade_only: bool = False) -> None:
        """Bring platform-db's schema to its newest revision, whose views show redun's newest tables.

        redun calls it where ``automigrate`` is configured, which is off by default.

        :raises RedunVersionError: another version than the newest is desired.
        """
        newest = REDUN_DB_VERSIONS[-1]
        wanted = desired_version or newest
        is_current = self.get_db_version() == newest
        if is_current and upgrade_only and wanted < newest:
            return
        if wanted != newest:
            raise RedunVersionError(
                "redun's tables are views of platform-db's schema, and come and go with it: "
                "platform-db alembic downgrade"
            )
        if not is_current:
            schema.init_db(self.native)

    def close(self) -> None:
        """Write what was recorded, and close session and connections, which open again when they are used.

        :raises errors.PlatformDBError: as :meth:`platform_db.provenance.Recorder.flush` does.
        """
        self.session.close()
        self.recorder.close()

    @property
    def _record_serializer(self) -> RecordSerializer:
        return _SERIALIZER

    @_record_serializer.setter
    def _record_serializer(self, serializer: RecordSerializer | None) -> None:
        """Keep the own one: redun sets another when it has loaded a backend."""


_SERIALIZER = make_serializer()
