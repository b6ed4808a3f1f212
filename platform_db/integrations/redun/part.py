"""What the parts of the backend have in common."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from redun.backends.db import RedunBackendDb

from platform_db.integrations.redun.latest import LatestCalls
from platform_db.provenance.recorder import Recorder


class Part(RedunBackendDb):
    """A part of the backend: methods of one subject."""

    native: sa.Engine
    owner_id: uuid.UUID
    recorder: Recorder
    latest: LatestCalls
    ahead: dict[str, Any]  # evaluations that were fetched before the scheduler asks for them
    _started: dict[str, dict[str, Any]]  # the rows of jobs that have not ended

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection for one look-up, outside of the ORM's session."""
        with self.native.connect() as connection:
            yield connection
