"""The documentation shows all there is, and what it tells people to type works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from platform_db.cli import main
from platform_db.models import Base
from platform_db.states import INTERACTIVE_SESSION, MACHINES, SERVICE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").glob("*.rst"))]
MODELS = (ROOT / "docs" / "models.rst").read_text(encoding="utf-8")


def test_every_table_is_drawn_and_described() -> None:
    drawn = {concept for line in re.findall(r"entity-diagram:: (.*)", MODELS) for concept in line.split()}
    described = set(re.findall(r"autoclass:: platform_db\.models\.(\w+)", MODELS))
    models = [mapper.class_ for mapper in Base.registry.mappers]

    assert drawn == {model.__module__.rpartition(".")[2] for model in models}
    assert {model.__name__ for model in models} <= described


def test_the_statuses_of_every_table_are_drawn() -> None:
    assert SERVICE.transitions == INTERACTIVE_SESSION.transitions  # so one drawing serves both
    assert set(re.findall(r"state-diagram:: (\w+)", MODELS)) == set(MACHINES) - {"service"}


def commands() -> Iterator[tuple[str, str]]:
    """Yield each ``platform-db …`` that a page shows as a command, with the page's name."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = re.findall(r"(?:^ +(?:\$ )?|``)(platform-db +[a-z][^`\n]*)", text, re.MULTILINE)
        yield from ((page.name, command) for command in shown)


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_a_command_that_a_page_shows_exists(page: str, command: str) -> None:
    found: click.Command = main
    context = click.Context(main)
    for word in command.split()[1:]:
        if isinstance(found, click.Group):
            assert word in found.list_commands(context), f"{page}: {command}"
            found = found.get_command(context, word) or found
        elif word.startswith("-"):
            options = {option for parameter in found.params for option in parameter.opts}
            assert word in options, f"{page}: {command}"
