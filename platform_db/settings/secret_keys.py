"""What a key is as text: 32 random bytes in base64, of the standard or the URL-safe alphabet."""

from __future__ import annotations

import base64
import secrets

KEY_BYTES = 32
KEY_HINT = "correct PLATFORM_DB_SECRET_KEY: keys as platform-db secret generate prints them, with commas"

_FROM_URL_SAFE = str.maketrans("-_", "+/")


def generate_key() -> str:
    """Return a new key: 32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a key.

    :raises ValueError: it is not 32 bytes in base64. The message holds no part of it.
    """
    try:
        key = base64.b64decode(text.strip().translate(_FROM_URL_SAFE), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"not {KEY_BYTES} bytes in base64")
    return key


def split_keys(text: str) -> list[str]:
    """Return the keys of a comma-separated list, in its order."""
    return [key for part in text.split(",") if (key := part.strip())]
