"""Amounts as people read and write them: ``1.75 MiB``, ``2h 35m 10s``.

The two ``human_readable`` functions write, the ``parse`` functions read what a person typed. Whether
*unlimited* is a value is the caller's business.
"""

from __future__ import annotations

import re
from fractions import Fraction

from platform_db import errors
from platform_db.bounds import LARGEST_AMOUNT

BYTE_UNITS = ("Bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

# "K" and "KiB" are powers of 1024, "KB" is one of 1000: as du, dd and the other core utilities read.
BYTES_PER_UNIT = {"": 1, "b": 1, "byte": 1, "bytes": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgtpe", start=1)
    for ending, base in (("", 1024), ("ib", 1024), ("b", 1000))
}

MILLISECONDS_PER_UNIT = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
BYTES_PATTERN = re.compile(rf"([+-]?)\s*({NUMBER})\s*([a-z]*)", re.IGNORECASE)
NUMBER_PATTERN = re.compile(rf"([+-]?)\s*({NUMBER})")
DURATION_PATTERN = re.compile(
    r"([+-]?)\s*(?=[0-9.])" + "".join(rf"(?:({NUMBER})\s*{unit}\s*)?" for unit in MILLISECONDS_PER_UNIT),
    re.IGNORECASE,
)


def human_readable_bytes(value: int) -> str:
    """Write an amount of bytes in the largest binary unit that it fills, with at most two decimals.

    ``0 Bytes``, ``35 KiB``, ``200.5 KiB``, ``1.75 MiB``, ``-1.25 TiB``. Halves round away from zero, and what
    rounds up to 1024 of a unit is one of the next: ``1048575`` is ``1 MiB``.
    """
    magnitude = abs(value)
    power = min(max(magnitude.bit_length() - 1, 0) // 10, len(BYTE_UNITS) - 1)
    hundredths = _divide_rounding(magnitude * 100, 1024**power)
    if hundredths >= 102_400 and power < len(BYTE_UNITS) - 1:
        power += 1
        hundredths = _divide_rounding(magnitude * 100, 1024**power)
    whole, decimals = divmod(hundredths, 100)
    number = f"{whole}.{decimals:02d}".rstrip("0").rstrip(".")
    return f"{'-' if value < 0 else ''}{number} {BYTE_UNITS[power]}"


def human_readable_milliseconds(value: int) -> str:
    """Write a duration of milliseconds in hours, minutes and whole seconds, leaving out what is zero.

    ``0s``, ``35s``, ``7m 40s``, ``2h``, ``-3h 35s``. Rounded to the nearest second, halves away from zero:
    499 is ``0s``, 500 is ``1s``, 59500 is ``1m``.
    """
    seconds = _divide_rounding(abs(value), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{amount}{unit}" for amount, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if amount]
    if not parts:
        return "0s"
    return ("-" if value < 0 else "") + " ".join(parts)


def parse_bytes(text: str) -> int:
    """Read an amount of bytes: ``1024``, ``50GiB``, ``1.5 TiB``, ``50 GB``, ``200k``.

    ``KiB`` and ``K`` are 1024 bytes, ``KB`` is 1000; case does not matter. A fraction of a byte is rounded.

    :raises errors.InvalidArgument: this is not an amount of bytes, or more than a bigint holds.
    """
    match = BYTES_PATTERN.fullmatch(text.strip())
    if match is None or (factor := BYTES_PER_UNIT.get(match[3].lower())) is None:
        raise errors.InvalidArgument(
            f"not an amount of bytes: {text!r} (write for example 1024, 50GiB or 1.5 TiB)"
        )
    return _whole_amount(Fraction(match[1] + match[2]) * factor, text)


def parse_milliseconds(text: str) -> int:
    """Read a duration as milliseconds: ``100h``, ``2h 30m``, ``45s``, ``1.5h``, ``1d``; so is a bare number.

    :raises errors.InvalidArgument: this is not a duration, or more than a bigint holds.
    """
    return _whole_amount(_parse_duration(text, bare_unit="ms"), text)


def parse_duration_seconds(text: str, bare_unit: str = "s") -> float:
    """Read a duration as seconds: ``30d``, ``2h 30m``, ``250ms``.

    :param bare_unit: the unit of a number without one: ``d``, ``h``, ``m``, ``s`` or ``ms``.
    :raises errors.InvalidArgument: this is not a duration, or more milliseconds than a bigint holds.
    """
    return _whole_amount(_parse_duration(text, bare_unit), text) / 1000


def _parse_duration(text: str, bare_unit: str) -> Fraction:
    """Return milliseconds; units stand in falling order, each at most once."""
    stripped = text.strip()
    if match := NUMBER_PATTERN.fullmatch(stripped):
        return Fraction(match[1] + match[2]) * MILLISECONDS_PER_UNIT[bare_unit]
    if match := DURATION_PATTERN.fullmatch(stripped):
        sign, *amounts = match.groups(default="0")
        factors = MILLISECONDS_PER_UNIT.values()
        total = sum(Fraction(amount) * factor for amount, factor in zip(amounts, factors, strict=True))
        return Fraction(-total if sign == "-" else total)
    raise errors.InvalidArgument(f"not a duration: {text!r} (write for example 100h, 2h 30m or 45s)")


def _whole_amount(amount: Fraction, text: str) -> int:
    whole = round(amount)
    if abs(whole) > LARGEST_AMOUNT:
        raise errors.InvalidArgument(f"too large: {text!r} is beyond {LARGEST_AMOUNT}")
    return whole


def _divide_rounding(dividend: int, divisor: int) -> int:
    """Divide in whole numbers, which stay exact where floats do not; halves go up."""
    return (2 * dividend + divisor) // (2 * divisor)
