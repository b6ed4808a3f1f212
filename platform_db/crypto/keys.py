"""Secrets at rest: encrypted with AES-256-GCM, found by a keyed digest, under a ring of keys.

A stored secret is ``version (1 byte) | key id (4) | nonce (12) | ciphertext and tag (16)``. The column and
the row that it belongs to are authenticated with it, so a value that is moved elsewhere does not decrypt.
Look-ups go by an HMAC-SHA-256 of the value: without the key no guess can be verified, not even with the
whole database. Both keys derive from one 32-byte secret by HKDF (RFC 5869).
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from platform_db import errors
from platform_db.settings import get_settings
from platform_db.settings.secret_keys import KEY_BYTES, KEY_HINT, decode_key, split_keys

if TYPE_CHECKING:
    from platform_db.settings.variables import Settings

VERSION = b"\x01"
KEY_ID_BYTES = 4
NONCE_BYTES = 12


@dataclass(frozen=True)
class Key:
    """One secret key: what encrypts, what digests, and the id by which stored values name it."""

    id_: bytes
    encryption: bytes = field(repr=False)
    digestion: hmac.HMAC = field(repr=False, compare=False)

    @classmethod
    def from_secret(cls, secret: bytes) -> Key:
        """Derive the keys from 32 random bytes."""
        return cls(
            _derive(secret, b"platform-db key id", KEY_ID_BYTES),
            _derive(secret, b"platform-db encryption", KEY_BYTES),
            hmac.new(_derive(secret, b"platform-db digest", KEY_BYTES), digestmod="sha256"),
        )

    def digest(self, value: bytes) -> bytes:
        """Return the HMAC-SHA-256 of ``value``.

        It copies a state that has read the key already: reading the key again takes three times as long.
        """
        code = self.digestion.copy()
        code.update(value)
        return code.digest()


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=purpose).derive(secret)


class KeyRing:
    """Keys, newest first: the newest encrypts and digests, all of them decrypt and find."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        if not keys:
            raise errors.SecretKeyError("no secret key is configured")
        self.keys = keys
        self._by_id = {key.id_: key for key in keys}
        if len(self._by_id) != len(keys):
            raise errors.SecretKeyError("a secret key is given twice")

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read comma-separated keys, newest first, each 32 bytes in base64.

        :raises errors.SecretKeyError: names the position of the key that cannot be used, never the key.
        """
        keys = []
        for position, part in enumerate(split_keys(text), start=1):
            try:
                keys.append(Key.from_secret(decode_key(part)))
            except ValueError as error:
                raise errors.SecretKeyError(
                    f"secret key number {position} is {error}", hint=KEY_HINT
                ) from None
        return cls(tuple(keys))

    @property
    def newest(self) -> Key:
        """The key that encrypts and digests what is written now."""
        return self.keys[0]

    def encrypt(self, value: str, context: str) -> bytes:
        """Encrypt ``value`` for the place that ``context`` names, as ``table.column:row``."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        header = VERSION + self.newest.id_
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(self.newest.encryption).encrypt(nonce, value.encode(), header + context.encode())
        return header + nonce + sealed

    def decrypt(self, stored: bytes, context: str) -> str:
        """Decrypt what :meth:`encrypt` returned for the same ``context``.

        :raises errors.SecretKeyError: the ring does not hold the key; its id is named.
        :raises errors.DecryptionError: the value was altered, moved or cut.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        header, nonce, sealed = _split(stored)
        key = self._by_id.get(header[1:])
        if key is None:
            raise errors.SecretKeyMissing(f"the secret key with id {header[1:].hex()} is not configured")
        try:
            return AESGCM(key.encryption).decrypt(nonce, sealed, header + context.encode()).decode()
        except InvalidTag:
            raise errors.DecryptionError from None

    def digest(self, value: str) -> bytes:
        """Return the 32-byte digest under the newest key, by which a value is stored."""
        return self.newest.digest(value.encode())

    def digests(self, value: str) -> list[bytes]:
        """Return the digests under every key of the ring, newest first, by which a value is found."""
        encoded = value.encode()
        return [key.digest(encoded) for key in self.keys]


def key_id(stored: bytes) -> bytes:
    """Return the id of the key that a stored secret is encrypted with."""
    return _split(stored)[0][1:]


def _split(stored: bytes) -> tuple[bytes, bytes, bytes]:
    nonce_at = 1 + KEY_ID_BYTES
    sealed_at = nonce_at + NONCE_BYTES
    if len(stored) < sealed_at + 16 or stored[:1] != VERSION:
        raise errors.DecryptionError
    return stored[:nonce_at], stored[nonce_at:sealed_at], stored[sealed_at:]


_configured: tuple[Settings, KeyRing] | None = None


def get_key_ring() -> KeyRing:
    """Return the ring of the configured keys, which is read once for each reading of the settings.

    :raises errors.SecretKeyError: no key is configured, or one of them cannot be used.
    """
    global _configured
    settings = get_settings()
    configured = _configured
    if configured is None or configured[0] is not settings:
        configured = _configured = (settings, KeyRing.parse(_key_text(settings) or ""))
    return configured[1]


def configured_keys() -> tuple[Key, ...]:
    """Return the configured keys, newest first; none where none is configured.

    :raises errors.SecretKeyError: one of them cannot be used.
    """
    return () if _key_text(get_settings()) is None else get_key_ring().keys


def _key_text(settings: Settings) -> str | None:
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    if settings.uri is not None:
        from platform_db import embedded

        directory = embedded.parse_uri(settings.uri.get_secret_value())
        if directory is not None:
            return embedded.secret_key(directory)
    return None
