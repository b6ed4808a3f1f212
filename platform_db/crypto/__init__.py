"""Secrets at rest, and what tokens look like."""

from platform_db.crypto.keys import (
    KEY_BYTES,
    KEY_ID_BYTES,
    Key,
    KeyRing,
    configured_keys,
    generate_key,
    get_key_ring,
    key_id,
)

__all__ = [
    "KEY_BYTES",
    "KEY_ID_BYTES",
    "Key",
    "KeyRing",
    "configured_keys",
    "generate_key",
    "get_key_ring",
    "key_id",
]
