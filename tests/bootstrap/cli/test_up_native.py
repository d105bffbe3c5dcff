"""`up --backend jaccl` with a compiled program that acts like native JACCL on its side channel."""

import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import CABLE_PORT, LINK_PORT, Check, Rank, cable_between, error, of, output

pytestmark = pytest.mark.waits

Ranks = Callable[[int], list[Rank]]
StartNative = Callable[..., list[Any]]
HOST = "127.0.0.1"
LATE_SECONDS = 17
"""Seconds, more than a native worker's attempts to connect."""
SOON_SECONDS = 30.0
"""Seconds for work that takes one on an idle machine. All deadlines of these runs are later."""


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the compiled program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    program = tmp_path_factory.mktemp("native") / "jaccl_native"
    subprocess.run([compiler, "-Wall", "-Werror", "-o", program, SCRIPTS / "jaccl_native.c"], check=True)
    return str(program)


@pytest.fixture
def start_native(start_mesh: Callable[..., list[Any]], native: str) -> StartNative:
    """Start all ranks with the program, with individual arguments.

    `before` is put before the program, and `commands` in its place, by rank; `on_zero` are options of rank 0.
    """

    def start(
        group: list[Rank],
        *arguments: str,
        before: dict[int, tuple[str, ...]] | None = None,
        commands: dict[int, tuple[str, ...]] | None = None,
        on_zero: tuple[str, ...] = (),
    ) -> list[Any]:
        options = []
        for rank, each in enumerate(arguments):
            command = (commands or {}).get(rank, (*(before or {}).get(rank, ()), native, *each.split()))
            options.append((*(() if rank else on_zero), "--timeout", "100", "--", *command))
        return start_mesh(group, options, program="quick.py")

    return start


def held(gather: int, *runs: Any) -> None:
    """Wait until the ranks' programs have stopped before a gather."""
    for run in runs:
        while f"held at {gather}" not in output(run):
            run.more()


def pid_of(run: Any) -> int:
    """Return the process of a rank's program."""
    (started,) = of(run, "started")
    return int(started["pid"])


def release(*runs: Any) -> None:
    for run in runs:
        os.kill(pid_of(run), signal.SIGUSR1)


def relay_port(run: Any) -> int:
    """Return the loopback port given to a rank's program."""
    (event,) = of(run, "environment-set")
    match = re.fullmatch(r"127\.0\.0\.1:(\d+)", event["variables"]["MLX_JACCL_COORDINATOR"])
    assert match is not None
    return int(match[1])


def check_formed(runs: list[Any], group: list[Rank], nothing_left: Check) -> None:
    """Check that all ranks succeed, and that each has its peers' queue pairs."""
    assert [run.end() for run in runs] == [0] * len(runs), [(run.events, run.stderr) for run in runs]
    for rank, run in enumerate(runs):
        told = re.findall(r"^rank (\d+): queue pair (\d+) at 169\.254\.1\.(\d+)$", "\n".join(output(run)), re.MULTILINE)
        peers = [peer for peer in range(len(runs)) if peer != rank]
        ends = [1 if "jaccl_stand_in.py" in str(runs[peer].process.args) else peer + 1 for peer in peers]
        expected = [(peer, 10 * peer + rank, end) for peer, end in zip(peers, ends, strict=True)]
        assert [tuple(int(each) for each in line) for line in told] == expected
        nothing_left(run, *group)


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_rank_0_first(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """Its root has all its connections before another rank's program opens a socket. [EXT-SIDE-CHANNEL-NATIVE]"""
    group = ranks(2)
    runs = start_native(group, "hold:0", "hold:-1")
    held(0, runs[0])
    held(-1, runs[1])
    release(*runs)
    check_formed(runs, group, nothing_left)


def test_rank_0_last(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """The others are in their first gather before its root listens. [EXT-SIDE-CHANNEL-NATIVE]"""
    group = ranks(3)
    runs = start_native(group, "hold:-1", "hold:0", "hold:0")
    held(0, *runs[1:])
    release(*runs[1:])
    held(-1, runs[0])
    release(runs[0])
    check_formed(runs, group, nothing_left)


@pytest.mark.parametrize("in_python", [(0, 3), (1, 3, 4, 6)])
def test_two_implementations(
    in_python: tuple[int, ...], ranks: Ranks, start_native: StartNative, nothing_left: Check
) -> None:
    """Half of the ranks have a program in C, and half one in Python. [JACCL-MESH-INIT]"""
    group = ranks(2 * len(in_python))
    python = (sys.executable, str(SCRIPTS / "jaccl_stand_in.py"))
    runs = start_native(group, *[""] * len(group), commands=dict.fromkeys(in_python, python))
    check_formed(runs, group, nothing_left)


def test_one_rank_comes_17_s_late(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """Rank 0 of one pair and rank 1 of another: native JACCL alone would give up."""
    late = ("/bin/sh", "-c", f'sleep {LATE_SECONDS}; exec "$@"', "sh")
    groups = [ranks(2) for _ in range(2)]
    runs = [start_native(group, "", "", before={rank: late}) for rank, group in enumerate(groups)]
    for each, group in zip(runs, groups, strict=True):
        check_formed(each, group, nothing_left)
        assert all(run.events[-1]["t_ms"] > LATE_SECONDS * 1000 for run in each)


# -- listeners ---------------------------------------------------------------------------------------------------------


def listening() -> dict[str, tuple[str, int]]:
    """Return the addresses and ports at which this host listens, by inode of the socket."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = fields = line.split()
            if state == "0A":
                address, port = local.split(":")
                ip = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if name == "tcp" else f"IPv6 {address}"
                found[fields[9]] = ip, int(port, 16)
    return found


def listeners(run: Any) -> set[tuple[str, int]]:
    """Return the addresses and ports at which the processes of a run listen."""
    found, every = set(), listening()
    for process in run.processes():
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in every:
                    found.add(every[target[8:-1]])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/net/tcp")
def test_who_listens(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """Rank 1 at its link port, and its relay at loopback until the program has connected. [EXT-SIDE-CHANNEL-NATIVE]"""
    zero, one = group = ranks(2)
    runs = start_native(group, *["hold:-1 hold:1"] * 2)
    held(-1, *runs)
    ports = [relay_port(run) for run in runs]
    assert [listeners(run) for run in runs] == [set(), {(one.ip, LINK_PORT), (HOST, ports[1])}]
    release(*runs)
    held(1, *runs)
    assert [listeners(run) for run in runs] == [set(), {(one.ip, LINK_PORT)}]
    release(*runs)
    check_formed(runs, group, nothing_left)
    ended = {*((HOST, port) for port in ports), *((rank.ip, LINK_PORT) for rank in (zero, one))}
    assert ended.isdisjoint(listening().values())


# -- hostile bytes -----------------------------------------------------------------------------------------------------


def strangers(port: int, rank: int) -> Iterator[socket.socket]:
    """Connect to a rank's relay with invalid bytes, or those of this worker; stay connected."""
    hellos = [struct.pack("<i", each) for each in (-1, 0, 1, 2, 99)]
    says = [b"", hellos[0][:1], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", random.Random(rank).randbytes(65_536)]
    for said in [*says, *hellos, *(hello + bytes(1000) for hello in hellos), *[b""] * 100]:
        connection = socket.create_connection((HOST, port))
        with suppress(ConnectionError):  # the relay may have ended it
            connection.sendall(said)
        yield connection


@contextmanager
def flood(*ports: int) -> Iterator[None]:
    """Connect to these ports all the time, silent or with nonsense."""
    over = threading.Event()

    def connect(port: int) -> None:
        while not over.is_set():
            for said in (b"", b"nonsense"):
                with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
                    connection.sendall(said)
            over.wait(0.001)

    threads = [threading.Thread(target=connect, args=(port,)) for port in ports]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_strangers_at_the_loopback_ports(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """Before the programs of ranks 1 and 2 connect, and meanwhile. [EXT-SIDE-CHANNEL-NATIVE]"""
    group = ranks(3)
    runs = start_native(group, "", "hold:-1", "hold:-1")
    held(-1, *runs[1:])
    ports = [relay_port(run) for run in runs[1:]]
    with ExitStack() as stack:
        for rank, port in enumerate(ports, start=1):
            for connection in strangers(port, rank):
                stack.enter_context(connection)
        with flood(*ports):
            release(*runs[1:])
            check_formed(runs, group, nothing_left)


# -- faults ------------------------------------------------------------------------------------------------------------


class Fault:
    """Cause a fault now. It ends these runs soon, and each names the cause."""

    def __init__(self, runs: list[Any]) -> None:
        self._runs = runs
        self._since = time.monotonic()

    def named(self, code: str, *texts: str, by: Sequence[int]) -> None:
        """Wait for the end of all runs; check `texts` in their messages, and `by`, the rank that failed."""
        for run in self._runs:
            assert run.end() != 0
        took = time.monotonic() - self._since
        print(f"{code} ended {len(self._runs)} ranks in {took:.3f} s")  # noqa: T201 - pytest shows it on demand
        told = [error(run) for run in self._runs]
        assert [(each["rank"], each["code"]) for each in told] == [(rank, code) for rank in by]
        for each, text in zip(told, texts * (len(told) if len(texts) == 1 else 1), strict=True):
            assert text in each["message"]
        assert took < SOON_SECONDS


def in_gather_1(group: list[Rank], start_native: StartNative, *, last: int, **more: Any) -> list[Any]:
    """Start all ranks; all but `last` contribute to gather 1, and wait in it."""
    runs = start_native(group, *["hold:1"] * len(group), **more)
    held(1, *runs)
    release(*(run for rank, run in enumerate(runs) if rank != last))
    return runs


@pytest.mark.parametrize("rank", [0, 2])
def test_a_command_dies_in_a_gather(rank: int, ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """[EXT-SIDE-CHANNEL-FAULT, EXT-OUTCOME-FIRST]"""
    group = ranks(3 if rank else 2)
    runs = in_gather_1(group, start_native, last=1)
    fault = Fault(runs)
    os.kill(pid_of(runs[rank]), signal.SIGKILL)
    fault.named("command-killed", "the command ended by signal SIGKILL", by=[rank] * len(group))
    for run in runs:
        nothing_left(run, *group)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_whole_rank_is_killed_in_a_gather(
    rank: int, ranks: Ranks, start_native: StartNative, nothing_left_soon: Check
) -> None:
    """The others know it from the link."""
    group = ranks(3 if rank else 2)
    runs = in_gather_1(group, start_native, last=1)
    fault = Fault([run for run in runs if run is not runs[rank]])
    runs[rank].process.kill()
    fault.named("link-lost", f"the session with rank {rank} was lost", by=[0, 0] if rank else [1])
    assert runs[rank].end() == -signal.SIGKILL
    for run in runs:
        nothing_left_soon(run, *group)


def test_the_link_is_cut_in_a_gather(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    group = ranks(2)
    with cable_between(*group) as cable:
        runs = in_gather_1(group, start_native, last=0, on_zero=("--link-port", str(CABLE_PORT)))
        fault = Fault(runs)
        cable.cut()
        fault.named("link-lost", "the session with rank 1 was lost", "the session with rank 0 was lost", by=[0, 1])
    for run in runs:
        nothing_left(run, *group)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_program_sends_a_byte_too_many(
    rank: int, ranks: Ranks, start_native: StartNative, nothing_left: Check
) -> None:
    """No other rank's program receives it."""
    group = ranks(3 if rank else 2)
    arguments = ["hold:1"] * len(group)
    arguments[rank] += " more:1"
    runs = start_native(group, *arguments)
    held(1, *runs)
    fault = Fault(runs)
    release(*runs)
    early = "the root sent bytes before the next gather" if rank == 0 else "rank 1 sent 97 bytes instead of 96"
    fault.named("side-channel-malformed", early, by=[rank] * len(group))
    for run in runs:
        nothing_left(run, *group)


def test_a_part_of_another_size(ranks: Ranks, start_native: StartNative, nothing_left: Check) -> None:
    """Rank 1's command uses the function instead of the port. [EXT-SIDE-CHANNEL-SIZE]"""
    group = ranks(2)
    script = "from bootstrap import side_channel_factory as f; print('held at 0'); f()(1, 2)(b'abc', 3)"
    runs = start_native(group, "hold:-1", "", commands={1: (sys.executable, "-c", script)})
    held(-1, runs[0])
    held(0, runs[1])
    fault = Fault(runs)
    release(runs[0])
    fault.named("side-channel-size", "rank 1 put 3 bytes into gather 0, rank 0 4", by=[0, 0])
    for run in runs:
        nothing_left(run, *group)


def test_a_program_that_takes_itself_for_another_rank(
    ranks: Ranks, start_native: StartNative, nothing_left: Check
) -> None:
    group = ranks(2)
    runs = start_native(group, "", "hold:-1", before={1: ("/usr/bin/env", "MLX_RANK=2")})
    held(-1, runs[1])
    fault = Fault(runs)
    release(runs[1])
    text = "native JACCL reports rank 2; do not change MLX_RANK in the command"
    fault.named("side-channel-rank", text, by=[1, 1])
    for run in runs:
        nothing_left(run, *group)
