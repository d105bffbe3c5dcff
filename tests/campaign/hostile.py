"""`make hostile`: a million bad inputs for live `up` processes of both roles and revisions.

The inputs are streams before the handshake is done, messages of an authenticated peer, and such messages after the
jacclBootstrap, while the ranks form their group. A rank may end the connection with a documented code, and the next
connection must work. After the jacclBootstrap it may also exit cleanly, and is restarted. Its memory and descriptors
must not grow.
"""

import argparse
import base64
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil

from tests.bootstrap.ranks import LINK_PORT, make_ranks
from tests.campaign import say
from tests.campaign.judge import is_documented
from tests.campaign.process import BRISK, News, Running
from tests.campaign.scene import START_SECONDS, WAITS
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.errors import WireError
from wireproto.fuzzing.sealed import mutate_introduction, mutate_link
from wireproto.fuzzing.seeds import SEEDS, link_stream
from wireproto.messages import (
    OUTCOME_1,
    REGISTRY,
    JacclBootstrapPayload,
    MemoryPressure,
    PongPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import Config, Established, Role, Session
from wireproto.testing.encodings import foreign_frame, random_message
from wireproto.testing.fixed_keys import KNOWN
from wireproto.testing.mutations import mutate_frame, random_frame

ANSWER = 20.0
"""Seconds for a rank's work that takes milliseconds."""
TIMES: Final = {**BRISK, "reconnect": 0.0, "retry": 0.02, "ping_every": 30.0, "pong": 20.0}
"""Session times with which a rank 0 reconnects at once, and sends no jacclBootstrap before a pong."""
MORE_MEMORY = 24 * 1024 * 1024
"""Bytes by which a rank may exceed its memory after its first inputs."""
MORE_DESCRIPTORS = 5
WARM, EVERY = 250, 250
"""Inputs before a rank's first measurement, and between later ones."""
GOOD: Final = 15
"""On average one of this many frames ends the session; the others are odd, but valid."""
DEEP: Final = 0.01
"""The share of sessions that continue after the jacclBootstrap."""
MESSAGES: Final = [spec.payload for spec in REGISTRY]
STRANGE: Final = 0.3
"""The share of inputs before a handshake, if the rank listens."""


@dataclass
class Count:
    """The inputs of one rank, and its reactions."""

    role: Role
    revision: Revision
    inputs: int = 0
    sessions: int = 0
    starts: int = 0
    seconds: float = 0.0
    grown: int = 0
    """The most bytes that a process had beyond those after its first inputs."""
    opened: int = 0
    """The same for its descriptors."""
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Watched(Running):
    """A rank whose output is too long to keep."""

    KEPT = 100

    def __init__(self, *arguments: Any, codes: Counter[str], **wanted: Any) -> None:
        self._codes = codes
        super().__init__(*arguments, **wanted)

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("link-lost", "error") and event["rank"] == self.rank:  # a peer may use any codes
            self._codes[str(event["code"])] += 1
        self._heard = [*self._heard[-self.KEPT :], event]


class Attack:
    """One live rank; the test plays the other."""

    def __init__(self, directory: Path, count: Count, seed: int) -> None:
        self.count = count
        self._random = Random(f"{seed}/{count.role.name}/{count.revision:d}")
        self._zero, self._one = make_ranks(directory, 2)
        for own, other in ((self._zero, self._one), (self._one, self._zero)):
            own.pins.remove(other.ip)  # this is the other rank, with its own key
        self._tmp = directory / "tmp"
        self._tmp.mkdir()
        self._news = News()
        self._side = KNOWN.rank_0 if count.role is Role.RESPONDER else KNOWN.rank_1
        self._streams = [data for name in ("link", "handshake", "session") for _, data in SEEDS[name]()]
        self._listener: socket.socket | None = None
        if count.role is Role.INITIATOR:
            self._listener = socket.create_server((self._one.ip, LINK_PORT))
            self._listener.settimeout(START_SECONDS)
        self.rank = self._start()

    def _start(self) -> Watched:
        own, other = (self._zero, self._one) if self._listener else (self._one, self._zero)
        arguments = ["--timeout", "3600", "--backend", "ring", "--revision", str(int(self.count.revision))]
        arguments += ["--restart", "100000000", "--peer", base64.b64encode(self._side.public_key).decode()]
        arguments += ["--", "/bin/sh", "-c", WAITS, str(self._tmp / "never")]
        self.count.starts += 1
        codes = self.count.codes
        rank = Watched(own, other, arguments, self._tmp, self._news, {}, codes=codes, times=TIMES)
        if self._listener is None:
            self._news.until(lambda: rank.said("listening") or rank.is_over, START_SECONDS)
        self._first, self._next = (0, 0), self.count.inputs + WARM
        return rank

    def run(self, inputs: int, tell: Any = lambda count: None) -> None:
        """Send inputs; stop at the first fault."""
        began = time.monotonic()
        try:
            while self.count.inputs < inputs and not self.count.wrong:
                if self._listener is None and self._random.random() < STRANGE * GOOD / (1 + STRANGE * GOOD):
                    self._stranger()
                else:
                    self._session()
                if self.count.inputs >= self._next and not self.rank.is_over:
                    self._measure()
                self.count.seconds = time.monotonic() - began
                tell(self.count)
            self._finish()
        except (OSError, AssertionError) as error:
            if self._news.until(lambda: self.rank.is_over, 1.0):
                self._check_end()
            self.count.wrong.append(f"{error!r}; {self.rank.events[-3:]}, {self.rank.stderr[-20:]}")
        finally:
            self.count.seconds = time.monotonic() - began
            if self._listener is not None:
                self._listener.close()
            self.rank.kill_all()

    # -- a stranger ----------------------------------------------------------------------------------------------------

    def _stranger(self) -> None:
        random = self._random
        if random.random() < 0.5:
            data = mutate_link(random, random.choice(self._streams))
        else:
            data = link_stream(mutate_introduction(random, KNOWN.hello))
        self.count.inputs += 1
        with self._connection() as connection, suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            _say_no_more(connection)
            while connection.recv(65536):
                pass

    def _connection(self) -> socket.socket:
        return socket.create_connection((self._one.ip, LINK_PORT), ANSWER, (self._zero.ip, 0))

    # -- a peer --------------------------------------------------------------------------------------------------------

    def _session(self) -> None:
        self.count.sessions += 1
        is_deep = self._random.random() < DEEP
        if self._listener is None:
            connection, role = self._connection(), Role.INITIATOR
        else:
            connection, role = self._accepted(), Role.RESPONDER
        pin = (self._one if self._listener is None else self._zero).key
        with connection, suppress(BrokenPipeError, ConnectionResetError):
            connection.settimeout(ANSWER)
            session = Session(Config(role=role, signer=self._side, pin=pin, revision=self.count.revision))
            _shake_hands(session, connection)
            frames = [*(self._opening() if is_deep else ()), *self._frames()]
            self.count.inputs += len(frames)
            bodies = map(session.seal_tensor, frames) if self.count.revision is Revision.V2 else frames
            connection.sendall(link_stream(*bodies))
            if is_deep:
                _say_no_more(connection)
            while connection.recv(65536):
                pass  # its pings, its answers; at the end it closes
        if is_deep:
            self._news.until(lambda: self.rank.is_over, 0.3)
        if self.rank.is_over:
            self._restart()

    def _accepted(self) -> socket.socket:
        """Return the rank's next connection. It arrives at once, or the rank has ended."""
        assert self._listener is not None
        end = time.monotonic() + START_SECONDS
        self._listener.settimeout(0.5)
        while True:
            with suppress(TimeoutError):
                return self._listener.accept()[0]
            assert time.monotonic() < end, "the rank does not connect again"
            if self.rank.is_over:
                self._restart()

    def _opening(self) -> Iterator[bytes]:
        """Make the rank send its jacclBootstrap, or follow ours."""
        extensions = (OUTCOME_1,) if self.count.revision is Revision.V2 else ()
        if self.count.role is Role.INITIATOR:
            yield encode_frame(PongPayload(False, False, MemoryPressure.NORMAL, extensions), self.count.revision)
        else:
            yield b"\x03"
            yield encode_frame(JacclBootstrapPayload(29400, "6F9619FF", extensions), self.count.revision)
        if extensions:
            yield b'\x43{"package":"","mlx":"","backend":"ring","devices":""}'

    def _frames(self) -> Iterator[bytes]:
        """Yield odd frames, and a last one that no rank may accept."""
        random, revision = self._random, self.count.revision
        while random.random() > 1 / GOOD:
            frame = foreign_frame(random, random_message(random, random.choice(MESSAGES)))
            if _is_taken(frame, revision) and not self._moves(frame):
                yield frame
        while True:
            frame = random_frame(random) if random.random() < 0.5 else mutate_frame(random, random_frame(random))
            if frame and not _is_taken(frame, revision):
                yield frame
                return

    def _moves(self, frame: bytes) -> bool:
        """Return whether a frame starts the group or ends the session: those are for the deep sessions."""
        return isinstance(decode_frame(frame, self.count.revision), JacclBootstrapPayload | PongPayload | SessionEnd)

    # -- the rank itself -----------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        self._check_end()
        self.rank.kill_all()
        self.rank = self._start()

    def _check_end(self, *, stopped: bool = False) -> None:
        """Check for a clean end: with an error, as allowed after the jacclBootstrap, or without if we stopped it."""
        error, stderr, done = self.rank.error, "\n".join(self.rank.stderr), (self.rank.events or [{}])[-1]
        right = (done.get("stopped") and error is None) if stopped else error is not None
        if "Traceback" in stderr or not right or done.get("event") != "done":
            self.count.wrong.append(f"the rank has ended: {self.rank.events[-2:]} {stderr[-2000:]}")

    def _measure(self) -> None:
        """Check that it has not grown since its first inputs. A connection may just be opening or closing."""
        process = psutil.Process(self.rank.process.pid)
        size = process.memory_info().rss, process.num_fds()
        if self._first == (0, 0):
            self._first = size
        (memory, descriptors), count = self._first, self.count
        count.grown = max(count.grown, size[0] - memory)
        count.opened = max(count.opened, size[1] - descriptors)
        if count.grown > MORE_MEMORY or count.opened > MORE_DESCRIPTORS:
            count.wrong.append(f"the rank grows: bytes and descriptors {self._first} after the start, then {size}")
        self._next = count.inputs + EVERY

    def _finish(self) -> None:
        """Check that it runs, has not grown, and ends cleanly."""
        count = self.count
        if not self.rank.is_over and not count.wrong:
            self._measure()
            self.rank.process.terminate()
            if not self._news.until(lambda: self.rank.is_over, ANSWER):
                count.wrong.append("the rank does not end")
            else:
                self._check_end(stopped=True)
        count.wrong += [f"the code {code} is documented nowhere" for code in count.codes if not is_documented(code)]


def _say_no_more(connection: socket.socket) -> None:
    with suppress(OSError):  # the rank has reset it, so it is no longer connected
        connection.shutdown(socket.SHUT_WR)


def _shake_hands(session: Session, connection: socket.socket) -> None:
    connection.sendall(b"".join(session.data_to_send()))
    while not isinstance(session.next_event(), Established):
        data = connection.recv(65536)
        assert data, "the rank ends the connection in the handshake"
        session.receive_data(data)
    connection.sendall(b"".join(session.data_to_send()))


def _is_taken(frame: bytes, revision: Revision) -> bool:
    try:
        decode_frame(frame, revision)
    except WireError:
        return False
    return True


def attack(inputs: int, seed: int, tell: Callable[[Count], None] = lambda count: None) -> Iterator[Count]:
    """Send inputs, a quarter for each role in each revision."""
    for role in Role:
        for revision in Revision:
            with tempfile.TemporaryDirectory(prefix="campaign-") as directory:
                count = Count(role, revision)
                Attack(Path(directory), count, seed).run(inputs // 4, tell)
                yield count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="how many (default: 1000000)")
    parser.add_argument("--seed", type=int, default=None, help="which (default: drawn, and printed)")
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    say(f"seed {seed}, {given.inputs} inputs")
    counts = []
    for count in attack(given.inputs, seed, _tell if sys.stdout.isatty() else Tenths(given.inputs).tell):
        counts.append(count)
        say(row(count))
        say("".join(f"WRONG: {text}\n" for text in count.wrong), end="")
    say(f"{sum(count.inputs for count in counts)} inputs, seed {seed}")
    return 1 if any(count.wrong for count in counts) else 0


def row(count: Count) -> str:
    codes = ", ".join(f"{code} {number}" for code, number in count.codes.most_common())
    return (
        f"{count.role.value}, revision {count.revision:d}: {count.inputs} inputs in {count.seconds:.0f} s, "
        f"{count.sessions} sessions, {count.starts} starts; at most {count.grown / 2**20:.1f} MiB and {count.opened} "
        f"descriptors more than at first; {codes}"
    )


class Tenths:
    """Reports progress, ten times in all."""

    def __init__(self, inputs: int) -> None:
        self._step = max(inputs // 10, 1)
        self._next = self._step
        self._done: dict[tuple[Role, Revision], int] = {}

    def tell(self, count: Count) -> None:
        self._done[count.role, count.revision] = count.inputs
        total = sum(self._done.values())
        if total >= self._next:
            self._next = total - total % self._step + self._step
            say(f"{total} inputs")


def _tell(count: Count) -> None:
    say(f"\r\x1b[K{count.role.value}, revision {count.revision:d}: {count.inputs}\r", end="")


if __name__ == "__main__":
    sys.exit(main())
