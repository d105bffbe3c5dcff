"""`wireproto inspect` compared with tshark and the dissector, and how its time and memory grow with the capture."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks.harness import Row, benchmark, child_seconds, exponent
from wireproto import Ping, PPActivationPayload, encode_frame, encode_link_frame
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint
from wireproto.session.handshake import Initiator, KeySigner, Responder
from wireproto.testing.requirements import DIRECTORY

MIB = 1024 * 1024
ON_THE_WIRE = 1448
"""Bytes of the stream per packet, as on Ethernet."""
ACTIVATION = os.urandom(8192)
"""An activation of one token, for a model with 4,096 hidden dimensions."""
OURS = [sys.executable, "-m", "wireproto", "inspect"]
THEIRS = ["tshark", "-X", f"lua_script:{DIRECTORY / 'cluster_link.lua'}", "-r"]

WATCHED = """
import pathlib, resource, sys, time
from wireproto.__main__ import main
try:
    main()
except SystemExit:
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts from the parent's there
        peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(peak, time.process_time(), file=sys.stderr)
"""


def write(write: Callable[[bytes], object], size: int) -> None:
    """Write a capture of some size with readable frames: a handshake, then unsealed activations."""
    zero, one = KeySigner.generate(), KeySigner.generate()
    hello = Initiator(zero, one.public_key).hello
    ack, _ = Responder(one, zero.public_key).respond(hello)
    activation = encode_link_frame(encode_frame(PPActivationPayload("request-1", 1, ACTIVATION)))
    written = 0

    def count(data: bytes) -> None:
        nonlocal written
        write(data)
        written += len(data)

    tcp = TcpWriter(Writer(count), (Endpoint(b"\x0a\0\0\1", 50000), Endpoint(b"\x0a\0\0\2", 7777)), 0.0)
    tcp.data(0, 0.0, encode_link_frame(hello))
    tcp.data(1, 0.0, encode_link_frame(ack))
    tcp.data(0, 0.0, encode_link_frame(encode_frame(Ping())))
    while written < size:
        for at in range(0, len(activation), ON_THE_WIRE):
            tcp.data(0, 0.0, activation[at : at + ON_THE_WIRE])


def rate(size: int, rounds: int) -> Row:
    """The complete commands, each printing a line per message or packet, in processor time."""
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "capture.pcapng")
        with path.open("wb") as file:
            write(file.write, size)
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(child_seconds([*(OURS, THEIRS)[side], str(path)]))
    work = f"inspect {size // MIB} MiB"
    ours, other = benchmark(work, times[0]), benchmark("tshark, the same", times[1])
    return Row(work, "tshark + dissector", ours, other, other.median() / ours.median(), (">=", 5))


class Streamed:
    """Captures of several sizes that come through a pipe, so that none needs a file of its size."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.peak = 0.0

    def seconds(self, size: int) -> float:
        """Return the processor time of the command, measured by itself like its resident memory."""
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        command = [sys.executable, "-c", WATCHED, "inspect", "-"]
        with subprocess.Popen(command, stdin=pipe, stdout=null, stderr=pipe) as process:
            assert process.stdin is not None
            write(process.stdin.write, size)
            _, watched = process.communicate(timeout=600)
        assert process.returncode == 0, watched
        peak, seconds = watched.split()
        self.peak = max(self.peak, float(peak))
        return float(seconds)

    def growth(self) -> Row:
        return exponent(
            f"inspect {self.sizes[-1] // MIB:,} MiB", lambda size: partial(self.seconds, size), self.sizes, 1
        )

    def memory(self) -> Row:
        """The largest of all sizes; the ratio is MiB."""
        work = f"inspect {self.sizes[-1] // MIB:,} MiB: memory"
        peak = benchmark(work, [self.peak], "byte")
        capture = benchmark(f"{work}, the capture", [float(self.sizes[-1])], "byte")
        return Row(work, "the capture, in MiB", peak, capture, peak.median() / MIB, ("<=", 200))


def rows(quick: bool) -> list[Callable[[], Row]]:
    streamed = Streamed([4**power * MIB for power in range(3 if quick else 7)])
    measured = [streamed.growth, streamed.memory]
    # Some versions run no scripts for root, so the dissector would not run.
    if shutil.which("tshark") is not None:
        measured.append(partial(rate, (10 if quick else 100) * MIB, 1 if quick else 5))
    return measured
