"""The directory of an embedded database: where it is, who owns it, what is in it.

=============== ===========================================================================
``start.lock``  held exclusively while the server is started or stopped
``users.lock``  held, shared, by every process that uses the server
``server.lock`` held exclusively by the server itself and all its processes
``data``        the cluster; the server's account alone can enter it
``socket``      the directory of the socket, unless its path would be too long for one
``server.log``  what the server wrote since its last start, and ``server.log.1`` before that
``server-…``    a copy of the server where its account cannot read the installed one
``temporary.…`` an unfinished cluster or copy; the next start removes it
``secret.key``  the generated secret key
=============== ===========================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from platform_db import errors
from platform_db.embedded import account as accounts

SCHEME = "embedded:"
START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"
DATA = "data"
TEMPORARY = "temporary."  # the prefix of unfinished directories
SECRET_KEY = "secret.key"  # noqa: S105 (the name of a file)
OURS = (START_LOCK, SECRET_KEY)  # the first files in a new directory
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.ceph-fuse", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.mfs"),
        *("fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
    )
)


def parse_uri(uri: str) -> Path | None:
    """Return the directory that a URI names: ``embedded:///path``, or ``embedded:`` for the default one.

    :returns: the directory, or ``None`` for a URI of another kind.
    :raises errors.InvalidSetting: the path is not absolute.
    """
    if not uri.startswith(SCHEME):
        return None
    problem = "write embedded: for the default directory, or embedded:///absolute/path"
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        raise errors.InvalidSetting(f"{uri} cannot be read: {problem}") from None
    path = urllib.parse.unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or path[:1] not in ("", "/"):
        raise errors.InvalidSetting(f"{uri} names no absolute path: {problem}")
    if "\0" in path:
        raise errors.InvalidSetting(f"the path holds a zero byte: {problem}")
    return Path(path) if path else default_directory()


def default_directory() -> Path:
    """Return the caller's default directory.

    Root's is not in a home: the server's account could not reach it there.
    """
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/platform-db/embedded")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if sys.platform == "darwin" or not data_home.is_absolute():  # as the XDG specification wants it
        try:
            home = Path.home()
        except RuntimeError:
            raise errors.EmbeddedError("you have no home directory: set HOME, or name a directory") from None
        data_home = home / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
    return data_home / "platform-db" / "embedded"


def resolved(directory: Path | None) -> Path:
    """Return the one spelling of a directory, the default one for ``None``.

    :raises errors.EmbeddedError: this is Windows.
    """
    if sys.platform == "win32":
        raise errors.EmbeddedError("the embedded database needs Linux or macOS: set PLATFORM_DB_URI")
    return (directory or default_directory()).expanduser().resolve()


def prepare(directory: Path) -> None:
    """Create the directory, or make sure that an existing one is ours alone.

    :raises errors.EmbeddedError: it cannot be used; the message says why and what to do.
    """
    refuse_network_file_system(directory)
    with explained(directory):
        _create(directory)
        _refuse_foreign(directory)


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn an error of the system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise errors.EmbeddedError(
            f"cannot use {error.filename or directory}: {error.strerror}: choose another directory"
        ) from None


def open_to(account: accounts.Account, directory: Path) -> None:
    """Let the server's account pass through the directory, without letting it read or write there.

    :raises errors.EmbeddedError: it cannot reach the directory; the parents are never changed.
    """
    if accounts.is_other(account) and not accounts.can_enter(account, directory):
        os.chown(directory, 0, account.pw_gid)
        directory.chmod(0o710)
    if accounts.can_enter(account, directory):
        return
    for parent in reversed(directory.parents):
        if not accounts.can_enter(account, parent):
            raise errors.EmbeddedError(
                f"PostgreSQL runs as {account.pw_name}, which cannot enter {parent}: choose a directory that "
                f"it can reach, such as {default_directory()}, or chmod o+x {parent}"
            )
    raise errors.EmbeddedError(f"PostgreSQL runs as {account.pw_name}, which cannot enter {directory}")


def refuse_network_file_system(directory: Path, *, mounts: Path = MOUNTS) -> None:
    """Refuse a directory on a network file system: locks and crash safety cannot be relied on there.

    :param mounts: the kernel's list of mounts, in the format of ``/proc/self/mountinfo``. Where there is
        none (macOS), nothing is checked.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        # The later one of two mounts on one point hides the earlier.
        if (directory == point or point in directory.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise errors.EmbeddedError(
            f"{directory} is on a network file system ({kind}): choose a directory on a local disk"
        )


def _create(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            # As root, the account of the server has to pass through the parents that are made here.
            path.chmod(0o755 if path != directory and os.geteuid() == 0 else 0o700)


def _refuse_foreign(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise errors.EmbeddedError(
            f"{directory} belongs to user id {status.st_uid}, not to {os.geteuid()}: "
            "run as its owner, or choose another directory"
        )
    if status.st_mode & 0o022:
        raise errors.EmbeddedError(
            f"others can write to {directory}: chmod go-w it, or choose another directory"
        )
    names = {path.name for path in directory.iterdir()} - {"lost+found"}
    if names and not any(name.startswith(OURS) for name in names):
        raise errors.EmbeddedError(
            f"{directory} holds other files and no embedded database: choose an empty or a new directory"
        )
