"""The commands in forks of a process that has loaded them: most of a short command's time is import time."""

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

LOADED = (
    "bootstrap.cli.app",
    "bootstrap.cli.display",
    "bootstrap.cli.log_files",
    "bootstrap.cli.ready",
    "bootstrap.control.run",
    "bootstrap.rank",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "hypothesis",
    "wireproto.conformance.runner",
    "wireproto.conformance.codec_cases",
)
"""Modules that the commands import only when they run."""
SECONDS = 100.0
_LONGEST = 128 * 1024
_STATUS = struct.Struct("i")
_HIGHEST = 1024
"""Above every descriptor number of the forking process."""


class Fork:
    """The same as subprocess.Popen for `python -P COMMAND`, which is `-m MODULE` or a script, and arguments.

    Modules are found in `cwd`, where one is given, as without -P. Its parent is a process that only waits for it.
    """

    def __init__(
        self,
        command: Sequence[str],
        streams: Sequence[int],
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.args = [sys.executable, "-P", *command]
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._lock = threading.Lock()
        self._status, theirs = os.pipe()
        weakref.finalize(self, os.close, self._status)  # not before: another thread may wait for it
        try:
            directory = str(cwd or Path.cwd())
            path = [] if cwd is None else [directory]
            request = {"command": command, "cwd": directory, "path": path, "environment": dict(environment)}
            socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, theirs])
        finally:
            os.close(theirs)
        self.pid = self._read(SECONDS)

    @classmethod
    def with_pipes(cls, command: Sequence[str], environment: Mapping[str, str]) -> "Fork":
        """Start it with pipes as its standard streams, in text mode."""
        ends = [os.pipe() for _ in range(3)]
        theirs = [ends[0][0], ends[1][1], ends[2][1]]
        try:
            fork = cls(command, theirs, environment)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        fork.stdin = os.fdopen(ends[0][1], "w")
        fork.stdout, fork.stderr = os.fdopen(ends[1][0]), os.fdopen(ends[2][0])
        return fork

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        with self._lock:
            if self.returncode is None:
                self.returncode = self._read(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self, timeout: float) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise TimeoutError("the process that forks does not answer")
        data = os.read(self._status, _STATUS.size)
        assert len(data) == _STATUS.size, "the process that forks has ended"
        return int(_STATUS.unpack(data)[0])


def run(
    *arguments: str,
    stdin: bytes = b"",
    cwd: Path | None = None,
    module: str = "wireproto",
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[bytes]:
    """The same as `python -m MODULE ARGUMENTS`, with files as its standard streams."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        streams = [stream.fileno() for stream in (given, output, errors)]
        status = Fork(["-m", module, *arguments], streams, environment, cwd or Path.cwd()).wait(SECONDS)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read())
        return subprocess.CompletedProcess([module, *arguments], status, *texts)


def run_text(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same, with its output as text."""
    done = run(*arguments, **options)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def _server() -> socket.socket:
    """The forking process; it ends with this one's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", __file__, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/")

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
    for command in (["-m", "wireproto", "decode", "03"], ["-m", "bootstrap", "pin"]):
        with redirect_stdout(io.StringIO()), suppress(SystemExit):
            _run(command)  # loads modules that typer imports only when a command runs
    assert tempfile.tempdir is None  # otherwise the forks would ignore their TMPDIR
    gc.disable()
    gc.freeze()  # otherwise each fork scans everything loaded here, and copies its memory by that
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children are reaped automatically
    while True:
        asked, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 4)
        if not asked:
            return None
        if os.fork() == 0:
            return _wait_for_fork(descriptors, **json.loads(asked))
        for descriptor in descriptors:
            os.close(descriptor)


def _wait_for_fork(descriptors: Sequence[int], **request: object) -> None:
    """Fork the command; send its process id and then its status through the last descriptor."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, status = descriptors
    if (child := os.fork()) == 0:
        return _become(streams, **request)  # type: ignore[arg-type]
    for stream in streams:
        os.close(stream)
    os.write(status, _STATUS.pack(child))
    _, ended = os.waitpid(child, 0)
    os.write(status, _STATUS.pack(os.waitstatus_to_exitcode(ended)))
    os._exit(0)


def _become(streams: Sequence[int], command: list[str], cwd: str, path: list[str], environment: dict[str, str]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    gc.enable()
    os.closerange(3, _HIGHEST)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = path
    _run_and_exit(command)


def _run_and_exit(command: list[str]) -> NoReturn:
    """End as the interpreter does, but without freeing all modules, which takes 20 ms."""
    status = 0
    try:
        _run(command)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)  # which says what is wrong with the stream


def _run(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
