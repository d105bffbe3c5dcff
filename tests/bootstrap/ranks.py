"""The ranks of one group as real processes on separate loopback addresses, and a cable that can be cut."""

import json
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bootstrap.trust import Pins, Trust, load_identity
from tests.loopback import new_net

LINK_PORT, COORDINATOR_PORT = 7777, 29400
CABLE_PORT = 7778
"""The port to which rank 0 connects to have a cable between itself and rank 1."""
SHORT = 60
"""A sealed ping has fewer bytes, a jacclBootstrap more."""

Start = Callable[..., Any]
Check = Callable[..., None]


class Rank:
    """One rank's number, address, home and key, as its options give them."""

    def __init__(self, number: int, ip: str, home: Path) -> None:
        self.number, self.ip, self.home = number, ip, home
        self.identity = home / "identity.pem"
        self.key = load_identity(self.identity).public_key
        self.pins = Pins(home / "cluster-wireproto" / "peers.json")

    def trust(self, ranks: Sequence["Rank"]) -> Trust:
        """The keys of all others, by rank."""
        return Trust(load_identity(self.identity), {each.number: each.key for each in ranks if each is not self})


def make_ranks(directory: Path, count: int) -> list[Rank]:
    """Ranks that have pinned each other, on addresses of no other test."""
    net = new_net()
    ranks = [Rank(number, f"{net}.{number + 1}", directory / f"home{number}") for number in range(count)]
    for own in ranks:
        for peer in ranks:
            if peer is not own:
                own.pins.add(peer.ip, peer.key)
    return ranks


def write_hostfile(path: Path, ips: Sequence[str], rdma: Sequence[Any] | None = None, **more: Any) -> Path:
    """Write mlx.launch's hostfile, with an `rdma` row per host if given."""
    hosts: list[dict[str, Any]] = [{"ssh": "localhost", "ips": [ip]} for ip in ips]
    for host, row in zip(hosts, rdma or (), strict=False):
        host["rdma"] = row
    path.write_text(json.dumps({"hosts": hosts, **more}))
    return path


# -- what a run said ---------------------------------------------------------------------------------------------------


def names(run: Any, *wanted: str) -> list[str]:
    """Return the events of these names in order."""
    return [event["event"] for event in run.events if event["event"] in wanted]


def of(run: Any, name: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["event"] == name]


def error(run: Any) -> dict[str, Any]:
    (event,) = of(run, "error")
    return event


def output(run: Any, stream: str = "stdout") -> list[str]:
    """Return the output lines of the rank's command."""
    return [event["line"] for event in of(run, "output") if event["stream"] == stream]


def failed(run: Any, *codes: str) -> dict[str, Any]:
    """Check the end of a failed run: exit 3, or 125 with a program; one error, `done` last. Return the error."""
    has_program = {"--", "-m", "--script"} & {*run.process.args[4:]}  # before that `python -m bootstrap`
    assert run.end() == (125 if has_program else 3), (run.events, run.stderr)
    event = error(run)
    assert event["code"] in codes, event
    assert {"cause", "remedy", "retry", "stage", "message"} <= event.keys()
    done = run.events[-1]
    assert (done["event"], done["ok"], done["code"]) == ("done", False, event["code"])
    assert "Traceback" not in "".join(run.stderr), run.stderr
    return event


def guard_of(run: Any) -> psutil.Process:
    """The process that tidies up when the control process is killed."""
    (guard,) = (child for child in psutil.Process(run.process.pid).children() if "guard.py" in str(child.cmdline()))
    return guard


# -- the cable ---------------------------------------------------------------------------------------------------------


class Cable:
    """Relays bytes between rank 0, which connects to rank 1's address and CABLE_PORT, and rank 1's link port.

    Rank 1 sees rank 0's address.
    """

    def __init__(self, zero: Rank, one: Rank) -> None:
        self._zero, self._one = zero, one
        self._listener = socket.create_server((one.ip, CABLE_PORT))
        self._ends: list[tuple[socket.socket, socket.socket]] = []
        self._whole = threading.Event()
        self._whole.set()
        self._cuts: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut_when(self, *moments: str) -> None:
        """Cut the first connections by themselves: `before-ping`, or `before-frame` or `after-frame`.

        The frame is the jacclBootstrap.
        """
        self._cuts += moments

    def stop(self) -> None:
        """Stop passing bytes on, without closing."""
        self._whole.clear()

    def cut(self) -> None:
        """End all connections; new ones are accepted."""
        self._whole.set()
        for pair in self._ends:
            _end(pair)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket()
            try:
                far.bind((self._zero.ip, 0))
                far.connect((self._one.ip, LINK_PORT))
            except OSError:  # rank 1 does not listen
                near.close()
                far.close()
                continue
            self._ends.append((near, far))
            moment = self._cuts.pop(0) if self._cuts else ""
            self._threads.append(threading.Thread(target=self._pass_on, args=(near, far, moment)))
            self._threads[-1].start()

    def _pass_on(self, near: socket.socket, far: socket.socket, moment: str) -> None:
        sent = bytearray()
        with near, far, selectors.DefaultSelector() as selector, suppress(OSError):
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    self._whole.wait()
                    if not data:
                        return _end((near, far))
                    if source is near and moment:
                        sent += data
                        short, long = _behind_hello(sent)
                        if long and moment == "after-frame":
                            target.sendall(data)
                        if long or (short and moment == "before-ping"):
                            return _end((near, far))
                    target.sendall(data)


def _behind_hello(stream: bytearray) -> tuple[bool, bool]:
    """Return whether short and long link frames have begun after rank 0's hello."""
    lengths, at = [], 0
    while at + 8 <= len(stream):
        lengths.append(int.from_bytes(stream[at : at + 8], "little"))
        at += 8 + lengths[-1]
    is_long = [length > SHORT for length in lengths[1:]]
    return False in is_long, True in is_long


def _end(pair: tuple[socket.socket, socket.socket]) -> None:
    """Wake both ends; the relay thread closes them."""
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable_between(zero: Rank, one: Rank) -> Iterator[Cable]:
    cable = Cable(zero, one)
    try:
        yield cable
    finally:
        cable.close()
