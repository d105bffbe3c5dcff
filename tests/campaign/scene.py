"""The setting of a case: two hosts on one machine, their directories, the cable between them; and leftovers."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bootstrap.control.child import GRACE_SECONDS
from bootstrap.control.lock import record_path
from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import CABLE_PORT, COORDINATOR_PORT, LINK_PORT, make_ranks
from tests.campaign.namespaces import ADDRESSES, Host, Wire
from tests.campaign.plan import Case, Shape
from tests.campaign.process import BRISK, CLOCK, News, Running
from tests.campaign.relay import Relay

START_SECONDS = 60.0
"""Seconds for work that takes two on an idle machine."""
TIDY_SECONDS = GRACE_SECONDS + 15
DISK = 256 * 1024
EARLIER = b"#" * (os.sysconf("SC_PAGE_SIZE") - 60) + b"\n"
"""Bytes in a key log: on a full disk there is room for half a line more."""
WAITS = 'echo ready; while [ ! -e "$0" ]; do sleep 0.05; done'


class Lane:
    """Two hosts for consecutive cases, with the same addresses, identities and directories."""

    def __init__(self, directory: Path, shape: Shape, name: str) -> None:
        self.directory, self.shape = directory, shape
        self.news = News()
        self.hosts: tuple[Host, Host] | None = None
        self.ranks = make_ranks(directory, 2)
        if shape == "namespaces":
            self.hosts = (Host(f"{name}a", ADDRESSES[0]), Host(f"{name}b", ADDRESSES[1]))
            for rank, address in zip(self.ranks, ADDRESSES, strict=True):
                rank.ip = address
            for own, peer in (self.ranks, self.ranks[::-1]):
                own.pins.add(peer.ip, peer.key)
        self.tmp = [directory / f"tmp{rank.number}" for rank in self.ranks]
        for tmp in self.tmp:
            tmp.mkdir()

    def __enter__(self) -> "Lane":
        for host in self.hosts or ():
            host.make()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts or ():
            host.remove()

    def namespace(self, rank: int) -> dict[str, str]:
        return {} if self.hosts is None else {"namespace": self.hosts[rank].name}

    def listeners(self) -> list[str]:
        """Return the remaining listeners on the ranks' ports."""
        wanted = [(rank, port) for rank in self.ranks for port in (LINK_PORT, COORDINATOR_PORT + rank.number)]
        if self.hosts is not None:
            ports = [host.listeners() for host in self.hosts]
            return [f"{rank.ip}:{port}" for rank, port in wanted if port in ports[rank.number]]
        return [f"{rank.ip}:{port}" for rank, port in wanted if not _is_free(rank.ip, port)]


def _is_free(ip: str, port: int) -> bool:
    try:
        with socket.create_server((ip, port)):
            return True
    except OSError:
        return False


class Scene:
    """One case on a lane. `strike` is called at its stage."""

    def __init__(self, lane: Lane, case: Case, strike: Callable[["Scene"], None]) -> None:
        self.lane, self.case = lane, case
        self.news = lane.news
        self.runs: dict[int, Running] = {}
        self.second: Running | None = None
        """A rank that was started again beside the first."""
        self.is_frozen = False
        """Whether a worker or command was stopped, and stays so."""
        self.random = case.random
        self.chosen: dict[str, Any] = {}
        """The fault's own choices."""
        self.descriptors: dict[int, int] = {}
        """The open descriptors of each control process before the fault; after it, connections may be closed."""
        self.struck = False
        self.go = lane.directory / "go"
        self.clock = lane.directory / "clock"
        self.capture = lane.directory / "capture.pcapng"
        self.keys = lane.directory / "keys"
        self.key_log = self.keys / "log"
        self.mounted: Path | None = None
        self.unguarded = False
        """Whether nothing was left to clean up after a rank: the next run does."""
        self.healed: list[Callable[[], None]] = []
        """Functions that undo the fault's lasting effects."""

        def struck() -> None:
            try:
                strike(self)
            finally:
                self.struck = True
                self.news.tell()

        self.strike = struck
        self.cable: Relay | Wire
        if lane.hosts is None:
            self.cable = Relay(*lane.ranks, case.stage, struck, case.cable_random)
        else:
            for host in lane.hosts:
                host.plug()
            self.cable = Wire(lane.hosts, case.stage, struck, case.cable_random)
        if case.fault in ("disk", "keylog"):
            self._mount(self.keys if case.fault == "keylog" else lane.tmp[case.rank])
        if case.fault == "keylog":
            self.key_log.touch(0o600)
            self.key_log.write_bytes(self.random.choice((b"", EARLIER)))

    # -- the ranks -----------------------------------------------------------------------------------------------------

    def start(self, rank: int) -> None:
        self.runs[rank] = self.run(rank)

    def run(self, rank: int) -> Running:
        """Start this rank, whether or not it runs already."""
        case, lane = self.case, self.lane
        arguments = ["--timeout", f"{case.timeout:g}", "--revision", str(case.revision)]
        arguments += ["--extensions", case.extensions, "--restart", str(case.restarts), "--backend", "ring"]
        if rank == 0 and lane.shape == "loopback":
            arguments += ["--link-port", str(CABLE_PORT)]
        env: dict[str, str] = {}
        terminal: tuple[int, ...] = ()
        if case.fault == "clock" and rank == case.rank:
            arguments += ["--capture", str(self.capture)]
            env = {"PYTHONPATH": str(CLOCK), "CLOCK": str(self.clock)}
        if case.fault == "keylog" and rank == case.rank:
            arguments += ["--keylog", str(self.key_log)]
        if case.work == "command":
            waits = case.stage in ("running", "stop")
            arguments += ["--", "/bin/sh", "-c", WAITS, str(self.go)] if waits else ["--", "true"]
        wanted: dict[str, object] = {"unprivileged": case.fault == "permission", **lane.namespace(rank)}
        if case.brisk:
            wanted["times"] = BRISK
        if case.hangs:
            wanted["worker"] = str(SCRIPTS / "stuck.py")
        if case.fault == "terminal" and rank == case.rank:
            terminal = self.random.choice(((0, 1), (0, 1, 2)))
            wanted["nohup"] = case.nohup
        own, other = lane.ranks[rank], lane.ranks[1 - rank]
        return Running(own, other, arguments, lane.tmp[rank], self.news, env, terminal, **wanted)

    def signal(self, rank: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.runs[rank].process.pid, number)

    def both(self, condition: Callable[[Running], bool]) -> bool:
        return len(self.runs) == 2 and all(map(condition, self.runs.values()))

    @property
    def is_over(self) -> bool:
        return self.both(lambda run: run.is_over)

    # -- what was done to a host ---------------------------------------------------------------------------------------

    def _mount(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(path)]
        subprocess.run(command, check=True, timeout=START_SECONDS)
        self.mounted = path

    def heal(self) -> None:
        while self.healed:
            self.healed.pop()()

    # -- what is left --------------------------------------------------------------------------------------------------

    def files(self) -> list[str]:
        """Return a run's remaining files."""
        written = [
            event["path"] for run in self.runs.values() for event in run.events if event["event"] == "file-written"
        ]
        ports = (CABLE_PORT, LINK_PORT) if self.lane.hosts is None else ()
        records = [record_path(rank.ip, port) for rank, port in zip(self.lane.ranks, ports, strict=False)]
        found = [path for tmp in self.lane.tmp for path in tmp.rglob("*")]
        return sorted({str(path) for path in (*map(Path, written), *records, *found) if path.exists()})

    def processes(self) -> list[psutil.Process]:
        return [process for run in self.runs.values() for process in run.processes()]

    @property
    def _all(self) -> list[Running]:
        return [*self.runs.values(), *([] if self.second is None else [self.second])]

    def close(self) -> None:
        """Clean up, so that the next case finds an empty lane."""
        self.cable.close()
        for run in self._all:
            run.kill_all()
        self.heal()
        if self.mounted is not None:
            subprocess.run(["umount", "-l", str(self.mounted)], check=True, timeout=START_SECONDS)
        for path in (self.go, self.clock, self.capture):
            path.unlink(missing_ok=True)
        for tmp in self.lane.tmp:
            for path in tmp.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.case.fault == "keylog":
            self.keys.rmdir()
        for run in self._all:
            assert run.process.poll() is not None
