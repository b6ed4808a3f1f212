"""Secrets at rest, and what tokens look like."""

from platform_db.crypto.keys import KEY_ID_BYTES, KeyRing, configured_keys, get_key_ring, key_id
from platform_db.settings.secret_keys import generate_key

__all__ = [
    "KEY_ID_BYTES",
    "KeyRing",
    "configured_keys",
    "generate_key",
    "get_key_ring",
    "key_id",
]
