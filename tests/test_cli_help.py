"""Every command's help: a summary that is not cut off, and an example that the command accepts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from platform_db.cli import COMMANDS, main
from platform_db.cli.command import Command
from tests.command_line import run


def walk(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give every command and group, with the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name) or command, *words, name)


EVERY = {" ".join(words): command for words, command in walk(main)}
GROUPS = sorted(words for words, command in EVERY.items() if isinstance(command, click.Group))
COMMANDS_ALONE = sorted(EVERY.keys() - set(GROUPS))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_commands_with_whole_summaries(group: str) -> None:
    found = EVERY[group]
    assert isinstance(found, click.Group)

    listed = run(None, *group.split(), "--help").stdout.partition("Commands:")[2].partition("Exit codes:")[0]

    assert "..." not in listed
    for name in found.list_commands(click.Context(found)):
        summary = (EVERY[f"{group} {name}".strip()].help or "").partition("\n")[0].strip()
        assert summary.endswith(".")
        assert summary in " ".join(listed.split()), f"{group} {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_all_commands_says_what_each_says_of_itself(name: str) -> None:
    assert (EVERY[name].help or "").partition("\n")[0] == COMMANDS[name]


@pytest.mark.parametrize("command", COMMANDS_ALONE)
def test_a_command_accepts_its_own_example(command: str) -> None:
    found = EVERY[command]
    assert isinstance(found, Command)
    assert found.example in run(None, *command.split(), "--help").stdout.splitlines()[-1]

    program, *arguments = shlex.split(found.example)

    words = command.split()
    assert [program, *arguments[: len(words)]] == ["platform-db", *words]
    found.make_context(command, arguments[len(words) :])
