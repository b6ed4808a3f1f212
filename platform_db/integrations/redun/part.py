"""What the parts of the backend have in common."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from redun.backends.db import RedunBackendDb

from platform_db.integrations.redun.latest import LatestCalls
from platform_db.integrations.redun.upcoming import Upcoming
from platform_db.provenance import Recorder


class Part(RedunBackendDb):
    """A part of the backend: methods of one subject."""

    # redun's own, whose types are not to be had.
    db_uri: str
    value_store: Any
    type_registry: Any

    native: sa.Engine
    owner_id: uuid.UUID
    recorder: Recorder
    workflow_id: uuid.UUID | None  # of the run that executions are part of
    latest: LatestCalls
    upcoming: Upcoming
    _started: dict[str, dict[str, Any]]  # the rows of jobs that have not ended
    _held: dict[str, dict[str, Any]]  # those of them that are not recorded yet
    _final: str | None  # the call that was found last whose result names no further ones

    def end_transaction(self) -> None:
        """Commit what the caller's session has pending, as each of redun's own methods does where it writes.

        So callers may rely on rows of their own being there, and on objects being read again.
        """
        if self.session is None or not self.session.in_transaction():  # the usual case, without its lock
            return
        with self.with_session() as session:
            session.commit()
