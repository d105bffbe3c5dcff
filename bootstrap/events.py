"""The one way in which a step says that it happened."""

from typing import Final, Protocol

Event = dict[str, object]

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "started": ("pid",),
    "listening": ("host", "port"),
    "connected": ("peer", "host", "port"),
    "established": ("peer",),
    "confirmed": ("peer",),
    "health": ("peer", "state", "missed"),
    "pong": ("peer", "modelLoaded", "inferenceInFlight", "memoryPressure"),
    "bootstrap-sent": ("peer", "port", "session_id"),
    "bootstrap-received": ("peer", "port", "session_id"),
    "ignored": ("peer", "name"),
    "session-ended": ("peer",),
    "link-lost": ("host", "code", "message", "retry_s"),
    "rehearsed": ("coordinator", "turned_away"),
    "waiting": ("what",),
    "restarting": ("left", "message"),
    "reaped": ("pids",),
    "loaded": ("backend", "version", "gather_factory"),
    "holding": (),
    "finished": ("peer",),
    "unfinished": ("ranks",),
    "warning": ("message",),
    "consequence": ("stage", "code", "message"),
    "output": ("stream", "line"),
    "command-ended": ("status",),
    "would-set": ("variables", "cleared"),
    "would-write": ("path", "format", "content"),
    "file-written": ("path", "format"),
    "environment-set": ("variables", "cleared"),
    "group-ready": ("size", "backend"),
    "sum-checked": ("value",),
    "sum-skipped": ("reason",),
    "error": ("stage", "code", "message"),
    "done": ("ok",),
}
"""The fields of each event. `peer` is the other rank; `retry_s` is null where no attempt follows; `done` has more of
its own, and `code` where not `ok`.

On the way out each also has `event`, `rank` (null where no rank is to blame; not on `done`), and `t_ms`, the
milliseconds since the start. An error has its advice, too: `cause`, `mend`, `retry`.
"""


class OnStep(Protocol):
    """Called with an event's name and fields, right after the step."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def silent(event: str, /, **fields: object) -> None:
    """The listener that nobody gave."""
