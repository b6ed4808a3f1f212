"""What a token looks like, and what cannot be one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_db import errors
from platform_db.crypto import token_format
from platform_db.crypto.token_format import generate, require_well_formed


@pytest.mark.parametrize(("purpose", "letter"), token_format.LETTERS.items())
def test_a_token_says_what_it_is(purpose: str, letter: str) -> None:
    value = generate(purpose)
    assert re.fullmatch(token_format.PATTERN, value)
    assert value.startswith(f"pdb_{letter}")
    assert len(value) == 4 + 1 + 43 + 6
    require_well_formed(value)


def test_no_two_are_the_same() -> None:
    assert len({generate("access") for _ in range(1000)}) == 1000


@given(position=st.integers(5, 53), character=st.sampled_from(token_format.ALPHABET))
def test_every_wrong_character_is_found(position: int, character: str) -> None:
    value = generate("access")
    mistyped = value[:position] + character + value[position + 1 :]
    if mistyped != value:
        with pytest.raises(errors.MalformedToken):
            require_well_formed(mistyped)


@given(position=st.integers(5, 52))
def test_two_characters_the_wrong_way_round_are_found(position: int) -> None:
    value = generate("access")
    swapped = value[:position] + value[position + 1] + value[position] + value[position + 2 :]
    if swapped != value:
        with pytest.raises(errors.MalformedToken):
            require_well_formed(swapped)


@pytest.mark.parametrize(
    "value", ["", "pdb_", "pdb_a", "pdb_z" + "0" * 49, "pdb_a" + "0" * 48 + "_", "\ud800", None, b"pdb_", 7]
)
def test_what_cannot_be_a_token_is_refused(value: object) -> None:
    with pytest.raises(errors.MalformedToken, match="the token is not accepted"):
        require_well_formed(value)  # type: ignore[arg-type]


def test_a_token_that_is_cut_or_carries_a_newline_is_refused() -> None:
    value = generate("access")
    for mistyped in (value[:-1], value + "\n", value + "0", value.lower(), f" {value}".strip() + " "):
        with pytest.raises(errors.MalformedToken):
            require_well_formed(mistyped)


@pytest.mark.parametrize("value", ["a", "secret", "Grüße", "x" * 10_000, "gho_abc"])
def test_a_platform_may_bring_values_of_its_own(value: str) -> None:
    require_well_formed(value)
