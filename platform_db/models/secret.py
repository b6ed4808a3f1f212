"""An attribute that keeps a secret: encrypted in one column, digested for look-ups in another."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, overload

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import SQLCoreOperations

from platform_db import crypto, errors
from platform_db.crypto.column import Sealed
from platform_db.crypto.token_format import require_well_formed
from platform_db.models.base import Base


def other_digests_column() -> Mapped[list[bytes] | None]:
    """Return a column that hands the digests under the ring's other keys to the database; it stores none.

    While two keys are in the ring, the same value has two digests, and a unique index on one of them would
    not meet the other. So a trigger makes a :class:`SecretDigest` of each (``schema/sql/secrets.sql``).
    """
    return mapped_column(ARRAY(sa.LargeBinary), nullable=True, deferred=True)


def key_id_index(table: str, column: str) -> sa.Index:
    """Return the index that tells by a few of its entries which keys a table's secrets are encrypted with."""
    return sa.Index(f"ix_{table}_key_id", sa.text(f"substring({column} FROM 2 FOR {crypto.KEY_ID_BYTES})"))


class SecretAttribute:
    """Encrypts what is assigned, decrypts what is read, and keeps the digest for look-ups beside it.

    The stored value is bound to its table, column and row: moved elsewhere, it does not decrypt. A query
    compares it by digests (:class:`SecretComparator`).

    :param encrypted: the mapped attribute that stores the encrypted value.
    :param digest: the mapped attribute that stores the digest.
    :param other_digests: the mapped attribute that hands over the digests under the ring's other keys.
    """

    def __init__(self, encrypted: str, digest: str, other_digests: str) -> None:
        self.encrypted = encrypted
        self.digest = digest
        self.other_digests = other_digests

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def context(self, row: Any) -> str:
        """Return the name of the place that a row's value is bound to: ``table.column:row``."""
        return f"{row.__tablename__}.{self.name}:{row.id_}"

    @overload
    def __get__(self, row: None, owner: type[Any]) -> SecretComparator: ...
    @overload
    def __get__(self, row: object, owner: type[Any]) -> str | None: ...
    def __get__(self, row: object | None, owner: type[Any]) -> SecretComparator | str | None:
        if row is None:
            return SecretComparator(owner, self.digest)
        stored: bytes | None = getattr(row, self.encrypted)
        return None if stored is None else crypto.get_key_ring().decrypt(stored, self.context(row))

    def __set__(self, row: object, value: str | None) -> None:
        if value is None:
            for name in (self.encrypted, self.digest, self.other_digests):
                setattr(row, name, None)
            return
        require_well_formed(value)
        ring = crypto.get_key_ring()
        digest, *other_digests = ring.digests(value)
        setattr(row, self.encrypted, ring.encrypt(value, self.context(row)))
        setattr(row, self.digest, digest)
        setattr(row, self.other_digests, other_digests)
        flag_modified(row, self.other_digests)  # The database keeps none, so the last value is gone.


class SecretComparator(SQLCoreOperations[str]):
    """A secret in a query: ``UserToken.token == value`` compares digests, so the value is no parameter.

    It takes ``==``, ``!=``, ``in_``, ``not_in`` and None. What cannot be a secret, as a mistyped ``pdb_…``,
    equals none. No index serves interactive sessions of all owners:
    :func:`platform_db.tokens.find_interactive_session` does.

    :param entity: the model, or an alias of it.
    :param digest: the mapped attribute that stores the digest.
    """

    def __init__(self, entity: Any, digest: str) -> None:
        self.entity = entity
        self.digest = digest

    def adapt_to_entity(self, alias: Any) -> SecretComparator:
        """Return the same of an alias, as SQLAlchemy asks for it."""
        return SecretComparator(alias.entity, self.digest)

    def operate(self, op: operators.OperatorType, *other: Any, **options: Any) -> sa.ColumnElement[bool]:
        """Return the condition on the digest.

        :raises errors.InvalidArgument: secrets are not compared so, or not with this.
        """
        if op not in _IS_NEGATED:
            raise errors.InvalidArgument("a secret is compared for equality alone")
        column: Any = getattr(self.entity, self.digest)
        (value,) = other
        if value is None:
            found: sa.ColumnElement[bool] = column.is_(None)
        else:
            found = column.in_(_digests(value if op in (operators.in_op, operators.not_in_op) else [value]))
        return ~found if _IS_NEGATED[op] else found


_IS_NEGATED: dict[Any, bool] = {
    operators.eq: False,
    operators.in_op: False,
    operators.is_: False,
    operators.ne: True,
    operators.not_in_op: True,
    operators.is_not: True,
}


def _digests(values: Iterable[str]) -> list[bytes]:
    """Return the digests of values under all keys of the ring."""
    ring, digests = crypto.get_key_ring(), []
    for value in values:
        if not isinstance(value, str):
            raise errors.InvalidArgument("a secret is compared with texts alone")
        with suppress(errors.MalformedToken):
            require_well_formed(value)
            digests += ring.digests(value)
    return digests


class SecretDigest(Base):
    """A digest of a stored secret. A value is some row's under every key, or none's.

    :param entity: the table of that row.
    """

    digest: Mapped[bytes] = mapped_column(Sealed)
    entity: Mapped[str] = mapped_column(sa.Text)
    entity_id: Mapped[uuid.UUID]

    __table_args__ = (
        sa.PrimaryKeyConstraint("digest"),
        sa.Index("ix_secret_digest_entity_id", "entity_id"),
        sa.CheckConstraint("octet_length(digest) = 32", name="is_sha256"),
    )
