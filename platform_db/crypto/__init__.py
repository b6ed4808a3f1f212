"""Secrets at rest, and what tokens look like."""

from platform_db.crypto.keys import KEY_ID_BYTES, Key, KeyRing, configured_keys, get_key_ring, key_id
from platform_db.settings.secret_keys import KEY_BYTES, generate_key

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
