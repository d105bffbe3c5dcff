"""Scenes of a group with the reference peer; `python -m tests.interop.scenes` plays all and prints a table.

The session's times are a fifth of the real ones on both sides.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bootstrap.conftest import CommandRun
from tests.bootstrap.ranks import LINK_PORT, Rank, make_ranks

SCALE: Final = 0.2
SECONDS: Final = 60.0
HERE: Final = Path(__file__).parent


class ReferencePeer:
    """A reference peer in its own process group, and its output."""

    def __init__(self, own: Rank, ranks: list[Rank], revision: int, folder: Path, *options: str) -> None:
        peer = ranks[0] if own.number else ranks[1]
        arguments = [str(own.number), ",".join(rank.ip for rank in ranks), str(LINK_PORT), str(own.identity)]
        arguments += [peer.key.hex(), "--revision", str(revision), "--scale", str(SCALE), "--folder", str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "reference_peer.py"), *arguments, *options],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def said(self, event: str) -> int:
        return sum(f'"event": "{event}"' in line for line in list(self.lines))

    def until(self, event: str, count: int = 1) -> None:
        limit = time.monotonic() + SECONDS
        while self.said(event) < count:
            assert time.monotonic() < limit, self.lines
            time.sleep(0.02)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass(frozen=True)
class Scene:
    """The reference peer's actions as one rank, and the required end of our `up`, the other rank."""

    name: str
    rank: int
    """The reference peer's."""
    peer: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    wanted: str = "holding"
    """The event to wait for."""
    count: int = 1
    then: str = "stop"
    """`stop`: Ctrl-C ends the group in order. `lose`: the reference peer's connection ends."""
    outcome: str = "ok"
    """The code of the error with which the run ends, or `ok`."""
    revisions: tuple[int, ...] = (1, 2)


SCENES: Final = (
    Scene("bootstrap after a true pong, no sessionEnd", 0),
    Scene("slow init", 0, ("--init-after", "20")),
    Scene("stalled pings", 0, ("--stall",), then="lose", outcome="link-lost"),
    Scene("inference frames before and after", 0, ("--inference",)),
    Scene("several connections", 0, ("--connections", "3"), revisions=(2,)),
    Scene("connection lost, --restart", 0, ("--drop-after", "5"), ("--restart", "1"), count=2),
    Scene("dry run", 0, ("--init-after", "100"), ("--dry-run",), "done"),
    Scene("never sends jacclBootstrap", 0, ("--stored",), ("--timeout", "4"), "error", outcome="no-bootstrap"),
    Scene("malformed jacclBootstrap", 0, ("--malformed",), ("--timeout", "5"), "error", outcome="field-missing"),
    Scene("model never loaded", 1),
    Scene("slow init", 1, ("--init-after", "25")),
    Scene("dry run", 1, (), ("--dry-run",), "done"),
    Scene("connection lost", 1, then="lose", outcome="link-lost"),
)


@dataclass
class Play:
    """A scene that has reached its event."""

    scene: Scene
    peer: ReferencePeer
    run: CommandRun
    group_after: float | None
    """Seconds from the start to the group."""


@contextmanager
def played(
    scene: Scene,
    revision: int,
    ranks: list[Rank],
    start: Callable[..., CommandRun],
    folder: Path,
    *more: str,
    **wanted: Any,
) -> Iterator[Play]:
    """Start both ranks, and wait for the scene's event."""
    ours = ranks[1 - scene.rank]
    arguments = ("--json", "--revision", str(revision), "--backend", "ring", "--timeout", "40", *scene.ours, *more)
    peer = ReferencePeer(ranks[scene.rank], ranks, revision, folder, *scene.peer)
    try:
        run = start(ours, ranks[scene.rank], *arguments, program="scaled.py", **wanted)
        if scene.wanted == "holding":
            while sum(event["event"] == "holding" for event in run.events) < scene.count:
                run.more()
        else:
            run.end()
        formed = [event["t_ms"] / 1000 for event in run.events if event["event"] == "group-ready"]
        yield Play(scene, peer, run, formed[0] if formed else None)
    finally:
        peer.end()


def outcome(play: Play) -> str:
    """End the scene; return the code of its error, or `ok`."""
    if play.scene.wanted == "holding":
        if play.scene.then == "lose":
            play.peer.end()
        else:
            play.run.process.send_signal(signal.SIGINT)
        play.run.end()
    return str(play.run.events[-1].get("code", "ok"))


class Starter:
    """Starts our ranks outside pytest."""

    def __init__(self, folder: Path) -> None:
        self._tmp = folder / "tmp"
        self._tmp.mkdir()
        self._runs: list[CommandRun] = []

    def __call__(self, own: Rank, other: Rank, *arguments: str, program: str) -> CommandRun:
        options = ("up", "--own-ip", own.ip, "--peer-ip", other.ip, "--identity", str(own.identity))
        env = {"XDG_CONFIG_HOME": str(own.home)}
        self._runs.append(CommandRun((*options, *arguments), self._tmp, program, None, None, env))
        return self._runs[-1]

    def end(self) -> None:
        for run in self._runs:
            run.kill_all()


def main() -> None:
    print("| reference peer | revision | scene | outcome | group after |\n| --- | --- | --- | --- | --- |")  # noqa: T201
    for scene in SCENES:
        for revision in scene.revisions:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                ranks = make_ranks(folder, 2)
                starter = Starter(folder)
                try:
                    with played(scene, revision, ranks, starter, folder) as play:
                        after = "" if play.group_after is None else f"{play.group_after:.1f} s"
                        held = "held, then " * (scene.wanted == "holding")
                        row = (f"rank {scene.rank}", str(revision), scene.name, held + outcome(play), after)
                        print(f"| {' | '.join(row)} |", flush=True)  # noqa: T201
                finally:
                    starter.end()


if __name__ == "__main__":
    main()
