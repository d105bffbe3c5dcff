"""The time to a group with `jaccl-bootstrap up`, compared with MLX's bare init of the same group.

Both sides are two processes on two loopback addresses that have loaded MLX before. In the init of a ring each rank
connects to the next, and where that one does not listen yet MLX sleeps for a second. That rank 1 starts a little later
spares it that, but not always rank 0, whom nothing can tell when to connect. So rounds in which MLX slept are left out,
on both sides.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import psutil

from bootstrap.system.network import holds
from bootstrap.trust import encode_public_key, load_identity
from tests.benchmarks.harness import Row, benchmark
from tests.loopback import new_net

SECONDS = 60.0
LATER = 0.005
"""Delay of rank 1's bare init in seconds."""
SLEEP = 1.0
"""How long MLX sleeps."""
IDLE_SECONDS = 0.2
"""Seconds without processor time after which a worker has loaded MLX and waits for its order."""

REASON = "the median moves by 2 ms between runs: both sides wait for two processes and MLX"

BARE = """
import sys
import mlx.core as mx
print("loaded", flush=True)
sys.stdin.readline()
mx.distributed.init(strict=True, backend="ring")
print("ready", flush=True)
"""


def to_group(rounds: int) -> Row:
    """Time from rank 0's TCP connect to its group (without the sum), and from the start of the init to the group.

    The ratio is the difference in milliseconds: handshake, pings, bootstrap frame, exchange and the look at the ports.
    """
    with tempfile.TemporaryDirectory() as directory:
        homes = [Path(directory, str(rank)) for rank in range(2)]
        ours, bare = [], []
        for _ in range(rounds):
            ours.append(_without_sleep(lambda: _up(homes)))
            bare.append(_without_sleep(lambda: _bare(Path(directory))))
    up, init = benchmark("connect to group: up", ours), benchmark("connect to group: bare init", bare)
    return Row("connect to group", "bare init, + ms", up, init, (up.median() - init.median()) * 1e3, ("<=", 10), REASON)


def _without_sleep(measure: Callable[[], tuple[float, float]]) -> float:
    """Return the seconds of a round whose init was not slowed by MLX's sleep."""
    for _ in range(20):
        took, init = measure()
        if init < SLEEP:
            return took
    raise RuntimeError("MLX slept in 20 rounds one after the other")


def can_run() -> bool:
    """Every loopback address must be local, as on Linux."""
    return holds("127.1.2.3")


def _ips() -> list[str]:
    """Return unused addresses, so that no round meets the system's memory of an earlier one."""
    net = new_net()
    return [f"{net}.1", f"{net}.2"]


def _up(homes: list[Path]) -> tuple[float, float]:
    """Return the seconds from the connect to the group, and those of MLX's init."""
    keys = []
    for home in homes:
        home.mkdir(exist_ok=True)
        keys.append(encode_public_key(load_identity(home / "identity.pem").public_key))
    ips = _ips()

    def rank(own: int, peer: int) -> _Process:
        options = ["--own-ip", ips[own], "--peer-ip", ips[peer], "--peer", keys[peer], "--backend", "ring"]
        identity = ["--identity", str(homes[own] / "identity.pem")]
        command = [sys.executable, "-m", "bootstrap", "up", "--json", *options, *identity]
        return stack.enter_context(_process(command, TMPDIR=str(homes[own])))

    with ExitStack() as stack:
        zero = rank(0, 1)
        zero.event("link-lost")  # nothing listens yet; it must try again once both workers have loaded MLX
        zero.wait_for_worker()
        zero.signal(signal.SIGSTOP)
        one = rank(1, 0)
        one.event("listening")
        one.wait_for_worker()
        zero.signal(signal.SIGCONT)
        connected, started, ready = (
            zero.event(name)["t_ms"] for name in ("connected", "environment-set", "group-ready")
        )
        one.event("group-ready")
    return (ready - connected) / 1e3, (ready - started) / 1e3


def _bare(directory: Path) -> tuple[float, float]:
    """Return the same for the init alone."""
    hostfile = directory / "hosts.json"
    hostfile.write_text(json.dumps([[f"{ip}:29400"] for ip in _ips()]))
    with ExitStack() as stack:
        command = [sys.executable, "-c", BARE]
        variables = [{"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)} for rank in range(2)]
        ranks = [stack.enter_context(_process(command, **each)) for each in variables]
        for rank in ranks:
            rank.line()
        start = time.perf_counter()
        ranks[0].go()
        time.sleep(LATER)
        ranks[1].go()
        for rank in ranks:
            rank.line()
        took = time.perf_counter() - start
    return took, took


class _Process:
    """A process and its output."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin = process, process.stdin
        self._lines: queue.Queue[str] = queue.Queue()
        self._worker: int | None = None
        self.reader = threading.Thread(target=self._read, args=(process.stdout,))
        self.reader.start()

    def go(self) -> None:
        self._stdin.write("\n")
        self._stdin.flush()

    def line(self) -> str:
        line = self._lines.get(timeout=SECONDS)
        assert line, "the process ended"
        return line

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        while True:
            event: dict[str, Any] = json.loads(self.line())
            assert event["event"] not in ("error", "done"), event
            if event["event"] == "started":
                self._worker = event["pid"]
            if event["event"] == name:
                return event

    def wait_for_worker(self) -> None:
        if self._worker is None:
            self.event("started")
        worker = psutil.Process(self._worker)
        used = None
        while used != (used := worker.cpu_times()):
            time.sleep(IDLE_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def _read(self, stdout: IO[str]) -> None:
        for line in chain(stdout, [""]):
            self._lines.put(line)


@contextmanager
def _process(command: list[str], **environment: str) -> Iterator[_Process]:
    pipe = subprocess.PIPE
    env = {**os.environ, **environment}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        running = _Process(process)
        try:
            yield running
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            running.reader.join(SECONDS)
