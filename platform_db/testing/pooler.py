"""A PgBouncer in transaction mode before the server of a test run.

It is the one that is installed, or Debian's package unpacked into the virtual environment, as
``run-tests.sh pooler`` does. Its settings are the strictest: it refuses connection options, and gives each
transaction another connection of the server than the one before, so that no session's state can be relied on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url

from platform_db import errors
from platform_db.embedded import account as accounts
from platform_db.embedded.directory import DATA
from platform_db.testing.server import RunServer

VARIABLE = "PLATFORM_DB_TEST_POOLER"
"""Set to ``1``, it puts the pooler before every database that the fixtures make."""

PORT = 6432
START_TIMEOUT = 20.0  # seconds

CONFIGURATION = """\
[databases]
* = {server} auth_user={user}

[pgbouncer]
pool_mode = transaction
server_round_robin = 1
default_pool_size = 40
max_client_conn = 1000
server_idle_timeout = 10
server_login_retry = 1
query_wait_timeout = 20
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
unix_socket_mode = 0777
auth_type = trust
auth_file = {directory}/users.txt
auth_query = SELECT rolname, '' FROM pg_roles WHERE rolname = $1
log_connections = 0
log_disconnections = 0
"""


def pgbouncer() -> Path | None:
    """Return PgBouncer's program, or None where there is none."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which("pgbouncer", path=path) or shutil.which("pgbouncer", path=_UNPACKED / "sbin")
    return Path(found) if found else None


class Pooler:
    """A PgBouncer that runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def before(self, uri: str) -> str:
        """Return the URL of the same database, by the same login, through the pooler."""
        url = make_url(uri).set(host=None, port=None)
        url = url.update_query_dict({"host": str(self.directory), "port": str(PORT)})
        return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def run_pooler(server: RunServer) -> Iterator[Pooler]:
    """Run a PgBouncer before the server for the length of a block; it ends with this process at the latest.

    :raises errors.EmbeddedError: it is not installed, or does not start.
    """
    program = pgbouncer()
    if program is None:
        raise errors.EmbeddedError("there is no pgbouncer", hint="install it: apt-get install pgbouncer")
    account = accounts.server_account(server.directory / "embedded" / DATA)
    directory = Path(tempfile.mkdtemp(prefix="platform-db-pooler-"))
    try:
        if accounts.is_other(account):
            _admit(server, account.pw_name)
        _configure(server, directory)
        library = os.pathsep.join(map(str, (_UNPACKED / "lib").glob("*-linux-gnu*")))
        identity: dict[str, Any] = {}
        if accounts.is_other(account):
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (directory, *directory.iterdir()):
                os.chown(path, account.pw_uid, -1)
            if program.is_relative_to(_UNPACKED):  # which the account may not be able to enter
                shutil.copytree(_UNPACKED, directory / "usr")
                program = directory / "usr" / program.relative_to(_UNPACKED)
                library = library.replace(str(_UNPACKED), str(directory / "usr"))
        directory.chmod(0o755)
        # The pipe closes with this process, however that ends.
        script = '"$1" -q "$2" <&- >>"$3" 2>&1 & read -r _; kill $!; wait'
        log = directory / "log"
        with subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", script, "sh", str(program), str(directory / "pgbouncer.ini"), str(log)],
            stdin=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), **({"LD_LIBRARY_PATH": library} if library else {})},
            start_new_session=True,
            **identity,
        ) as process:
            try:
                pooler = Pooler(directory)
                _wait(pooler.before(server.uri), log)
                yield pooler
            finally:
                process.communicate()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_UNPACKED = Path(sys.prefix) / "pgbouncer" / "usr"


def _configure(server: RunServer, directory: Path) -> None:
    url = make_url(server.uri)
    address = {**url.translate_connect_args(), **url.query}
    where = " ".join(f"{name}={address[name]}" for name in ("host", "port") if name in address)
    user, password = url.username or accounts.caller().pw_name, url.password or ""
    text = CONFIGURATION.format(server=where, user=user, port=PORT, directory=directory)
    users = " ".join('"{}"'.format(text.replace('"', '""')) for text in (user, password))
    for name, content in {"pgbouncer.ini": text, "users.txt": f"{users}\n"}.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")


def _admit(server: RunServer, account: str) -> None:
    """Let the pooler's account into an embedded server, which admits its own user alone."""
    identities = server.directory / "embedded" / DATA / "pg_ident.conf"
    if not identities.exists():
        return
    line = f'owner "{account}" all\n'
    with identities.open("r+", encoding="utf-8") as file:
        if line not in file.read():
            file.write(line)
    with contextlib.closing(_connect(server.uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_reload_conf()")


def _connect(uri: str) -> Any:
    url = make_url(uri)
    arguments: Any = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    return psycopg2.connect(**arguments)


def _wait(uri: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT
    while True:
        try:
            _connect(uri).close()
            return
        except psycopg2.OperationalError as error:
            if time.monotonic() > give_up_at:
                said = log.read_text(errors="replace") if log.exists() else ""
                raise errors.EmbeddedError(f"pgbouncer does not start: {said or error}") from None
            time.sleep(0.05)
