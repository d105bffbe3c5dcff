"""The events of a run in chronological order: for `bootstrap.rank`, and as JSON for `--json`.

In JSON an event is an object whose `event` is the class name in kebab case, or the class's `tag`.
"""

import re
from typing import Final, Literal, Protocol

from msgspec import Struct, field, structs

EventDict = dict[str, object]
"""An event as reported and written."""


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="event", tag=_kebab):
    """Something that happened on this rank. `peer` is always the rank at the other end of a link."""

    rank: int | None = None
    """The rank at which it happened; None for an error that no rank caused."""
    t_ms: float | None = None
    """Milliseconds since the start of the run; None for output."""


class Loaded(Event, frozen=True):
    """MLX is loaded, in its own process."""

    backend: str
    version: str
    gather_factory: bool
    """Whether this MLX accepts another side channel."""


class Started(Event, frozen=True):
    """The process with MLX, or the command, has started."""

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
    """The peer has proved possession of its identity key."""

    peer: int


class PeerMoved(Event, frozen=True):
    """A peer was confirmed at a new address, which its pin now has."""

    peer: int
    name: str
    """The pin's name."""
    address: str


class Health(Event, frozen=True):
    """Rank 0: the state of a session has changed."""

    peer: int
    state: Literal["ready", "degraded", "unavailable"]
    missed: int
    """Consecutive missed pongs."""


class Pong(Event, frozen=True):
    """Rank 0: the answer to a ping."""

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
    """A message was unexpected and ignored."""

    peer: int
    name: str


class SessionEnded(Event, frozen=True):
    """Rank 0 has ended the session cleanly."""

    peer: int


class LinkLost(Event, frozen=True):
    """A connection failed or could not be made."""

    peer: int | None
    """The other rank; None on a listening rank, to which anyone can connect."""
    host: str
    code: str
    message: str
    retry_s: float | None
    """Seconds until the next attempt; None if this rank makes none."""


class Waiting(Event, frozen=True):
    """The run waits for something outside it."""

    what: str


class Restarting(Event, frozen=True):
    """This attempt failed, and another one follows."""

    left: int
    message: str


class Reaped(Event, frozen=True):
    """Processes left by an earlier, killed run were ended."""

    pids: list[int]


class FileWritten(Event, frozen=True):
    """The file for MLX is written."""

    path: str
    format: str


class EnvironmentSet(Event, frozen=True):
    """The variables for MLX are set, conflicting ones cleared."""

    variables: dict[str, str]
    cleared: list[str]


class GroupReady(Event, frozen=True):
    """MLX has formed the group."""

    size: int
    backend: str


class SumChecked(Event, frozen=True):
    """An all_sum over all ranks gave the right value."""

    value: int


class SumSkipped(Event, frozen=True):
    """No all_sum was made: not every rank is known to take part."""

    reason: str


class Holding(Event, frozen=True):
    """The group is up on every rank, and is held until the run ends."""


class Running(Event, frozen=True):
    """The group is up, and the module or script runs in the process that formed it."""

    program: str
    all_ready: bool
    """Whether every rank has reported ready; False if the ranks cannot tell each other."""


class Finished(Event, frozen=True):
    """Another rank has finished."""

    peer: int


class Unfinished(Event, frozen=True):
    """This rank has finished and waits for others."""

    ranks: list[int]


class CommandEnded(Event, frozen=True):
    """The command ended; a signal counts as 128 plus its number."""

    status: int


class WouldWrite(Event, frozen=True):
    """A dry run: the file for MLX."""

    path: str
    format: str
    content: str


class WouldSet(Event, frozen=True):
    """A dry run: the variables to set and to clear."""

    variables: dict[str, str]
    cleared: list[str]


class Warned(Event, frozen=True, tag="warning"):
    """Something may go wrong."""

    message: str


class Consequence(Event, frozen=True):
    """This rank failed after another one did."""

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
    """Whether a retry is safe: see `bootstrap.advice`."""


class SshAsks(Event, frozen=True):
    """A launch: ssh prompts the user on the terminal."""

    host: str


class Ladders(Event, frozen=True):
    """A launch: each host's most important check that is not green, or null."""

    rows: list[dict[str, object]]


class Looked(Event, frozen=True):
    """A launch has looked for what its rank left behind on a host."""

    host: str
    left: str
    """The remains; empty for nothing."""
    not_checked: str | None
    """Why that is unknown; None if the host has answered."""


class Output(Event, frozen=True):
    """A line of the command's output, or part of one."""

    stream: Literal["stdout", "stderr"]
    line: str
    partial: bool = False
    """The line continues in the next event."""


class Log(Event, frozen=True):
    """A log line of the process with MLX (`bootstrap.rank` only)."""

    line: str


class Done(Event, frozen=True):
    """The run has ended (commands only)."""

    ok: bool
    code: str | None = None
    """The failure's code."""
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
"""The required members of each event, besides `event`, `rank` and `t_ms`."""


class OnStep(Protocol):
    """Receives an event's name and fields right after the step."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def silent(event: str, /, **fields: object) -> None:
    """No-op listener."""
