"""The channel from the launcher to a rank: the standard input of `jaccl-bootstrap up --launched`.

JSON lines: Start first, with all that the rank has to know, so that no argument or variable shows it to others; then a
Heartbeat every 2 s, rank 0's Input and its InputEnd, and Stop. The end of the channel, or 10 s without a line, ends the
rank. The way back is its standard output: the events of `up --json`, `log` for its log lines, and Taken.

At most WINDOW bytes of input are on their way: a program that does not read its input holds up neither heartbeats nor
a stop.
"""

import os
import select
import time
from typing import Any, Final

import msgspec

from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.plan import Plan

HEARTBEAT_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 10.0
"""Without a line for so long, the launcher counts as gone."""
MAX_LINE: Final = 1024 * 1024
WINDOW: Final = 256 * 1024
"""Bytes of input that the launcher may send before the rank has passed them on."""
CHUNK: Final = 32 * 1024
"""Bytes in one Input."""


class ChannelError(BootstrapError):
    """The launcher is gone, or has sent what no launcher sends."""

    stage = "channel"


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """A line of the channel."""


class Start(_Message, frozen=True, kw_only=True):
    """What the rank is to do."""

    version: str
    """Of the launcher's package."""
    directory: str
    """The launcher's: the program runs there, if the rank's host has it."""
    plan: dict[str, object]
    """Fields of `Plan`: not checked here, since module and directory are on the rank's host."""
    keys: list[str]
    """Every rank's public identity key, in base64."""


class Heartbeat(_Message, frozen=True):
    """The launcher lives."""


class Input(_Message, frozen=True):
    """What rank 0's program is to read."""

    data: bytes


class InputEnd(_Message, frozen=True):
    """No more input comes."""


class Stop(_Message, frozen=True):
    """End the rank as this signal would."""

    signal: int


class Taken(_Message, frozen=True):
    """From rank 0: how many bytes of input it has passed on so far."""

    bytes: int


Message = Start | Heartbeat | Input | InputEnd | Stop

_MESSAGE: Final = msgspec.json.Decoder(Message)
_TAKEN: Final = msgspec.json.Decoder(Taken)


def encode(message: Message | Taken) -> bytes:
    """Return a message's line."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of a line; ChannelError (`channel-malformed`) if there is none."""
    try:
        message: Message = _MESSAGE.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(str(error)) from error
    return message


def taken(line: bytes) -> int | None:
    """Return the number of bytes if the line is a Taken."""
    if not line.startswith(b'{"type"'):
        return None
    try:
        return _TAKEN.decode(line).bytes
    except msgspec.DecodeError:
        return None


def malformed(why: str) -> ChannelError:
    return ChannelError(f"the channel of the launcher holds something else: {why}", code="channel-malformed")


def gone() -> ChannelError:
    return ChannelError("the launcher has gone: its channel has ended", code="launcher-gone")


def silent() -> ChannelError:
    return ChannelError(f"the launcher was not heard of for {SILENCE_SECONDS:g} s", code="launcher-silent")


def read_start(descriptor: int, seconds: float = SILENCE_SECONDS) -> tuple[Start, bytes]:
    """Wait for the first line, which is Start; return it and the bytes after it. ChannelError. This blocks."""
    limit = time.monotonic() + seconds
    held = b""
    while b"\n" not in held:
        if not select.select([descriptor], [], [], max(0.0, limit - time.monotonic()))[0]:
            raise silent()
        data = os.read(descriptor, 65536)
        if not data:
            raise gone()
        held += data
        if len(held) > MAX_LINE:
            raise malformed("a line without an end")
    line, _, rest = held.partition(b"\n")
    message = decode(line)
    if not isinstance(message, Start):
        raise malformed("it does not begin with a start")
    return message, rest


def plan_of(start: Start) -> Plan:
    """Return the plan that is to be carried out; ConfigError for one that cannot work on this host."""
    if unknown := start.plan.keys() - Plan.__dataclass_fields__.keys():
        raise malformed(f"a plan has no {', '.join(sorted(unknown))}")
    try:
        return msgspec.convert(start.plan, Plan)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise malformed(str(error)) from error


def plan_fields(plan: Plan, **others: Any) -> dict[str, object]:
    """Return a plan's fields for Start; `others` are those that only the rank's own host can check."""
    fields: dict[str, object] = msgspec.to_builtins(plan)
    return {**fields, **others}
