"""What a token that platform-db makes looks like.

``pdb_`` + a letter for its type + 32 random bytes in base62 (43 characters) + a checksum (6 characters).
Scanners and people recognise a leaked one, and a typing error is told from a wrong token without a query.
The checksum is a CRC-32 in base62, as in GitHub's tokens
(https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/).
"""

from __future__ import annotations

import re
import secrets
import zlib

from platform_db import errors
from platform_db.errors import TOKEN_PREFIX as PREFIX

RANDOM_BYTES = 32
LETTERS = {"access": "a", "personal": "p", "session": "s", "webhook": "w", "interactive_session": "i"}

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 43  # 62 ** 43 > 2 ** 256 > 62 ** 42
CHECKSUM_LENGTH = 6  # 62 ** 6 > 2 ** 32 > 62 ** 5

PATTERN = rf"{PREFIX}[{''.join(LETTERS.values())}][0-9A-Za-z]{{{BODY_LENGTH + CHECKSUM_LENGTH}}}"
"""What a scanner for leaked secrets looks for."""

_shape = re.compile(PATTERN)

# Every number below 62 ** 2 in base62: the checksum of each value that is shown is three of them.
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]


def generate(purpose: str) -> str:
    """Return a new value.

    :param purpose: what it is for, one of :data:`LETTERS`.
    """
    number, body = secrets.randbits(8 * RANDOM_BYTES), ""
    for _ in range(BODY_LENGTH):
        number, digit = divmod(number, 62)
        body = ALPHABET[digit] + body
    unchecked = f"{PREFIX}{LETTERS[purpose]}{body}"
    return unchecked + _checksum(unchecked)


def require_well_formed(value: str) -> None:
    """Refuse what cannot be a token: nothing, no text, or a ``pdb_…`` with a typing error in it.

    Other values are the platform's own, and may look as they like.

    :raises errors.MalformedToken: the value is in no part of the error.
    """
    if not isinstance(value, str) or not value or (value.startswith(PREFIX) and not _is_ours(value)):
        raise errors.MalformedToken
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise errors.MalformedToken from None


def require_no_token(text: object) -> None:
    """Refuse a text, or what holds texts, with a token's value in it: it is to be stored in clear.

    Only values that platform-db made are recognised.

    :raises errors.TokenInText: the value is in no part of the error.
    """
    if _shape.search(text if isinstance(text, str) else repr(text)):
        raise errors.TokenInText


def _is_ours(value: str) -> bool:
    unchecked = value[:-CHECKSUM_LENGTH]
    return _shape.fullmatch(value) is not None and value == unchecked + _checksum(unchecked)


def _checksum(text: str) -> str:
    high, low = divmod(zlib.crc32(text.encode()), 62**4)
    middle, low = divmod(low, 62**2)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
