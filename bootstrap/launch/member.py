"""A rank that the launcher has started: its input, its output, and how it ended."""

import asyncio
import json
from collections.abc import Callable
from typing import Final, Protocol, cast

import msgspec
from msgspec import structs

from bootstrap.errors import BootstrapError
from bootstrap.events import EVENTS, EventDict
from bootstrap.launch.channel import CHUNK, WINDOW, Heartbeat, Input, InputEnd, Start, Stop, encode, taken
from bootstrap.launch.ssh import EXIT_OF_SSH, Connection, HostError
from wireproto.errors import printable

_KNOWN: Final = {
    name: frozenset(each.encode_name for each in structs.fields(kind)) | {"event"} for name, kind in EVENTS.items()
}


class RankError(BootstrapError):
    """A rank has failed. `rank` is the cause, `exit_code` belongs to the rank that reports it."""

    def __init__(self, message: str, *, code: str, stage: str, rank: int | None, exit_code: int) -> None:
        super().__init__(message, code=code)
        self.stage, self.rank, self.exit_code = stage, rank, exit_code


class Failure:
    """A rank's failure, with a weight that is higher if it is about another rank, or a link or group that it misses."""

    def __init__(self, rank: int, error: "RankError | HostError", order: int) -> None:
        self.error = error
        # A rank's report about itself is better than one about another rank; and a link breaks for a reason.
        misses = error.stage == "link" or error.code == "deadline"
        self.weight = (error.rank not in (rank, None), misses, order)


class Listener(Protocol):
    """Receives a member's events and lines."""

    def heard(self, member: "Member", event: EventDict) -> None: ...

    def wrote(self, member: "Member", stream: str, line: str, partial: bool) -> None: ...

    async def room(self) -> None:
        """Wait until more output can be shown."""


class Member:
    """The rank at the other end of a connection."""

    def __init__(self, connection: Connection, size: int, listener: Listener, now: Callable[[], float]) -> None:
        self.connection = connection
        self.rank = connection.host.rank
        self.error: RankError | HostError | None = None
        self.has_spoken = False
        self.is_over = False
        self._size, self._listener, self._now = size, listener, now
        self.began = now()
        self._started: float | None = None  # on the launcher's clock, in ms
        self._event: EventDict | None = None  # its error
        self._done: EventDict | None = None
        self._command_status = self._sent = self._taken = 0
        self._room = asyncio.Event()

    # -- input ---------------------------------------------------------------------------------------------------------

    def start(self, start: Start) -> None:
        self.connection.tell(encode(start))

    def beat(self) -> None:
        """Send a heartbeat, unless earlier lines are still queued."""
        if not self.connection.lags:
            self.connection.tell(encode(Heartbeat()))

    def stop(self, number: int) -> None:
        self.connection.tell(encode(Stop(number)))

    async def feed(self, data: bytes) -> bool:
        """Send input as the window allows. Return whether the rank still accepts input."""
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            while self._sent - self._taken + len(piece) > WINDOW and not self.is_over:
                self._room.clear()
                await self._room.wait()
            if self.is_over:
                return False
            self._sent += len(piece)
            self.connection.tell(encode(Input(piece)))
        return not self.is_over

    def end_input(self) -> None:
        self.connection.tell(encode(InputEnd()))

    # -- output --------------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Take all output, which must begin in time, until the rank ends. `error` then tells how it failed, if so."""
        seconds = self.connection.host.seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                async for line in self.connection.lines():
                    limit.reschedule(None)
                    self._take(line)
                    await self._listener.room()
                status = await self.connection.ended()
        except TimeoutError:
            self.error = self.connection.silence(seconds)
            await self.connection.kill()
        except HostError as error:
            self.error = error
            await self.connection.kill()
        else:
            self.error = self._verdict(status)
        finally:
            self.is_over = True
            self._room.set()

    def _take(self, line: bytes) -> None:
        if (count := taken(line)) is not None:
            self._taken = min(count, self._sent)
            self._room.set()
            return
        event = self._parse(line)
        self.has_spoken = True
        match event["event"]:
            case "output":
                text, stream = str(event["line"]), str(event["stream"])
                self._listener.wrote(self, stream, text, event.get("partial") is True)
            case "error":
                self._event = self._event or event
            case "done":
                self._done = event
            case name:
                if name == "command-ended":
                    self._command_status = cast(int, event["status"])
                self._listener.heard(self, event)

    def _parse(self, line: bytes) -> EventDict:
        """Return the event in a line, reduced to known members, with the launcher's rank and time."""
        try:
            told = json.loads(line)
            kind = EVENTS[told["event"]]
            msgspec.convert(told, kind)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            text = f"it wrote a line that is not an event: {printable(line[:80].decode(errors='backslashreplace'))}"
            raise HostError(self.connection.host, text, code="host-answer") from error
        name = str(told["event"])
        event = {key: value for key, value in told.items() if key in _KNOWN[name]}
        if name != "output":
            event = cast(EventDict, _shown(event))
        blames = event.get("rank")
        if name != "error" or not isinstance(blames, int) or not 0 <= blames < self._size:
            event["rank"] = self.rank
        if isinstance(at := event.get("t_ms"), int | float):
            if self._started is None:
                self._started = self._now() - at
            event["t_ms"] = round(self._started + at, 1)
        return event

    @property
    def backend(self) -> str | None:
        """The backend of its group, known at the end."""
        told = None if self._done is None else self._done.get("backend")
        return told if isinstance(told, str) else None

    # -- how it ended --------------------------------------------------------------------------------------------------

    def _verdict(self, status: int) -> RankError | HostError | None:
        event, done = self._event, self._done
        if event is not None:
            return RankError(
                str(event["message"]),
                code=str(event["code"]),
                stage=str(event["stage"]),
                rank=cast("int | None", event["rank"]),
                exit_code=self._code(status),
            )
        if done is None:
            return self.connection.failure(status)
        if status:
            text = f"rank {self.rank} was stopped on {self.connection.host.name}"
            return RankError(text, code="interrupted", stage="run", rank=self.rank, exit_code=self._code(status))
        return None

    def _code(self, status: int) -> int:
        """Return the exit code of a rank with this status; 0 if it is unknown: a signal, or ssh's own status.

        Its program may have had the same status as ssh, which the rank then has told.
        """
        return self._command_status if status < 0 or status == EXIT_OF_SSH else status


def _shown(value: object) -> object:
    """Return a JSON value without control characters."""
    match value:
        case str():
            return printable(value)
        case list():
            return [_shown(each) for each in value]
        case dict():
            return {_shown(key): _shown(each) for key, each in value.items()}
        case _:
            return value
