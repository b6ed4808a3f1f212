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
import sqlalchemy as sa
from sqlalchemy import orm

import platform_db.sessions
from platform_db.crypto import generate_key
from tests.factories import make_run, make_user
from tests.forked_programs import execute, forked_command
from tests.processes import FORKING

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").glob("*.rst"))]
SHELLS = ("console", "sh")
SHOWN = ("sql", "text", "yaml")
# The embedded database has tests of its own; here its URL stands for the block's database.
COMMANDS = {
    "platform-db": """[ "$PLATFORM_DB_URI" != embedded: ] || PLATFORM_DB_URI=$BLOCK_URI
        exec "$FORKED_COMMAND" "$@" """,
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


@pytest.fixture(scope="module")
def platform_db_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with forked_command(tmp_path_factory.mktemp("command")) as command:
        yield command


@pytest.mark.timeout(300)  # some commands start an interpreter
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(
    block: Block, database_uri: str, postgres_server_uri: str, platform_db_command: Path, tmp_path: Path
) -> None:
    environment = {
        "BLOCK_URI": database_uri,
        "FORKED_COMMAND": str(platform_db_command),
        "HOME": str(tmp_path),
        "PATH": f"{commands(tmp_path)}:/usr/bin:/bin",
        "PLATFORM_DB_SECRET_KEY": generate_key(),
        "PLATFORM_DB_TEST_URI": postgres_server_uri,
        "PLATFORM_DB_URI": database_uri,
        "PYTHONPATH": str(ROOT),
    }
    preamble = PREAMBLES.get(block.page)
    before = preamble.code if preamble and preamble != block else ""

    if block.language in SHELLS:
        run_python(before, environment, tmp_path)
        run(["bash", "-euo", "pipefail", "-c", typed(block)], environment, tmp_path)
    elif "def test_" in block.code:
        (tmp_path / "conftest.py").write_text(before, encoding="utf-8")
        (tmp_path / "test_block.py").write_text(block.code, encoding="utf-8")
        run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], environment, tmp_path)
    else:
        run_python(f"{before}\n{block.code}", environment, tmp_path)


@pytest.mark.parametrize(
    ("shown", "effect"),
    [
        ("'platform.guard'", "SELECT overridden AND reason <> '' FROM platform.status_change"),
        (
            "platform.import",
            """SELECT created = '2019-12-09 09:00+00' AND NOT EXISTS (
                   SELECT FROM platform.audit_log WHERE audit_log.owner_id = user_.id_)
               FROM platform.user_ WHERE email = 'grace@example.org'""",
        ),
    ],
)
def test_a_block_of_sql_has_its_effect(
    shown: str, effect: str, engine: sa.Engine, session: orm.Session
) -> None:
    make_run(session, make_user(session), name="analysis")
    session.commit()
    (block,) = [b for b in BLOCKS if b.language == "sql" and shown in b.code]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(block.code)
        assert connection.exec_driver_sql(effect).scalar_one() is True


def test_what_a_service_is_told_to_import_exists() -> None:
    page = (ROOT / "docs" / "integrating.rst").read_text(encoding="utf-8")
    names = re.findall(r"^``(\w+)(?:\(\))?``$", page, re.MULTILINE)
    assert "thread_session" in names
    for name in names:
        assert hasattr(platform_db, name) or hasattr(platform_db.sessions, name), name


def run(command: list[str], environment: dict[str, str], directory: Path) -> None:
    """Run a command in the directory; it must end well."""
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def run_python(code: str, environment: dict[str, str], directory: Path) -> None:
    """Run a program in a process of its own, which must end well."""
    output = directory / "output"
    process = FORKING.Process(target=execute, args=(code, environment, directory, output))
    process.start()
    process.join()
    assert process.exitcode == 0, output.read_text(encoding="utf-8")


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
