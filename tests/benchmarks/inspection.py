"""A capture of 100 MiB: `wireproto inspect` compared with tshark and the dissector, and its memory."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import Row, benchmark

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

PEAK = """
import pathlib, resource, sys
from wireproto.__main__ import main
try:
    main()
except SystemExit:
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts from the parent's there
        peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(peak, file=sys.stderr)
"""


def make(path: Path, size: int) -> None:
    """Write a capture of some size with readable frames: a handshake, then unsealed activations."""
    zero, one = KeySigner.generate(), KeySigner.generate()
    hello = Initiator(zero, one.public_key).hello
    ack, _ = Responder(one, zero.public_key).respond(hello)
    activation = encode_link_frame(encode_frame(PPActivationPayload("request-1", 1, ACTIVATION)))
    with path.open("wb") as file:
        tcp = TcpWriter(Writer(file.write), (Endpoint(b"\x0a\0\0\1", 50000), Endpoint(b"\x0a\0\0\2", 7777)), 0.0)
        tcp.data(0, 0.0, encode_link_frame(hello))
        tcp.data(1, 0.0, encode_link_frame(ack))
        tcp.data(0, 0.0, encode_link_frame(encode_frame(Ping())))
        while file.tell() < size:
            for at in range(0, len(activation), ON_THE_WIRE):
                tcp.data(0, 0.0, activation[at : at + ON_THE_WIRE])


def seconds(command: list[str], path: Path) -> float:
    start = time.perf_counter()
    subprocess.run([*command, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=600)
    return time.perf_counter() - start


def rate(size: int, rounds: int) -> Row:
    """The complete commands, each printing a line per message or packet."""
    times: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "capture.pcapng")
        make(path, size)
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(seconds((OURS, THEIRS)[side], path))
    work = f"inspect {size // MIB} MiB"
    ours, other = benchmark(work, times[0]), benchmark("tshark, the same", times[1])
    return Row(work, "tshark + dissector", ours, other, other.median() / ours.median(), (">=", 0.3))


def peak_memory(size: int) -> Row:
    """Resident memory of the command, measured by the system; the ratio is MiB."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "capture.pcapng")
        make(path, size)
        command = [sys.executable, "-c", PEAK, "inspect", str(path)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, timeout=600)
    work = f"inspect {size // MIB} MiB: memory"
    peak = benchmark(work, [float(done.stderr)], "byte")
    capture = benchmark(f"{work}, the capture", [float(size)], "byte")
    return Row(work, "the capture, in MiB", peak, capture, peak.median() / MIB, ("<=", 200))


def rows(quick: bool) -> list[Callable[[], Row]]:
    size = (10 if quick else 100) * MIB
    measured = [partial(peak_memory, size if quick else 1024 * MIB)]
    # Some versions run no scripts for root, so the dissector would not run.
    if shutil.which("tshark") is not None:
        measured.append(partial(rate, size, 1 if quick else 5))
    return measured
