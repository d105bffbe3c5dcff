"""The plan of the campaign: stages, faults, their combinations, and cases drawn from a seed.

Cells that are empty, shown as `-`:

- Before there is a connection (`listen`) no byte passes that could be harmed, and no link can be cut.
- On loopback the cable passes link frames on, so before the first one (`connect`) there is none to drop, send twice,
  cut or change. Between namespaces it passes packets, the first of which is that of the connect.
- Between namespaces nothing ends a connection but its two ends, so there is no `close`, `reset` and `truncate`. What a
  host lacks (`clock` to `second`) and who floods it do not depend on the cable, so they are tried on loopback.
- Once both have the session's key (`confirmed`) nothing more is written to a key log (`keylog`).
- A rank that ends (`stop`) gives its host to the next, so a `second` one is not refused.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Final, Literal, NamedTuple

Shape = Literal["loopback", "namespaces"]
SHAPES: Final[tuple[Shape, ...]] = ("loopback", "namespaces")

STAGES: Final = {
    "listen": "rank 1 listens, or is about to; rank 0 is not there yet",
    "connect": "the connection is there",
    "hello": "rank 0's hello passes",
    "ack": "rank 1's ack passes",
    "confirmed": "rank 0's first box passes",
    "bootstrap": "the jacclBootstrap passes",
    "ports": "rank 1 has the jacclBootstrap, and is about to look at the ports",
    "files": "a rank has written the file for MLX",
    "init": "a rank has set its environment and is about to form the group",
    "ready": "both hold the group",
    "running": "both run a command",
    "stop": "a rank was just told to end",
}
"""When a fault strikes."""

FAULTS: Final = {
    "kill": "SIGKILL for the control process, the worker, the guard, or control process and guard",
    "stop": "SIGSTOP for one of them, and SIGCONT a while later",
    "freeze": "SIGSTOP for the worker, or the command; SIGCONT a while later, or never",
    "close": "the cable closes the connection",
    "reset": "the cable resets it",
    "partition": "nothing passes for a while, or from then on; between namespaces the interface may go down, too",
    "delay": "what passes is late for a while; between namespaces so that it comes in another order, too",
    "drop": "a link frame is missing; some packets are",
    "duplicate": "a link frame comes twice; some packets do",
    "truncate": "half a link frame, and the end of the connection",
    "flip": "a bit of a link frame, or of some packets, is turned",
    "flood": "other hosts, and the peer's own address, open connections: silent, talkative, nearly valid",
    "clock": "the wall clock of one host jumps by up to decades",
    "disk": "the disk of one host becomes full",
    "permission": "one host's directory for temporary files becomes read-only",
    "descriptors": "the control process of one rank may open no more files",
    "reader": "nobody reads what one rank writes, for a while or until its end, and its pipe is full",
    "terminal": "the terminal of one rank is closed; some ranks ignore SIGHUP, as under nohup",
    "keylog": "the disk under the key log of one rank becomes full",
    "second": "one rank is started again on the same host, with the same options",
}

PROCESS: Final = ("kill", "stop", "freeze")
STREAM: Final = ("close", "reset")
FRAME: Final = ("drop", "duplicate", "truncate", "flip")
HOST: Final = ("flood", "clock", "disk", "permission", "descriptors", "reader", "terminal", "keylog", "second")
ON_LINUX: Final = ("descriptors", "disk", "permission", "reader", "keylog")
BEFORE_THE_KEY: Final = ("listen", "connect", "hello", "ack")


class Cell(NamedTuple):
    """A stage and a fault, in a shape."""

    shape: Shape
    stage: str
    fault: str


def makes_sense(cell: Cell) -> bool:
    shape, stage, fault = cell
    if fault in PROCESS:
        return True
    if (fault == "keylog" and stage not in BEFORE_THE_KEY) or (fault == "second" and stage == "stop"):
        return False
    if fault in HOST:
        return shape == "loopback"
    if stage == "listen":
        return False
    if shape == "namespaces":
        return fault not in STREAM and fault != "truncate"
    return stage != "connect" or fault not in FRAME


CELLS: Final = tuple(
    cell for shape in SHAPES for stage in STAGES for fault in FAULTS if makes_sense(cell := Cell(shape, stage, fault))
)


def lacks(shape: Shape, fault: str) -> str:
    """Return the reason why a cell cannot be tried here, or an empty string."""
    is_root = os.geteuid() == 0
    if sys.platform != "linux" and (shape == "namespaces" or fault in ON_LINUX):
        return "needs Linux"
    if shape == "namespaces" and not (is_root and shutil.which("ip") and Path("/dev/net/tun").exists()):
        return "needs root, iproute2 and /dev/net/tun"
    if fault in ("disk", "keylog") and not is_root:
        return "needs root, to mount a small disk"
    return ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One drawn fault. `rank` is the affected rank, if any."""

    seed: int
    number: int
    shape: Shape
    stage: str
    fault: str
    rank: int
    work: Literal["group", "command"]
    revision: int
    extensions: Literal["on", "off"]
    restarts: int
    brisk: bool
    """Whether times are shorter than the product's: see `process.BRISK`."""

    @property
    def random(self) -> Random:
        """The seed of the fault's own choices."""
        return Random(f"{self.seed}/{self.number}/fault")

    @property
    def cable_random(self) -> Random:
        """The seed of the cable's choices."""
        return Random(f"{self.seed}/{self.number}/cable")

    @property
    def hangs(self) -> bool:
        """Whether the group is never formed, so that a process is certainly killed in native code."""
        return self.stage == "init" and self.fault == "kill" and self.number % 2 == 0

    @property
    def nohup(self) -> bool:
        """Whether the rank whose terminal is closed ignores SIGHUP."""
        return self.fault == "terminal" and self.number % 2 == 0

    @property
    def timeout(self) -> float:
        """Seconds for `up` to form the group."""
        return 12.0 if self.brisk else 30.0

    def again(self) -> str:
        """Return the command that reruns it."""
        return f"python -m tests.campaign --seed {self.seed} --number {self.number}"


def cases(seed: int, *, brisk: bool = False, only: str = "") -> Iterator[Case]:
    """Yield cases without end: each cell once in a seeded order, then again in another, without impossible ones.

    `only` is STAGE:FAULT, where either may be empty; a case has the same number with it and without.
    """
    stage, _, fault = only.partition(":")
    wanted = [
        cell
        for cell in CELLS
        if stage in ("", cell.stage) and fault in ("", cell.fault) and not lacks(cell.shape, cell.fault)
    ]
    order, numbers = Random(seed), count()
    while wanted:
        for number, cell in zip(numbers, order.sample(CELLS, len(CELLS))):  # noqa: B905 - the numbers go on
            if cell in wanted:
                yield _drawn(seed, number, cell, brisk)


def _drawn(seed: int, number: int, cell: Cell, brisk: bool) -> Case:
    random = Random(f"{seed}/{number}")
    any_work: tuple[Literal["group", "command"], ...] = ("group", "command")
    work = {"init": any_work[:1], "ready": any_work[:1], "running": any_work[1:]}.get(cell.stage, any_work)
    if cell.fault in ("freeze", "second") and cell.stage not in ("running", "stop"):
        work = any_work[:1]  # there is a worker to freeze, and a first run that does not end by itself
    # With a plain peer neither side may end a session that waits for a frame with a wrong length. [PLAIN-INIT]
    plain = cell.stage != "ports" and not (cell.fault == "flip" and cell.stage in ("files", "init", "ready", "running"))
    return Case(
        seed=seed,
        number=number,
        shape=cell.shape,
        stage=cell.stage,
        fault=cell.fault,
        rank=random.randrange(2),
        work=random.choice(work),
        revision=random.choices((2, 1), (85, 15 * plain))[0],
        extensions=random.choices(("on", "off"), (90, 10 * plain))[0],
        restarts=random.choice((0, 0, 1)),
        brisk=random.random() < 0.9 or brisk,
    )
