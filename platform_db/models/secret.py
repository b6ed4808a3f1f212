"""An attribute that keeps a secret: encrypted in one column, digested for look-ups in another."""

from __future__ import annotations

from typing import Any, overload

from platform_db import crypto


class SecretAttribute:
    """Encrypts what is assigned, decrypts what is read, and keeps the digest for look-ups beside it.

    The stored value is bound to its table, column and row: moved elsewhere, it does not decrypt.

    :param encrypted: the mapped attribute that stores the encrypted value.
    :param digest: the mapped attribute that stores the digest.
    """

    def __init__(self, encrypted: str, digest: str) -> None:
        self.encrypted = encrypted
        self.digest = digest

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def context(self, row: Any) -> str:
        """Return the name of the place that a row's value is bound to: ``table.column:row``."""
        return f"{row.__tablename__}.{self.name}:{row.id_}"

    @overload
    def __get__(self, row: None, owner: type[Any]) -> SecretAttribute: ...
    @overload
    def __get__(self, row: object, owner: type[Any]) -> str | None: ...
    def __get__(self, row: object | None, owner: type[Any]) -> SecretAttribute | str | None:
        if row is None:
            return self
        stored: bytes | None = getattr(row, self.encrypted)
        return None if stored is None else crypto.get_key_ring().decrypt(stored, self.context(row))

    def __set__(self, row: object, value: str | None) -> None:
        if value is None:
            setattr(row, self.encrypted, None)
            setattr(row, self.digest, None)
            return
        ring = crypto.get_key_ring()
        setattr(row, self.encrypted, ring.encrypt(value, self.context(row)))
        setattr(row, self.digest, ring.digest(value))
