"""Programs, and ``platform-db`` in a shell, forked from a process that has imported the package already."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from platform_db.__main__ import main

# An interpreter without any package starts in a fiftieth of the time. It hands over all that a command gets
# from its shell, and ends as the command does.
CLIENT = """#!{python} -IS
import json, os, socket, sys
place = {place!r}
umask = os.umask(0)
with socket.socket(socket.AF_UNIX) as server:
    server.connect(place)
    command = json.dumps([sys.argv, dict(os.environ), os.getcwd(), umask])
    socket.send_fds(server, [command.encode()], [0, 1, 2])
    server.shutdown(socket.SHUT_WR)
    sys.exit(server.recv(1)[0])  # nothing comes from one that was killed
"""


def execute(code: str, environment: dict[str, str], directory: Path, output: Path) -> None:
    """Run a program in this process, with nothing else in its environment."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    with output.open("w", encoding="utf-8") as file, redirect_stdout(file):
        try:
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=file)
            raise SystemExit(1) from None


@contextmanager
def forked_command(directory: Path) -> Iterator[Path]:
    """Give the path of a command that does what ``platform-db`` does, while the block runs."""
    from tests.processes import FORKING

    client, place = directory / "platform-db", directory / "commands"
    client.write_text(CLIENT.format(python=sys.executable, place=str(place)), encoding="utf-8")
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        process = FORKING.Process(target=serve, args=(server,))
        process.start()
    yield client
    process.terminate()
    process.join()


def serve(server: socket.socket) -> None:
    """Fork a process for each command, until ended."""
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            os._exit(answer(client))
        client.close()


def answer(client: socket.socket) -> int:
    """Run a client's command in this process, and tell the client its exit code."""
    command, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
    while more := client.recv(1 << 16):
        command += more
    sys.argv, environment, directory, umask = json.loads(command)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    os.umask(umask)
    code = 1
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    client.send(bytes([code]))
    return code
