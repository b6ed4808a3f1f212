"""Running the command line: inside the test's process, which is quick, or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from click.testing import CliRunner, Result

from platform_db import sessions, settings
from platform_db.cli import main


def run(uri: str | None, *arguments: str, **variables: str) -> Result:
    """Run ``platform-db`` in this process, with nothing configured but ``uri`` and ``variables``."""
    _forget()
    try:
        return CliRunner(env={**dict.fromkeys(_configured()), **_variables(uri, variables)}).invoke(
            main, arguments, prog_name="platform-db"
        )
    finally:
        _forget()


def start(
    uri: str | None, *arguments: str, before: Sequence[str] = (), stdin: int | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Start ``platform-db`` in a process of its own, which Ctrl-C reaches even where these tests ignore it.

    :param before: a command that runs it, such as ``nice``.
    :param stdin: the descriptor of a terminal; it is then asked there, and not at that of these tests.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _configured()}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "platform_db", *arguments],
        env={**environment, **_variables(uri, variables)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=stdin,
        start_new_session=stdin is not None,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def one_line(output: str) -> str:
    """Return the only line of ``output``, which must be one of platform-db's error messages."""
    (line,) = output.splitlines()
    assert line.startswith("platform-db: ")
    return line


def _configured() -> list[str]:
    return [name for name in os.environ if name.startswith("PLATFORM_DB_")]


def _variables(uri: str | None, variables: dict[str, str]) -> dict[str, str]:
    return variables if uri is None else {"PLATFORM_DB_URI": uri, **variables}


def _forget() -> None:
    settings.reset_settings()
    sessions.reset_engine()
