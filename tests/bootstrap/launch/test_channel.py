"""The launcher's channel: a rank's handling of its lines and of its end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from bootstrap.control.run import Run, Stopped
from bootstrap.control.running import EventQueue
from bootstrap.launch.channel import (
    CHUNK,
    HEARTBEAT_SECONDS,
    MAX_LINE,
    SILENCE_SECONDS,
    WINDOW,
    ChannelError,
    Heartbeat,
    Input,
    InputEnd,
    Message,
    Start,
    Stop,
    decode,
    encode,
    plan_fields,
    plan_of,
)
from bootstrap.launch.launched import ProgramInput, following
from bootstrap.plan import Plan
from bootstrap.trust import encode_public_key
from tests.bootstrap.conftest import CommandRun
from tests.bootstrap.ranks import Check, Rank, error, of, output
from tests.bootstrap.ranks import Start as Starting

ECHO = ("/bin/sh", "-c", "echo begun; cat; echo over")


class Channel(CommandRun):
    """`up --launched`, and our end of its channel."""

    def __init__(self, rank: Rank, tmp: Path) -> None:
        super().__init__(("up", "--launched"), tmp, None, None, None, {"XDG_CONFIG_HOME": str(rank.home)})
        self._lock = threading.Lock()
        self._hushed = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._hushed.wait(HEARTBEAT_SECONDS):
            self.tell(Heartbeat())

    def hush(self) -> None:
        """Stop sending heartbeats."""
        self._hushed.set()

    def tell(self, *messages: Message) -> None:
        self.write(b"".join(map(encode, messages)))

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with self._lock:
            if not self.process.stdin.closed:
                try:
                    self.process.stdin.buffer.raw.write(data)
                except BrokenPipeError:
                    self.hush()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.hush()
        with self._lock:
            self.process.stdin.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [each for each in map(json.loads, self.seen) if "event" in each]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., list[Channel]]]:
    """Start all ranks of a group by their channels."""
    runs: list[Channel] = []

    def start(group: list[Rank], **options: Any) -> list[Channel]:
        keys = [encode_public_key(rank.key) for rank in group]
        for rank in group:
            tmp = tmp_path / f"tmp{rank.number}"
            tmp.mkdir()
            # The rank's home already has an identity.
            (rank.home / "cluster-wireproto" / "identity.pem").write_bytes(rank.identity.read_bytes())
            (rank.home / "cluster-wireproto" / "identity.pem").chmod(0o600)
            runs.append(Channel(rank, tmp))
            plan = Plan(rank=rank.number, ips=tuple(each.ip for each in group), backend="ring", stdin=True)
            fields = plan_fields(plan, **options)
            runs[-1].tell(Start(version=metadata.version("cluster-wireproto"), directory="/", plan=fields, keys=keys))
        return runs

    yield start
    for run in runs:
        run.hush()
        run.kill_all()


def test_input_reaches_rank_0_and_its_end_closes_only_that(
    ranks: Callable[[int], list[Rank]], launched: Starting, nothing_left: Check
) -> None:
    """Both programs run to their end; rank 1's reads /dev/null."""
    group = ranks(2)
    zero, one = launched(group, command=ECHO)
    zero.tell(Input(b"one\n"), Input(b"two\n"), InputEnd())
    assert [zero.end(), one.end()] == [0, 0], (zero.events, zero.stderr, one.events, one.stderr)
    assert output(zero) == ["begun", "one", "two", "over"]
    assert output(one) == ["begun", "over"]
    assert zero.stderr == one.stderr == []
    for run in (zero, one):
        nothing_left(run, *group)


def test_a_program_that_does_not_read_holds_up_no_stop(
    ranks: Callable[[int], list[Rank]], launched: Starting, nothing_left: Check
) -> None:
    """A full window is in transit; the pipe's contents count as read. A stop is like a signal to the rank."""
    group = ranks(2)
    zero, one = launched(group, command=("/bin/sh", "-c", "echo begun; exec sleep 600"))
    zero.tell(*[Input(bytes(CHUNK))] * (WINDOW // CHUNK))
    for number, run in enumerate((zero, one)):
        run.until(("output", number))
    counts = [event["bytes"] for event in map(json.loads, zero.seen) if event.get("type") == "taken"]
    assert 0 < counts[-1] < WINDOW
    for run in (zero, one):
        run.tell(Stop(signal.SIGINT))
    assert [zero.end(), one.end()] == [130, 130]
    for run in (zero, one):
        assert of(run, "error") == []
        nothing_left(run, *group)


def test_a_rank_ends_when_its_launcher_is_gone(
    ranks: Callable[[int], list[Rank]], launched: Starting, nothing_left: Check
) -> None:
    """A clean end with its own reason, which the other rank is told. One that is silent is in the simulation."""
    group = ranks(2)
    program = "trap 'echo saved; exit 0' TERM; echo begun; sleep 600 & wait"
    zero, one = launched(group, command=("/bin/sh", "-c", program))
    for number, run in ((1, one), (0, zero)):  # rank 0 only waits for a rank 1 that fails
        run.until(("output", number))
    one.close()
    assert [one.end(), zero.end()] == [125, 125], (one.events, zero.events)
    for run in (one, zero):
        assert (error(run)["code"], error(run)["rank"]) == ("launcher-gone", 1)
    assert "saved" in output(one)
    for run in (zero, one):
        nothing_left(run, *group)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b"", "launcher-gone"),
        (encode(Heartbeat()) * 3, "launcher-gone"),
        (b'{"type":"heart', "launcher-gone"),
        (b"\n", "channel-malformed"),
        (encode(Start(version="1", directory="/", plan={}, keys=[])), "channel-malformed"),
        (encode(Stop(9)), "channel-malformed"),
        (encode(Input(b"for nobody")), "channel-malformed"),
        (encode(InputEnd()), "channel-malformed"),
        (b"x" * (MAX_LINE + 1), "channel-malformed"),
        (encode(Stop(15)) + encode(Heartbeat()), "SIGTERM"),
    ],
)
def test_what_ends_a_run(lines: bytes, code: str) -> None:
    """A rank without input gets `lines`, then its channel ends."""

    async def main() -> object:
        reading, writing = os.pipe()
        run = Run(EventQueue(), timeout=0, owns_process=False)

        def write() -> None:
            with os.fdopen(writing, "wb") as channel:
                channel.write(lines)

        async with following(run, reading, b"", None, lambda count: None):
            await asyncio.to_thread(write)
            with pytest.raises((ChannelError, Stopped)) as caught:
                await run.main(lambda _: asyncio.Event().wait())
        return caught.value

    error = asyncio.run(main())
    assert (error.code if isinstance(error, ChannelError) else str(error)) == code


@pytest.mark.parametrize("told", [[Input(bytes(2 * WINDOW))], [InputEnd(), Input(b"x")], [Input(b"")]])
def test_input_that_no_launcher_sends(told: list[Message]) -> None:
    """More than an unread window, more after the end, or none."""

    async def main() -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        program = ProgramInput(writing, lambda count: None)
        try:
            for message in told:
                program.put(message.data) if isinstance(message, Input) else program.end()
        finally:
            program.close()
            os.close(reading)

    with pytest.raises(ChannelError) as caught:
        asyncio.run(main())
    assert caught.value.code == "channel-malformed"


def test_an_ordinary_rank_goes_on_without_standard_input(up: Starting, pair: tuple[Rank, Rank]) -> None:
    zero = up(*pair, "--json")
    zero.process.stdin.close()
    one = up(*pair[::-1], "--json")
    zero.until(("holding", 0))
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"", "launcher-gone"),
        (b'{"type":"heartbeat"}\n', "channel-malformed"),
        (b"hello\n", "channel-malformed"),
        (
            encode(Start(version="0", directory="/", plan={"rank": 0, "ips": ["127.0.0.1", "127.0.0.2"]}, keys=[])),
            "package-version",
        ),
        (
            encode(Start(version="0", directory="/", plan={"rank": 9, "ips": ["127.0.0.1", "127.0.0.2"]}, keys=[])),
            "bad-rank",
        ),
        (encode(Start(version="0", directory="/", plan={"rnk": 9}, keys=[])), "channel-malformed"),
    ],
)
def test_a_wrong_start(first: bytes, code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bootstrap", "up", "--launched"],
        input=first,
        capture_output=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        check=False,
        timeout=60,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["event"], event["code"]) for event in events] == [("error", code), ("done", code)]
    has_plan = b'"plan"' in first  # of a group without a program
    assert (done.returncode, done.stderr) == (3 if has_plan else 125, b"")


def test_lines() -> None:
    for message in (
        Heartbeat(),
        Input(b"\0\xff\n"),
        InputEnd(),
        Stop(15),
        Start(version="1", directory="/", plan={"a": 1}, keys=["k"]),
    ):
        line = encode(message)
        assert line.count(b"\n") == 1
        assert decode(line) == message
    assert SILENCE_SECONDS == 10.0


@pytest.mark.parametrize("line", [b"", b"[]", b'{"type":"stop"}', b'{"type":"heartbeat","more":1}', b"[" * 100_000])
def test_a_malformed_line(line: bytes) -> None:
    with pytest.raises(ChannelError) as caught:
        decode(line)
    assert caught.value.code == "channel-malformed"


def test_a_plan_keeps_its_fields() -> None:
    plan = Plan(rank=1, ips=("127.0.0.1", "127.0.0.2"), devices=((None, "rdma_en5"), ("rdma_en4", None)), port=1234)
    start = Start(version="1", directory="/", plan=json.loads(json.dumps(plan_fields(plan))), keys=[])
    assert plan_of(start) == plan
