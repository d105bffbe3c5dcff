"""`wireproto` in a fork of a process that has loaded it: most of a short command's time goes to imports."""

import atexit
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

from wireproto.__main__ import main

LOADED = ("cryptography.hazmat.primitives.asymmetric.ec", "hypothesis")
SECONDS = 100.0
_LONGEST = 64 * 1024


def run(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """The same as `python -m wireproto ARGUMENTS`, with files as its standard streams."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        asked = json.dumps({"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": dict(os.environ)})
        server = _server()
        socket.send_fds(server, [asked.encode()], [stream.fileno() for stream in (given, output, errors)])
        try:
            answer = server.recv(_LONGEST)
        except TimeoutError:
            _server.cache_clear()
            raise
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read())
        return subprocess.CompletedProcess(["wireproto", *arguments], json.loads(answer), *texts)


def run_text(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same, with what it has written as text."""
    done = run(*arguments, cwd=cwd)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def _server() -> socket.socket:
    """The process that forks; it ends with this one's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parent.parent)

    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    atexit.register(end)
    return ours


# -- the process that forks --------------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    for name in LOADED:
        importlib.import_module(name)
    sys.argv = ["wireproto", "decode", "03"]
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        main()  # loads what typer imports only when a command runs
    while True:
        asked, streams, _, _ = socket.recv_fds(connection, _LONGEST, 3)
        if not asked:
            return
        if (child := os.fork()) == 0:
            connection.close()
            _become(streams, **json.loads(asked))
            return
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _become(streams: Sequence[int], arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["wireproto", *arguments]
    sys.path[0] = cwd
    main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
