"""The operating system account that the server runs under.

PostgreSQL refuses to run as root, so root starts it under an account without privileges; every
other user starts it as themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from platform_db import errors

if sys.platform != "win32":  # importing must work there, so that using it can say what is wrong
    import pwd

    Account = pwd.struct_passwd

DEDICATED = "platform-db"
CANDIDATES = (DEDICATED, "postgres")
TIMEOUT = 120.0  # seconds that one command of the server may take

# A child that another thread forks inherits open files: with a pipe to a command, we would wait for that
# child as well; with a program open for writing, the kernel would not run it. Forks wait for this lock.
fork_lock = threading.RLock()


def caller() -> Account:
    """Return the account of this process.

    :raises errors.EmbeddedError: its user id has no name; PostgreSQL needs one.
    """
    user_id = os.geteuid()
    if account := _entry(pwd.getpwuid, user_id):
        return account
    raise errors.EmbeddedError(
        f"user id {user_id} has no name, which PostgreSQL needs: add a line for it to /etc/passwd"
    )


def is_other(account: Account) -> bool:
    """Return whether running something under the account means leaving root."""
    return account.pw_uid != os.geteuid()


def server_account(data: Path) -> Account:
    """Return the account for the server of this data directory; as root it is made if need be.

    Where the data directory exists, its owner decides: a better account that appears later cannot read it.
    """
    if os.geteuid() != 0:
        return caller()
    if not data.exists():
        existing = filter(None, (_entry(pwd.getpwnam, name) for name in CANDIDATES))
        return next(existing, None) or _create(DEDICATED)
    account = _entry(pwd.getpwuid, data.stat().st_uid)
    if account is None or account.pw_uid == 0:
        raise errors.EmbeddedError(
            f"{data} belongs to no account that PostgreSQL can run under: chown -R it to {DEDICATED}"
        )
    return account


def _create(name: str) -> Account:
    commands: list[str] = []
    if shutil.which("useradd"):
        commands = [f"useradd --system --no-create-home --user-group --shell /bin/false {name}"]
    elif shutil.which("adduser") and shutil.which("addgroup"):  # Alpine
        commands = [f"addgroup -S {name}", f"adduser -S -D -H -s /bin/false -G {name} {name}"]
    for command in commands:
        run(caller(), command.split(), directory=Path("/"))
    # Judged by the result: another process may have created it at the same time.
    if account := _entry(pwd.getpwnam, name):
        return account
    raise errors.EmbeddedError(
        "PostgreSQL does not run as root and no account for it could be created: "
        f"create one called {name}, or run as an ordinary user"
    )


def run(
    account: Account,
    command: Sequence[str | Path],
    *,
    directory: Path,
    output: IO[bytes] | int = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run a command under the account, in a directory that it can enter, and wait for it.

    It gets an environment of its own: the caller's may hold secrets and ``PG…`` variables. It gets a
    session of its own: Ctrl-C in a terminal must not reach the server.
    """
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    identity: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    arguments = list(map(str, command))
    try:
        with fork_lock:
            process = subprocess.Popen(  # noqa: S603
                arguments,
                cwd=directory,
                env={**environment, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
                umask=0o077,
                **(identity if is_other(account) else {}),
            )
    except OSError as error:
        message = f"cannot run {arguments[0]} as {account.pw_name}: {error.strerror}"
        raise errors.EmbeddedError(message) from None
    with process:
        try:
            answer, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            message = f"{arguments[0]} did not end within {TIMEOUT:.0f} s: try again"
            raise errors.EmbeddedError(message) from None
    return subprocess.CompletedProcess(arguments, process.returncode, answer)


def succeeds(account: Account, script: str, directory: Path) -> bool:
    """Return whether a shell's script, whose ``$1`` is the directory, succeeds under the account."""
    return run(account, ("/bin/sh", "-c", script, "sh", directory), directory=Path("/")).returncode == 0


def can_enter(account: Account, directory: Path) -> bool:
    """Return whether the account may traverse the directory, asking the kernel (there are ACLs, too)."""
    return succeeds(account, 'test -x "$1"', directory)


def _entry(look_up: Callable[[Any], Account], key: int | str) -> Account | None:
    try:
        return look_up(key)
    except KeyError:
        return None


if sys.platform != "win32":
    os.register_at_fork(
        before=fork_lock.acquire,
        after_in_parent=fork_lock.release,
        after_in_child=fork_lock.release,
    )
