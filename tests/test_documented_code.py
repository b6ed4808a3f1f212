"""Every block of code in the documentation runs as it stands, alone, on a database of its own.

Where a page has a block of the class ``preamble``, its other blocks run after that one. A block of the class
``not-run`` needs what a test lacks: a network, roles of the whole server, or the test run itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from platform_db.crypto import generate_key

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").glob("*.rst"))]
SHELLS = ("console", "sh")
SHOWN = ("sql", "text", "yaml")
# The embedded database has tests of its own; here its URL stands for the block's database.
COMMANDS = {
    "platform-db": """[ "$PLATFORM_DB_URI" != embedded: ] || PLATFORM_DB_URI=$BLOCK_URI
        exec python -m platform_db "$@" """,
    "python": f'exec "{sys.executable}" "$@"',
}


class Block(NamedTuple):
    """A block of code, with where it stands."""

    page: Path
    line: int
    language: str
    class_: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    pattern = re.compile(
        r"^( *)\.\. code-block:: (\w+)\n(?:\1   :class: (\S+)\n)?\n((?:\1   .*\n|\n)+)", re.MULTILINE
    )
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in pattern.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(page, line, found[2], found[3] or "", textwrap.dedent(found[4]))


BLOCKS = list(blocks())
PREAMBLES = {block.page: block for block in BLOCKS if block.class_ == "preamble"}
RUN = [block for block in BLOCKS if block.language not in SHOWN and block.class_ != "not-run"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert not re.search(
        r"^(?!\.\. ).*::\n\n +\S", re.sub(r"^ *\.\. .*", ".. ", text, flags=re.MULTILINE), re.MULTILINE
    )
    assert len(re.findall(r"^ *\.\. code-block::", text, re.MULTILINE)) == sum(
        block.page == page for block in BLOCKS
    )
    assert {b.language for b in BLOCKS if b.page == page} <= {"python", *SHELLS, *SHOWN}


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, database_uri: str, postgres_server_uri: str, tmp_path: Path) -> None:
    environment = {
        "BLOCK_URI": database_uri,
        "HOME": str(tmp_path),
        "PATH": f"{commands(tmp_path)}:/usr/bin:/bin",
        "PLATFORM_DB_SECRET_KEY": generate_key(),
        "PLATFORM_DB_TEST_URI": postgres_server_uri,
        "PLATFORM_DB_URI": database_uri,
        "PYTHONPATH": str(ROOT),
    }

    for command in programs(block, tmp_path):
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert ran.returncode == 0, f"{block}\n{ran.stdout}{ran.stderr}"


def programs(block: Block, directory: Path) -> Iterator[list[str]]:
    """Yield the commands that run a block, after its page's preamble."""
    preamble = PREAMBLES.get(block.page)
    before = preamble.code if preamble and preamble != block else ""
    if block.language in SHELLS:
        if before:
            yield [sys.executable, "-c", before]
        yield ["bash", "-euo", "pipefail", "-c", typed(block)]
    elif "def test_" in block.code:
        (directory / "conftest.py").write_text(before, encoding="utf-8")
        (directory / "test_block.py").write_text(block.code, encoding="utf-8")
        yield [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    else:
        yield [sys.executable, "-c", f"{before}\n{block.code}"]


def typed(block: Block) -> str:
    """Return what a person types: on a console what follows the prompts, else all of it."""
    if block.language == "sh":
        return block.code
    return "\n".join(line[2:] for line in block.code.splitlines() if line.startswith("$ "))


def commands(directory: Path) -> Path:
    """Make a directory with the commands that a reader has once the package is installed."""
    place = directory / "bin"
    place.mkdir()
    for name, script in COMMANDS.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (place / name).chmod(0o755)
    return place
