"""The column type of encrypted and digested values."""

from __future__ import annotations

import sqlalchemy as sa


class SealedBytes(bytes):
    """Encrypted or digested bytes: nothing that prints them shows them."""

    def __repr__(self) -> str:
        return "<sealed>"

    __str__ = __repr__


class Sealed(sa.TypeDecorator[bytes]):
    """A column of encrypted or digested bytes. SQLAlchemy logs the rows that it fetches: not these."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> SealedBytes | None:
        return None if value is None else SealedBytes(value)
