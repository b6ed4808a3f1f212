"""The table of kinds of faults names tests that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).with_name("README.rst").read_text()
NAMED = sorted(set(re.findall(r"``(test_\w+(?:\.test_\w+)?)``", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_the_table_of_kinds_names_a_test(named: str) -> None:
    module, _, name = named.partition(".")
    found = importlib.import_module(f"tests.{module}")
    assert not name or callable(getattr(found, name))
