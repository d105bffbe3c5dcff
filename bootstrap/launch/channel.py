"""The channel from the launcher to a rank: the standard input of `jaccl-bootstrap up --launched`.

JSON lines: first Start with everything that the rank needs, so that no argument or variable exposes it; then a
Heartbeat every 2 s, rank 0's Input and InputEnd, and Stop. The end of the channel, or 10 s without a line, ends the
rank. The rank answers on its standard output: the events of `up --json`, `log` for its log lines, and Taken.

At most WINDOW bytes of input are in flight, so a program that does not read its input blocks neither heartbeats nor a
stop.
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
"""After so long without a line, the launcher counts as gone."""
MAX_LINE: Final = 1024 * 1024
WINDOW: Final = 256 * 1024
"""Bytes of input that may be in flight to the program."""
CHUNK: Final = 32 * 1024
"""Maximum bytes in one Input."""


class ChannelError(BootstrapError):
    """The launcher is gone, or has sent something invalid."""

    stage = "channel"


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """A line of the channel."""


class Start(_Message, frozen=True, kw_only=True):
    """The next action of the rank."""

    version: str
    """The launcher's version of the package."""
    directory: str
    """The launcher's directory, where the program runs if the rank's host has it."""
    plan: dict[str, object]
    """Fields of `Plan`, not checked here, since module and directory are on the rank's host."""
    keys: list[str]
    """The public identity keys of all ranks in base64."""


class Heartbeat(_Message, frozen=True):
    """The launcher is alive."""


class Input(_Message, frozen=True):
    """Standard input for rank 0's program."""

    data: bytes


class InputEnd(_Message, frozen=True):
    """The end of the input."""


class Stop(_Message, frozen=True):
    """End the rank as this signal would."""

    signal: int


class Taken(_Message, frozen=True):
    """From rank 0: how many bytes of input it has passed to its program so far."""

    bytes: int


Message = Start | Heartbeat | Input | InputEnd | Stop

_MESSAGE: Final = msgspec.json.Decoder(Message)
_TAKEN: Final = msgspec.json.Decoder(Taken)


def encode(message: Message | Taken) -> bytes:
    """Return a message's line."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """Return the message in a line. Raise ChannelError (`channel-malformed`)."""
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
    text = f"the launcher's channel has something else: {why}; use --launched only from launch"
    return ChannelError(text, code="channel-malformed")


def gone() -> ChannelError:
    return ChannelError("the launcher is gone: its channel has ended; launch again", code="launcher-gone")


def silent() -> ChannelError:
    return ChannelError(f"the launcher sent nothing for {SILENCE_SECONDS:g} s; launch again", code="launcher-silent")


def read_start(descriptor: int, seconds: float = SILENCE_SECONDS) -> tuple[Start, bytes]:
    """Wait for the first line, Start; return it and the bytes after it. Raise ChannelError. This blocks."""
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
    """Return the plan. Raise ConfigError if it cannot work on this host."""
    if unknown := start.plan.keys() - Plan.__dataclass_fields__.keys():
        raise malformed(f"a plan has no {', '.join(sorted(unknown))}")
    try:
        return msgspec.convert(start.plan, Plan)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise malformed(str(error)) from error


def plan_fields(plan: Plan, **others: Any) -> dict[str, object]:
    """Return a plan's fields for Start. `others` are those that only the rank's own host can check."""
    fields: dict[str, object] = msgspec.to_builtins(plan)
    return {**fields, **others}
