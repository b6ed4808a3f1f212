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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from platform_db import errors

if sys.platform != "win32":  # importing must work there, so that using it can say what is wrong
    import pwd

DEDICATED = "platform-db"
CANDIDATES = (DEDICATED, "postgres")
TIMEOUT = 120.0  # seconds that one command of the server may take

# A child that another thread forks inherits open files: with a pipe to a command, we would wait for that
# child as well; with a program open for writing, the kernel would not run it. Forks wait for this lock.
fork_lock = threading.RLock()


@dataclass(frozen=True)
class Account:
    """An account, and whether running something under it means leaving root."""

    name: str
    user_id: int
    group_id: int
    is_other: bool


def caller() -> Account:
    """Return the account of this process.

    :raises errors.EmbeddedError: its user id has no name; PostgreSQL needs one.
    """
    user_id = os.geteuid()
    entry = _by_id(user_id)
    if entry is None:
        raise errors.EmbeddedError(
            f"user id {user_id} has no name, which PostgreSQL needs: add a line for it to /etc/passwd"
        )
    return Account(entry.pw_name, user_id, os.getegid(), is_other=False)


def server_account(data: Path) -> Account:
    """Return the account for the server of this data directory; as root it is made if need be.

    Where the data directory exists, its owner decides: a better account that appears later cannot read it.
    """
    if os.geteuid() != 0:
        return caller()
    if data.exists():
        entry = _by_id(data.stat().st_uid)
        if entry is None or entry.pw_uid == 0:
            raise errors.EmbeddedError(
                f"{data} belongs to no account that PostgreSQL can run under: chown -R it to {DEDICATED}"
            )
    else:
        entry = next(filter(None, map(_by_name, CANDIDATES)), None) or create_account(DEDICATED)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, is_other=True)


def create_account(name: str) -> pwd.struct_passwd:
    """Create a system account without a home and without a login."""
    if useradd := shutil.which("useradd"):
        commands = [[useradd, "--system", "--no-create-home", "--user-group", "--shell", "/bin/false", name]]
    elif (adduser := shutil.which("adduser")) and (addgroup := shutil.which("addgroup")):  # Alpine
        commands = [
            [addgroup, "-S", name],
            [adduser, "-S", "-D", "-H", "-s", "/bin/false", "-G", name, name],
        ]
    else:
        commands = []
    for command in commands:
        run(caller(), command, directory=Path("/"))
    entry = _by_name(name)  # judged by the result: another process may have created it at the same time
    if entry is None:
        raise errors.EmbeddedError(
            "PostgreSQL does not run as root and no account for it could be created: "
            f"create one called {name}, or run as an ordinary user"
        )
    return entry


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
                user=account.user_id if account.is_other else None,
                group=account.group_id if account.is_other else None,
                extra_groups=[] if account.is_other else None,
            )
    except OSError as error:
        raise errors.EmbeddedError(f"cannot run {arguments[0]} as {account.name}: {error.strerror}") from None
    with process:
        try:
            answer, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise errors.EmbeddedError(
                f"{arguments[0]} did not end within {TIMEOUT:.0f} s: try again"
            ) from None
    return subprocess.CompletedProcess(arguments, process.returncode, answer)


def can_enter(account: Account, directory: Path) -> bool:
    """Return whether the account may traverse the directory, asking the kernel (there are ACLs, too)."""
    if not account.is_other:
        return os.access(directory, os.X_OK)
    command = ("/bin/sh", "-c", 'test -x "$1"', "sh", directory)
    return run(account, command, directory=Path("/")).returncode == 0


def _by_id(user_id: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user_id)
    except KeyError:
        return None


def _by_name(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


if sys.platform != "win32":
    os.register_at_fork(
        before=fork_lock.acquire,
        after_in_parent=fork_lock.release,
        after_in_child=fork_lock.release,
    )
