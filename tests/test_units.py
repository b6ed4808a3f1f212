"""Amounts as people read and write them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from platform_db.bounds import LARGEST_AMOUNT
from platform_db.units import (
    human_readable_bytes,
    human_readable_milliseconds,
    parse_bytes,
    parse_duration_seconds,
    parse_milliseconds,
)

amounts = st.integers(-LARGEST_AMOUNT, LARGEST_AMOUNT)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 Bytes"),
        (1, "1 Bytes"),
        (1023, "1023 Bytes"),
        (1024, "1 KiB"),
        (35 * 1024, "35 KiB"),
        (205_312, "200.5 KiB"),
        (1_835_008, "1.75 MiB"),
        (1_048_575, "1 MiB"),
        (1024**3 - 1, "1 GiB"),
        (5_476_083_302, "5.1 GiB"),
        (-1_374_389_534_720, "-1.25 TiB"),
        (2**63 - 1, "8 EiB"),
        (2**80, "1048576 EiB"),
    ],
)
def test_bytes_are_written_with_at_most_two_decimals(value, text):
    assert human_readable_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (499, "0s"),
        (-499, "0s"),
        (500, "1s"),
        (35_000, "35s"),
        (59_500, "1m"),
        (460_000, "7m 40s"),
        (3_599_999, "1h"),
        (7_200_000, "2h"),
        (9_310_000, "2h 35m 10s"),
        (-10_835_000, "-3h 35s"),
        (360_000_000, "100h"),
    ],
)
def test_milliseconds_are_written_to_the_second(value, text):
    assert human_readable_milliseconds(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1024", 1024),
        ("50GiB", 50 * 1024**3),
        ("50 GB", 50 * 1000**3),
        ("200k", 200 * 1024),
        (" 1.5 tib ", 1536 * 1024**3),
        (".5K", 512),
        ("12 Bytes", 12),
        ("-1.25 TiB", -1_374_389_534_720),
    ],
)
def test_bytes_are_read(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1500", 1500),
        ("100h", 360_000_000),
        ("2h 30m", 9_000_000),
        ("2h30m", 9_000_000),
        ("45S", 45_000),
        ("1.5h", 5_400_000),
        ("1d", 86_400_000),
        ("250ms", 250),
        ("-3h 35s", -10_835_000),
    ],
)
def test_milliseconds_are_read(text, value):
    assert parse_milliseconds(text) == value


def test_seconds_are_read():
    assert parse_duration_seconds("30d") == 2_592_000
    assert parse_duration_seconds("90") == 90
    assert parse_duration_seconds("250ms") == 0.25


@pytest.mark.parametrize(
    "text", ["", " ", "GiB", "1,5 GiB", "5 XiB", "1e3", "0x10", "1 2", "٣", "9 EiB", "inf"]
)
def test_what_is_no_amount_of_bytes_is_refused(text):
    with pytest.raises(ValueError, match=r"^(not an amount of bytes|too large): [^\n]*$"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "text", ["", "h", "2h 30", "30m 2h", "1h 1h", "5 weeks", "1:30", "-", "9" * 30 + "h"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"^(not a duration|too large): [^\n]*$"):
        parse_milliseconds(text)


@given(amounts)
@example(1_048_575)
def test_written_bytes_are_read_back_to_half_a_hundredth_of_their_unit(value):
    text = human_readable_bytes(value)
    assert "1024 " not in text
    if abs(value) < 2**63 - 2**53:  # nearer to the limit they are rounded beyond it
        read = parse_bytes(text)
        assert abs(read - value) <= abs(value) // 200 + 1
        assert human_readable_bytes(read) == text


@given(amounts)
def test_written_milliseconds_are_read_back_to_half_a_second(value):
    text = human_readable_milliseconds(value)
    if abs(value) < LARGEST_AMOUNT - 1000:
        assert abs(parse_milliseconds(text) - value) <= 500
        assert human_readable_milliseconds(parse_milliseconds(text)) == text


@given(amounts)
def test_whole_numbers_are_read_as_they_are(value):
    assert parse_bytes(str(value)) == value
    assert parse_milliseconds(str(value)) == value
