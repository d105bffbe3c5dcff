"""The events of a run, in the order in which things happen: for `bootstrap.rank`, and as JSON for `--json`.

In JSON an event is an object whose `event` is the class's name in kebab case, unless its `tag` says otherwise.
"""

import re
from typing import Final, Literal, Protocol

from msgspec import Struct, field, structs

EventDict = dict[str, object]
"""An event as it is reported and written."""


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="event", tag=_kebab):
    """Something that happened on this rank. `peer` is always the rank at the other end of a link."""

    rank: int | None = None
    """The rank that it happened on; None for an error that no rank is to blame for."""
    t_ms: float | None = None
    """Milliseconds since the start of the run; None for output."""


class Loaded(Event, frozen=True):
    """MLX is loaded, in its own process."""

    backend: str
    version: str
    gather_factory: bool
    """Whether this MLX can be given another side channel."""


class Started(Event, frozen=True):
    """The process that holds MLX, or the command, runs."""

    pid: int


class Listening(Event, frozen=True):
    """This rank waits for rank 0 to connect."""

    host: str
    port: int


class Connected(Event, frozen=True):
    """A link is up."""

    peer: int
    host: str
    port: int


class Established(Event, frozen=True):
    """The handshake is complete."""

    peer: int


class Confirmed(Event, frozen=True):
    """The peer has proved that it holds its identity key."""

    peer: int


class PeerMoved(Event, frozen=True):
    """A peer was confirmed at another address than the last one, and its pin has that address now."""

    peer: int
    name: str
    """Of the pin."""
    address: str


class Health(Event, frozen=True):
    """Rank 0: how a session does."""

    peer: int
    state: Literal["ready", "degraded", "unavailable"]
    missed: int
    """Pongs missed in a row."""


class Pong(Event, frozen=True):
    """Rank 0: an answer to a ping."""

    peer: int
    model_loaded: bool = field(name="modelLoaded")
    inference_in_flight: bool = field(name="inferenceInFlight")
    memory_pressure: str = field(name="memoryPressure")


class BootstrapSent(Event, frozen=True):
    """Rank 0 has sent jacclBootstrap."""

    peer: int
    port: int
    session_id: str


class BootstrapReceived(Event, frozen=True):
    """Rank 0's jacclBootstrap has arrived."""

    peer: int
    port: int
    session_id: str


class Ignored(Event, frozen=True):
    """A message had no place where it came."""

    peer: int
    name: str


class SessionEnded(Event, frozen=True):
    """Rank 0 has ended the session in order."""

    peer: int


class LinkLost(Event, frozen=True):
    """A connection failed, or could not be made."""

    peer: int | None
    """The other rank; None on a rank that listens, where anybody can connect."""
    host: str
    code: str
    message: str
    retry_s: float | None
    """Seconds to the next attempt; None where this rank makes none."""


class Waiting(Event, frozen=True):
    """Something has to change before the run goes on."""

    what: str


class Restarting(Event, frozen=True):
    """A link was lost, and another bootstrap follows."""

    left: int
    message: str


class Reaped(Event, frozen=True):
    """Processes that an earlier, killed run had left were ended."""

    pids: list[int]


class FileWritten(Event, frozen=True):
    """The file that MLX reads is there."""

    path: str
    format: str


class EnvironmentSet(Event, frozen=True):
    """The variables that MLX reads are set, and contradicting ones cleared."""

    variables: dict[str, str]
    cleared: list[str]


class GroupReady(Event, frozen=True):
    """MLX has formed the group."""

    size: int
    backend: str


class SumChecked(Event, frozen=True):
    """An all_sum over all ranks was right."""

    value: int


class SumSkipped(Event, frozen=True):
    """No all_sum was made, since not every rank is known to take part in one."""

    reason: str


class Holding(Event, frozen=True):
    """The group is up on every rank, and held until the run ends."""


class Running(Event, frozen=True):
    """The group is up, and the module or script runs in the process that has formed it."""

    program: str
    all_ready: bool
    """Every rank has said so; False where the ranks cannot tell each other, and only this one is known to be ready."""


class Finished(Event, frozen=True):
    """Another rank has finished."""

    peer: int


class Unfinished(Event, frozen=True):
    """This rank has finished, and waits for others."""

    ranks: list[int]


class CommandEnded(Event, frozen=True):
    """The command ended; a signal counts as 128 and its number."""

    status: int


class WouldWrite(Event, frozen=True):
    """A dry run: the file that MLX would read."""

    path: str
    format: str
    content: str


class WouldSet(Event, frozen=True):
    """A dry run: the variables that would be set and cleared."""

    variables: dict[str, str]
    cleared: list[str]


class Warned(Event, frozen=True, tag="warning"):
    """Something may go wrong."""

    message: str


class Consequence(Event, frozen=True):
    """This rank failed too, after another one."""

    stage: str
    code: str
    message: str


class Failed(Event, frozen=True, tag="error"):
    """The run has failed (commands only: `bootstrap.rank` raises the error)."""

    stage: str
    code: str
    message: str
    cause: str | None = None
    remedy: str | None = None
    retry: str | None = None
    """Whether to try again: see `bootstrap.advice`."""


class SshAsks(Event, frozen=True):
    """A launch: ssh asks the user about its rank's host, on the terminal."""

    host: str


class Ladders(Event, frozen=True):
    """A launch: each host's first check that is not as it has to be, or null."""

    rows: list[dict[str, object]]


class Looked(Event, frozen=True):
    """A launch has looked for what its rank has left on a host."""

    host: str
    left: str
    """What is there; empty for nothing."""
    not_checked: str | None
    """Why nobody can tell; None where the host has answered."""


class Output(Event, frozen=True):
    """A line that the command wrote, or a part of one."""

    stream: Literal["stdout", "stderr"]
    line: str
    partial: bool = False
    """The line goes on in the next event."""


class Log(Event, frozen=True):
    """A log line of the process that holds MLX (`bootstrap.rank` only)."""

    line: str


class Done(Event, frozen=True):
    """The run has ended (commands only)."""

    ok: bool
    code: str | None = None
    """Of the failure."""
    ranks: int | None = None
    backend: str | None = None
    dry_run: bool = False
    stopped: bool = False
    status: int | None = None
    """The command's exit status."""


EVENTS: Final[dict[str, type[Event]]] = {str(kind.__struct_config__.tag): kind for kind in Event.__subclasses__()}
"""By `event`."""
FIELDS: Final = {
    name: tuple(each.encode_name for each in structs.fields(kind) if each.required) for name, kind in EVENTS.items()
}
"""The members that each event has besides `event`, `rank` and `t_ms`."""


class OnStep(Protocol):
    """Called with an event's name and fields, right after the step."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def silent(event: str, /, **fields: object) -> None:
    """No-op listener."""
