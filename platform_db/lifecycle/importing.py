"""Importing: rows of another system are stored as they are, and leave no trace of acts that were not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session

from platform_db import errors
from platform_db.database.session import takes_session
from platform_db.database.transaction_settings import saying


@contextmanager
@takes_session
def importing(session: Session) -> Iterator[None]:
    """Store rows within this block as they are: with their times and statuses, and without a trace.

    No history, event, audit row or retention rule follows from them, and no status is refused. Constraints,
    run numbers, progress and the digests of secrets are kept as always. The block is a savepoint: an error
    undoes what it did.

    :raises errors.RolesMissing: the login has not the rights of the tables' owner.
    """
    with saying(session, {"import": "on"}):
        if not session.connection().execute(_IS_IMPORT).scalar_one():
            raise errors.RolesMissing(
                "only a login with the rights of the tables' owner can import",
                hint="use the login that migrates, outside tenant_scope()",
            )
        yield


_IS_IMPORT = sa.text("SELECT platform.is_import()")
