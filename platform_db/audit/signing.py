"""Signing seals with Ed25519 (RFC 8032): write access to the database is not enough to make one."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from platform_db import errors
from platform_db.settings import get_settings
from platform_db.settings.secret_keys import decode_key


def signing_key() -> Ed25519PrivateKey | None:
    """Return the configured key, None where seals are not signed.

    :raises errors.InvalidSetting: it is not a key.
    """
    configured = get_settings().audit_signing_key
    if configured is None:
        return None
    return Ed25519PrivateKey.from_private_bytes(_decode(configured.get_secret_value(), "AUDIT_SIGNING_KEY"))


def public_key() -> str:
    """Return the public part of the configured signing key in base64: what verifying elsewhere needs.

    :raises errors.InvalidSetting: there is no signing key.
    """
    key = signing_key()
    if key is None:
        raise errors.InvalidSetting("PLATFORM_DB_AUDIT_SIGNING_KEY is not set")
    return base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")


def verify_keys() -> list[Ed25519PublicKey]:
    """Return the keys that a seal may be signed with: the signing key's own, and the configured ones."""
    own = signing_key()
    configured = [_decode(key, "AUDIT_VERIFY_KEYS") for key in get_settings().audit_verify_keys]
    return [*([own.public_key()] if own else []), *map(Ed25519PublicKey.from_public_bytes, configured)]


def is_signed(hash_: bytes, signature: bytes, keys: list[Ed25519PublicKey]) -> bool:
    """Tell whether one of the keys made the signature."""
    for key in keys:
        try:
            key.verify(signature, hash_)
        except InvalidSignature:
            continue
        return True
    return False


def _decode(value: str, setting: str) -> bytes:
    try:
        return decode_key(value)
    except ValueError as error:
        raise errors.InvalidSetting(f"PLATFORM_DB_{setting} is {error}") from None
