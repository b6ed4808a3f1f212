"""What is hashed of a row, and how it is read: as a line that PostgreSQL writes and the client hashes.

The line is COPY's text format of the columns below. Only output functions of built-in types have a part in
it, and no setting of a session. The rows stream: neither side holds more than one. The columns are never
reordered, and none is ever added: sealed rows must give the same line forever.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.orm import Session

COLUMNS = (
    "number, id_, owner_id, actor_id, action, details, request_id, address, service,"
    " extract(epoch FROM created)"
)

TABLE = "platform.audit_sealed"

# The first seal begins with the first row, whatever its number; the next one goes on to the last.
FIRST, LAST = -(2**63), 2**63 - 1

# A digest: the row's number and the SHA-256 of the rest of its line. Without the number, a row that was moved
# elsewhere is recognised.
DIGEST = struct.Struct(">q32s")


def read_digests(session: Session, first: int, last: int, limit: int) -> bytes:
    """Return the digests of the rows from ``first`` to ``last`` in their order, of ``limit`` at most."""
    driver: Any = session.connection().connection
    statement = (
        f"COPY (SELECT {COLUMNS} FROM {TABLE} WHERE number >= {first:d} AND number <= {last:d}"
        f" ORDER BY number LIMIT {limit:d}) TO STDOUT (ENCODING 'UTF8')"
    )
    lines = _Lines()
    try:
        with driver.cursor() as cursor:
            cursor.copy_expert(statement, lines)
    except psycopg2.Error as error:
        raise sa.exc.DBAPIError.instance(statement, None, error, psycopg2.Error) from error
    return bytes(lines.digests)


def split_digests(digests: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each row's number and the SHA-256 of its line."""
    yield from DIGEST.iter_unpack(digests)


class _Lines:
    """Takes a row's line at a time from the driver."""

    def __init__(self) -> None:
        self.digests = bytearray()

    def write(self, line: bytes) -> None:
        number, _, rest = line.partition(b"\t")
        self.digests += DIGEST.pack(int(number), hashlib.sha256(rest).digest())
