"""One cluster in one directory: making it, starting its server, stopping it.

Whether the server runs is told by a lock that it inherits and that the kernel releases with its last
process. A process id in a file tells less: it may be stale, reused, or of another container. Everything
here that changes something needs the start lock of the directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import urllib.parse
from pathlib import Path

import psycopg2

from platform_db import errors
from platform_db.embedded import account as accounts
from platform_db.embedded import binaries, locks
from platform_db.embedded import directory as directories
from platform_db.embedded.binaries import Installation

DATABASE = "platform"
SUPERUSER = "postgres"
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
LONGEST_SOCKET = 100  # bytes; the kernels allow 103 (macOS) or 107 (Linux)
START_TIMEOUT = 90.0  # seconds, enough to recover from a crash
STOP_TIMEOUT = 60.0  # seconds
BUILTIN_LOCALE_SINCE = 17
ANY_ROLE_SINCE = 16
TEMPORARY_SOCKET = "platform-db-"

# On the command line, which ALTER SYSTEM cannot override: no mistake opens the server to others.
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "cluster_name": "platform-db",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Cluster:
    """The cluster of a directory that :func:`platform_db.embedded.directory.prepare` has accepted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / directories.DATA
        self.log = directory / "server.log"
        self.server_lock = directory / directories.SERVER_LOCK

    def is_alive(self) -> bool:
        """Return whether the server, or any process of it, runs."""
        return (self.data / "postmaster.pid").exists() and locks.is_held(self.server_lock, exclusively=True)

    def uri(self) -> str:
        """Return the SQLAlchemy URL of the database; the server must have been started."""
        host = urllib.parse.quote(str(self._recorded_socket_directory()))
        return f"postgresql+psycopg2://{SUPERUSER}@/{DATABASE}?host={host}&port={PORT}"

    def ensure_started(self, *, max_connections: int, durable: bool) -> None:
        """Start the server unless it runs, making the cluster and the database first if need be."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            with locks.inheritable(self.server_lock) as descriptor:
                if descriptor is not None:
                    self._start(descriptor, max_connections=max_connections, durable=durable)
                    continue
            # It starts or stops, or initdb or a last query of a server that was killed goes on.
            if time.monotonic() > deadline:
                raise errors.EmbeddedError(
                    f"the server in {self.directory} runs, but does not answer: {self._end_of_log()}"
                )
            time.sleep(locks.POLL)
        self._ensure_database()

    def stop(self) -> None:
        """Stop the server, disconnecting its clients, and wait for its end."""
        socket = self._recorded_socket_directory()
        for shutdown in (signal.SIGINT, signal.SIGQUIT):  # fast; immediate where that takes too long
            deadline = time.monotonic() + STOP_TIMEOUT / 2
            self._signal(shutdown)
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(locks.POLL)
        if self.is_alive():
            raise errors.EmbeddedError(
                f"the server in {self.directory} does not stop: see {self.log}; "
                "if another container started it, stop it there"
            )
        self._remove_socket_directory(socket)

    def _start(self, descriptor: int, *, max_connections: int, durable: bool) -> None:
        account = accounts.server_account(self.data)
        directories.open_to(account, self.directory)
        installed = binaries.installation_for(self.data)
        installation = binaries.made_runnable(installed, account, self.directory)
        for leftover in self.directory.glob(f"{directories.TEMPORARY}*"):
            shutil.rmtree(leftover)
        if not self.data.exists():
            self._initialise(installation, account, descriptor, durable=durable)
        elif self.data.stat().st_uid != account.pw_uid:
            raise errors.EmbeddedError(f"{self.data} does not belong to {account.pw_name}: chown -R it")
        self._write_access_rules(account, installation)
        socket = self._ensure_socket_directory(account)
        # No process of a server lives, for then the lock were held: these files are stale, and where the
        # process id in them is another program's by now, the server would refuse to start.
        for stale in (self.data / "postmaster.pid", socket / SOCKET, socket / f"{SOCKET}.lock"):
            stale.unlink(missing_ok=True)
        settings = {
            **SETTINGS,
            "unix_socket_directories": '"' + str(socket).replace('"', '""') + '"',
            "hba_file": str(self.data / "pg_hba.conf"),
            "ident_file": str(self.data / "pg_ident.conf"),
            "max_connections": str(max_connections),
            **({} if durable else NOT_DURABLE),
        }
        options = " ".join(f"-c {name}={_shell_quoted(value)}" for name, value in settings.items())
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        # pg_ctl detaches the server: it is not our child, and we need not wait for it.
        # The path is relative, for pg_ctl does not quote it well for its shell.
        command: list[str | Path] = [installation.directory / "pg_ctl", "start", "-D", self.data.name, "-w"]
        command += ["-t", f"{START_TIMEOUT:.0f}", "-o", options]
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            started = accounts.run(
                account, command, directory=self.directory, output=log, pass_fds=[descriptor]
            )
        if started.returncode != 0:
            self._remove_socket_directory(socket)
            raise errors.EmbeddedError(f"the server in {self.directory} does not start: {self._end_of_log()}")

    def _initialise(
        self, installation: Installation, account: accounts.Account, descriptor: int, *, durable: bool
    ) -> None:
        """Make the cluster beside its place and move it there when it is whole."""
        temporary = Path(tempfile.mkdtemp(prefix=directories.TEMPORARY, dir=self.directory))
        os.chown(temporary, account.pw_uid, -1)
        command: list[str | Path] = [installation.directory / "initdb", "--pgdata", temporary]
        command += [f"--username={SUPERUSER}", "--auth-local=peer", "--auth-host=reject", "--no-instructions"]
        command += ["--encoding=UTF8", *([] if durable else ["--no-sync"])]
        for locale in _locales(installation.major):
            made = accounts.run(account, [*command, *locale], directory=self.directory, pass_fds=[descriptor])
            if b"invalid locale name" not in made.stdout:
                break
        if made.returncode != 0:
            shutil.rmtree(temporary, ignore_errors=True)
            raise errors.EmbeddedError(f"initdb failed in {self.directory}: {_last_lines(made.stdout)}")
        temporary.rename(self.data)

    def _write_access_rules(self, account: accounts.Account, installation: Installation) -> None:
        """Admit only the caller, as any role; the kernel tells which account connects."""
        role = "all" if installation.major >= ANY_ROLE_SINCE else SUPERUSER
        files = {
            "pg_hba.conf": "local all all peer map=owner\n",
            "pg_ident.conf": f'owner "{accounts.caller().pw_name}" {role}\n',
        }
        for name, text in files.items():
            temporary = self.data / f"{name}.new"
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchown(descriptor, account.pw_uid, -1)
                file.write(text)
            temporary.replace(self.data / name)

    def _ensure_socket_directory(self, account: accounts.Account) -> Path:
        socket = self.directory / "socket"
        if _suits_socket(socket):
            with contextlib.suppress(FileExistsError):
                socket.mkdir(mode=0o700)
        else:
            # After a crash the same place again: the pools of running programs know its name.
            recorded = self._recorded_socket_directory()
            if recorded is not None and self._is_private(recorded):
                return recorded
            socket = self._make_socket_directory(account)
        os.chown(socket, account.pw_uid, -1)
        socket.chmod(0o700)
        return socket

    def _make_socket_directory(self, account: accounts.Account) -> Path:
        for parent in dict.fromkeys(Path(name).resolve() for name in (tempfile.gettempdir(), "/tmp")):  # noqa: S108
            if _suits_socket(parent / f"{TEMPORARY_SOCKET}12345678") and accounts.can_enter(account, parent):
                return Path(tempfile.mkdtemp(prefix=TEMPORARY_SOCKET, dir=parent))
        raise errors.EmbeddedError(f"{self.directory} is too long a path for a socket: choose a shorter one")

    def _remove_socket_directory(self, socket: Path | None) -> None:
        if socket is not None and socket.parent != self.directory and self._is_private(socket):
            shutil.rmtree(socket, ignore_errors=True)

    def _is_private(self, socket: Path) -> bool:
        """Return whether we made this directory for a socket and no other account can enter it."""
        try:
            status = socket.lstat()
        except OSError:
            return False
        private = (0o040700, self.data.stat().st_uid)
        return socket.name.startswith(TEMPORARY_SOCKET) and (status.st_mode, status.st_uid) == private

    def _postmaster_lines(self) -> list[str]:
        try:
            return os.fsdecode((self.data / "postmaster.pid").read_bytes()).splitlines()
        except FileNotFoundError:
            return []

    def _recorded_socket_directory(self) -> Path | None:
        lines = self._postmaster_lines()
        return Path(lines[4]) if len(lines) > 4 and lines[4] else None

    def _signal(self, number: int) -> None:
        """Send the server a signal, if it is certain that the recorded process is the server."""
        lines = self._postmaster_lines()
        if not self.is_alive() or not lines or not lines[0].isdecimal():
            return
        process = int(lines[0])
        with contextlib.suppress(OSError):
            # A container that shares the directory numbers its processes differently.
            if not Path("/proc/self").exists() or self.data.samefile(f"/proc/{process}/cwd"):
                os.kill(process, number)

    def answers(self) -> bool:
        """Return whether the server takes connections."""
        if not self.is_alive():
            return False
        try:
            self._connect().close()
        except psycopg2.OperationalError as error:
            return "too many clients" in str(error)
        return True

    def _connect(self) -> psycopg2.extensions.connection:
        host = str(self._recorded_socket_directory())
        return psycopg2.connect(host=host, port=PORT, user=SUPERUSER, dbname="postgres", connect_timeout=5)

    def empty(self) -> None:
        """Put an empty database in the place of the one that is there, ending its connections."""
        self._ensure_database(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")

    def _ensure_database(self, before: str = "") -> None:
        try:
            with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                if before:
                    cursor.execute(before)
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
                if not cursor.rowcount:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg2.Error as error:
            raise errors.EmbeddedError(
                f"the server in {self.directory} gives no database {DATABASE}: {str(error).strip()}"
            ) from None

    def _end_of_log(self) -> str:
        try:
            return f"{_last_lines(self.log.read_bytes())} (in {self.log})"
        except FileNotFoundError:
            return f"there is no {self.log}"


def _locales(major: int) -> list[list[str]]:
    """Return initdb's options for locales, the best first, that sort by code point.

    Locale C alone knows the case of ASCII letters only; e-mail addresses, unique whatever their case,
    may have others. From version 17 on PostgreSQL knows them itself, before it asks the system.
    """
    if major >= BUILTIN_LOCALE_SINCE:
        return [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
    return [["--locale=C", "--lc-ctype=C.UTF-8"], ["--locale=C"]]


def _last_lines(output: bytes, count: int = 4) -> str:
    return " / ".join(output.decode("utf-8", errors="replace").strip().splitlines()[-count:])


def _shell_quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"  # pg_ctl hands its options to a shell


def _suits_socket(directory: Path) -> bool:
    """Return whether a socket's path fits there; in host names of libpq, a comma separates hosts."""
    path = str(directory / SOCKET)
    return len(os.fsencode(path)) <= LONGEST_SOCKET and "," not in path and '"' not in path
