"""Real demos as child processes, which must leave nothing."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bootstrap.ranks import COORDINATOR_PORT, LINK_PORT, Rank, make_ranks
from tests.forks import Fork

SCRIPTS = Path(__file__).parent / "scripts"
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
"""Variables that are read only at the start of a process."""
SECONDS = 60.0  # for a condition that takes one on an idle machine

Event = dict[str, Any]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look often at first, then rarely: many conditions look at every process of the system."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < SECONDS, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(min(0.01 + waited / 20, 0.25))


class CommandRun:
    """A running `jaccl-bootstrap`.

    `program` names a script to run in its place, `worker` one in place of the real worker, `into` a pipe's end.
    `prefix` is a command that runs it elsewhere. It starts in a fork of a process that has loaded it, if it need not be
    `fresh` for what a new process inherits from this one.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        tmp: Path,
        program: str | None,
        worker: str | None,
        into: str | None,
        env: dict[str, str],
        stdout: int = subprocess.PIPE,
        prefix: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> None:
        self.tmp = tmp
        script = ["-m", "bootstrap"] if program is None else [str(SCRIPTS / program)]
        if worker is not None:
            script = [str(SCRIPTS / "command.py"), str(SCRIPTS / worker)]
        # -P as for an installed command: the current directory is not searched for modules.
        command = [*prefix, sys.executable, "-P", *script, *arguments]
        if into is not None:
            command = ["/bin/sh", "-c", f'("$@"; echo "exit $?" >&2) | {into}', "sh", *command]
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        fresh = fresh or any(name.startswith(READ_AT_START) for name in env)
        env = {**inherited, "TMPDIR": str(tmp), **env}
        self.process: subprocess.Popen[str] | Fork
        if command[:2] == [sys.executable, "-P"] and stdout == subprocess.PIPE and not fresh:
            self.process = Fork.with_pipes(command[2:], env)
        else:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # as on a terminal without input
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [threading.Thread(target=self._read_stdout), threading.Thread(target=self._read_stderr)]
        for reader in self._readers:
            reader.start()
        self.seen: list[str] = []

    def _read_stdout(self) -> None:
        for line in self.process.stdout or ():  # none if a test reads it
            self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self._stderr.extend(self.process.stderr)

    def until(self, *wanted: tuple[str, int]) -> list[Event]:
        """Read until each (event, rank) was seen; return all events so far."""
        while not {*wanted} <= {(event["event"], event.get("rank")) for event in self.events}:
            self.more()
        return self.events

    def more(self) -> None:
        """Read one more line."""
        line = self._lines.get(timeout=SECONDS)
        assert line is not None, f"ended: {self.seen} {self._stderr}"
        self.seen.append(line)

    @property
    def events(self) -> list[Event]:
        return [json.loads(line) for line in self.seen]

    def end(self) -> int:
        """Wait for the end; afterwards `seen` and `stderr` are complete."""
        code = self.process.wait(SECONDS)
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.seen.append(line)
        for reader in self._readers:
            reader.join(SECONDS)
        return code

    @property
    def stderr(self) -> list[str]:
        return [line.rstrip("\n") for line in self._stderr]

    def pid_of(self, rank: int) -> int:
        (pid,) = [e["pid"] for e in self.events if e["event"] == "started" and e["rank"] == rank]
        return int(pid)

    def processes(self) -> list[psutil.Process]:
        """Return the command's process and its descendants that still run."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            # The system does not know a fork's environment, only its children's.
            mine = process.pid == self.process.pid or process.environ().get("TMPDIR") == str(self.tmp)
            return bool(mine) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:  # the number of a stream closed under its reader is reused by another file
            reader.join(SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., CommandRun]]:
    """Start `jaccl-bootstrap` with these arguments and an empty TMPDIR of its own, or `tmp`."""
    runs: list[CommandRun] = []

    def start(
        *arguments: str,
        program: str | None = None,
        worker: str | None = None,
        into: str | None = None,
        env: dict[str, str] | None = None,
        tmp: Path | None = None,
        stdout: int = subprocess.PIPE,
        prefix: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> CommandRun:
        if tmp is None:
            tmp = tmp_path / f"tmp{len(runs)}"
            tmp.mkdir()
        runs.append(CommandRun(arguments, tmp, program, worker, into, env or {}, stdout, prefix, fresh))
        return runs[-1]

    yield start
    for run in runs:
        run.kill_all()


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[[int], list[Rank]]:
    """Ranks that know each other."""
    return lambda count: make_ranks(tmp_path, count)


@pytest.fixture
def pair(ranks: Callable[[int], list[Rank]]) -> tuple[Rank, Rank]:
    zero, one = ranks(2)
    return zero, one


@pytest.fixture
def up(command: Callable[..., CommandRun]) -> Callable[..., CommandRun]:
    """Start one rank's `jaccl-bootstrap up`, in a pair or with a hostfile."""

    def start(own: Rank, others: Rank | Path, *arguments: str, **wanted: Any) -> CommandRun:
        env = {"XDG_CONFIG_HOME": str(own.home), **wanted.pop("env", {})}
        if isinstance(others, Rank):
            addresses = ["--own-ip", own.ip, "--peer-ip", others.ip]
        else:
            addresses = ["--hostfile", str(others), "--rank", str(own.number)]
        return command("up", *addresses, "--identity", str(own.identity), *arguments, env=env, **wanted)

    return start


@pytest.fixture
def both(pair: tuple[Rank, Rank], up: Callable[..., CommandRun]) -> Callable[..., tuple[CommandRun, CommandRun]]:
    """Start both ranks of the pair with the same arguments."""

    def start(*arguments: str, **wanted: Any) -> tuple[CommandRun, CommandRun]:
        zero, one = pair
        run_one = up(one, zero, "--json", *arguments, **wanted)
        return up(zero, one, "--json", *arguments, **wanted), run_one

    return start


@pytest.fixture
def in_init(both: Callable[..., tuple[CommandRun, CommandRun]]) -> Callable[[str], tuple[CommandRun, CommandRun]]:
    """Both ranks, with rank 0's worker in native code, waiting for rank 1's, which hangs."""

    def start(worker: str) -> tuple[CommandRun, CommandRun]:
        zero, one = both(worker=worker)
        zero.until(("environment-set", 0))
        one.until(("bootstrap-received", 1))
        wait_until(lambda: any(path.is_dir() for path in one.tmp.iterdir()), "rank 1's worker has its order")
        return zero, one

    return start


@pytest.fixture
def nothing_left() -> Callable[..., None]:
    """Assert that a run left no process, no file, and no listener at the addresses of `ranks`."""

    def check(run: CommandRun, *ranks: Rank) -> None:
        assert run.processes() == []
        assert list(run.tmp.rglob("*")) == []
        for rank in ranks:
            for port in (LINK_PORT, COORDINATOR_PORT + rank.number):
                with socket.create_server((rank.ip, port)):
                    pass

    return check


@pytest.fixture
def nothing_left_soon(nothing_left: Callable[..., None]) -> Callable[..., None]:
    """Assert the same of a killed run, after which another process cleans up."""

    def check(run: CommandRun, *ranks: Rank) -> None:
        wait_until(lambda: run.processes() == [], "all processes gone")
        wait_until(lambda: list(run.tmp.rglob("*")) == [], "all files gone")
        nothing_left(run, *ranks)

    return check


@pytest.fixture
def soon() -> Callable[[Callable[[], bool], str], None]:
    """Wait until a condition holds. Another test's demo may briefly use a port that this one has left."""
    return wait_until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of a few pages."""
    mounted: list[Path] = []

    def mount(pages: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        size = pages * os.sysconf("SC_PAGE_SIZE")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=False, capture_output=True
        )
        if done.returncode != 0:
            pytest.skip("this user may not mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def clean_environment() -> Iterator[None]:
    """Restore the variables of this process afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)
