"""The demo: one `jaccl-bootstrap up` per rank on this host, each with its own key, until the group is checked."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootstrap.control.child import IMPORT_PATH, Child, ChildError, how_ended
from bootstrap.control.run import Display, Run, execute
from bootstrap.errors import ConfigError
from bootstrap.events import EventDict
from bootstrap.files import private_directory
from bootstrap.plan import Plan, check_ip, check_timeout
from bootstrap.system.network import reserved_ports
from bootstrap.trust import encode_public_key, load_identity

PROGRAM = ("-m", "bootstrap")
SLACK_SECONDS: Final = 5.0
"""How long the ranks may take to exit by themselves after their deadline or another rank's failure."""
HIDDEN: Final = ("done", "error", "holding")


@dataclass(frozen=True)
class Demo:
    """The group to form: the plan of rank 0, whose address all ranks share. Raise ConfigError if it cannot work.

    With `free_ports` the coordinator ports are chosen, not the plan's. `capture` is where rank 0 records all links.
    """

    plan: Plan
    free_ports: bool = True
    capture: Path | None = None

    def __post_init__(self) -> None:
        check_timeout(self.plan.timeout)
        if not check_ip(self.plan.own_ip).is_loopback:
            text = f"--host {self.plan.own_ip} is not a loopback address, use one such as 127.0.0.1"
            raise ConfigError(text, code="not-loopback")


class RankError(ChildError):
    """The failure of one rank."""

    def __init__(self, event: EventDict) -> None:
        super().__init__(str(event["message"]), code=str(event["code"]), stage=str(event["stage"]))
        self.rank = event["rank"]


def run_demo(demo: Demo, display: Display) -> int:
    """Run `demo` to its end; the last event is `done`. Return the exit code."""

    async def act(run: Run) -> None:
        host, size, wanted = demo.plan.own_ip, demo.plan.size, None if demo.free_ports else demo.plan.port
        with reserved_ports(host, size, wanted) as port, reserved_ports(host, size) as link:
            pass  # they are free; if another program takes one, the rank says so
        directory = run.watchers.new_directory()
        with private_directory(directory):
            await _form(demo, run, directory, port, [link + rank for rank in range(size)])

    run = Run(display, timeout=demo.plan.timeout + SLACK_SECONDS, grace=SLACK_SECONDS)
    return execute(run, lambda: run.main(act), ranks=demo.plan.size, backend=demo.plan.backend)


async def _form(demo: Demo, run: Run, directory: Path, port: int, link_ports: list[int]) -> None:
    hosts = directory / "hosts.json"
    hosts.write_text(json.dumps({"hosts": [{"ssh": "localhost", "ips": [demo.plan.own_ip]}] * demo.plan.size}))
    homes = [directory / f"rank-{rank}" for rank in range(demo.plan.size)]
    keys = [load_identity(home / "cluster-wireproto" / "identity.pem").public_key for home in homes]
    # With keys as options: the ranks share an address, which cannot identify them.
    peers = [f"{rank}={encode_public_key(key)}" for rank, key in enumerate(keys)]
    runs: list[_Rank] = []
    following: list[asyncio.Task[None]] = []
    reached: list[asyncio.Task[bool]] = []
    try:
        for rank in (*range(1, demo.plan.size), 0):  # rank 0 connects, and all others listen
            if rank == 0:
                reached.append(asyncio.create_task(_all([each.listening for each in runs])))
                await asyncio.wait({*reached, *following}, return_when=asyncio.FIRST_COMPLETED)
            trust = [word for other, peer in enumerate(peers) if other != rank for word in ("--peer", peer)]
            arguments = [*_arguments(demo, rank, hosts, port, link_ports), *trust]
            child = await run.start_run(
                arguments, {**os.environ, "PYTHONPATH": IMPORT_PATH, "XDG_CONFIG_HOME": str(homes[rank])}
            )
            runs.append(_Rank(rank, run, child))
            following.append(asyncio.create_task(runs[-1].follow()))
        holding = asyncio.create_task(_all([each.holding for each in runs]))
        reached.append(holding)
        await asyncio.wait({holding, *following}, return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            run.met()
            runs[-1].child.send(signal.SIGINT)  # a clean end: rank 0 tells the others
        await asyncio.wait(following, timeout=SLACK_SECONDS)
        if not holding.done():
            raise _cause(runs)
    finally:
        for task in (*reached, *following):
            task.cancel()
        await asyncio.gather(*reached, *following, return_exceptions=True)


def _arguments(demo: Demo, rank: int, hosts: Path, port: int, link_ports: list[int]) -> list[str]:
    options: dict[str, object] = {
        "--hostfile": hosts,
        "--rank": rank,
        "--link-port": ",".join(map(str, link_ports)),
        "--coordinator-port": port,
        "--backend": demo.plan.backend,
        "--revision": demo.plan.revision.value,
        "--timeout": demo.plan.timeout,
        "--session-id": demo.plan.session_id,
    }
    if rank == 0 and demo.capture is not None:
        options["--capture"] = demo.capture
    words = [word for option in options.items() for word in map(str, option)]
    return [sys.executable, "-P", *PROGRAM, "up", "--json", *words]


class _Rank:
    """One rank's run, followed by its events."""

    def __init__(self, rank: int, run: Run, child: Child) -> None:
        self.rank = rank
        self.child = child
        self.failure: EventDict | None = None
        self.listening, self.holding = asyncio.Event(), asyncio.Event()
        self._run = run
        self._started: float | None = None  # on the clock of the demo

    async def follow(self) -> None:
        """Pass on its events until it ends."""
        while (line := await self.child.line("stdout")) is not None:
            event: EventDict = json.loads(line)
            t_ms = event["t_ms"]
            assert isinstance(t_ms, float | int)  # noqa: S101
            if self._started is None:
                self._started = self._run.now() - t_ms
            event["t_ms"] = round(self._started + t_ms, 1)
            if event["event"] == "error" and event["rank"] is None:  # from before its run
                event["rank"] = self.rank
            if event["event"] == "listening":
                self.listening.set()
            elif event["event"] == "holding":
                self.holding.set()
            elif event["event"] == "error" and self.failure is None:
                self.failure = event
            elif event["event"] == "group-ready":
                self._run.summary["backend"] = event["backend"]
            if event["event"] not in HIDDEN:
                self._run.show(event)
        await self.child.exited()
        await self.child.end()
        if self.failure is None and not self.holding.is_set():
            status = 0 if self.child.status is None else self.child.status
            text = f"the run of rank {self.rank} ended {how_ended(status)}; see the log lines"
            code = "worker-killed" if status < 0 else "worker-died"
            self.failure = {"rank": self.rank, "stage": "demo", "code": code, "message": text}


async def _all(events: list[asyncio.Event]) -> bool:
    for event in events:
        await event.wait()
    return True


def _cause(runs: list[_Rank]) -> RankError:
    """Return the first failure, preferably what a rank reports about itself."""
    failed = [(each.failure["rank"] != each.rank, each.failure) for each in runs if each.failure is not None]
    return RankError(min(failed, key=lambda failure: failure[0])[1])
