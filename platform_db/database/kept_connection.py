"""A connection that is kept, used by the driver itself.

SQLAlchemy's pool and its results take as long as all the rest of a look-up. A statement that fails here is
executed again by an engine, which finds another connection or raises one of platform-db's own errors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from platform_db.database.distribution import engine_is_distributed
from platform_db.database.driver_errors import as_own_error
from platform_db.database.pooling import settings_of

T = TypeVar("T")


class KeptConnection:
    """One connection of an engine that commits each text of statements.

    :param enter: statements that begin each text that :meth:`send` is given.
    """

    def __init__(self, engine: sa.Engine, enter: str = "") -> None:
        self._engine = engine
        self._enter = enter
        self._connection: sa.PoolProxiedConnection | None = None
        self._lock = threading.Lock()

    @property
    def enter(self) -> str:
        """The statements that begin a text, of a connection that is there: behind a pooler timeouts, too."""
        return f"{settings_of(self._engine)}{self._enter}"

    def run(self, work: Callable[[Any], T]) -> T:
        """Return what ``work`` returns of a cursor; a connection that an error leaves unusable is given up.

        :raises psycopg2.Error: a statement failed; what it began is rolled back.
        """
        with self._lock:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            try:
                with closing(self._connection.cursor()) as cursor:
                    return work(cursor)
            except BaseException as error:
                # What the server has merely refused leaves the connection usable. Another one may write.
                if self._connection.get_transaction_status() != TRANSACTION_STATUS_IDLE or isinstance(
                    error, psycopg2.errors.ReadOnlySqlTransaction
                ):
                    self._connection.invalidate()
                    self._connection = None
                raise

    def execute(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Sequence[Sequence[Any]]:
        """Do as :meth:`send` does, but raise platform-db's own errors.

        :raises errors.Unreachable: the server does not answer.
        :raises errors.PlatformDBError: it refuses the statement, such as for missing rights.
        """
        try:
            return self.send(statement, values)
        except sa.exc.DBAPIError as error:
            raise as_own_error(error) from None

    def send(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> Sequence[Sequence[Any]]:
        """Return the rows of a text's last statement; the text is one transaction and one round trip.

        :raises sqlalchemy.exc.DBAPIError: the server refuses the statement, or does not answer.
        """
        given = dict(values) if isinstance(values, Mapping) else tuple(values)

        distributed = engine_is_distributed(self._engine)

        def read(cursor: Any) -> Sequence[Sequence[Any]]:
            enter = self.enter
            if distributed and enter:  # Citus takes no text of several statements for a transaction.
                for begin in ("BEGIN", *filter(None, enter.split(";"))):
                    cursor.execute(begin)
                enter = ""
            cursor.execute(f"{enter}{statement}", given)
            rows = cursor.fetchall() if cursor.description else ()
            if distributed and self.enter:
                cursor.execute("COMMIT")
            return rows

        try:
            return self.run(read)
        except (psycopg2.Error, ValueError):  # a text with a NUL
            with self._engine.connect() as connection:
                result = connection.exec_driver_sql(f"{self.enter}{statement}", given)
                return result.all() if result.returns_rows else ()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
