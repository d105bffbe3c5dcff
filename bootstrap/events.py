"""The one way in which a step says that it happened."""

from typing import Final, Protocol

Event = dict[str, object]

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "started": ("pid",),
    "listening": ("host", "port"),
    "link-up": ("peer", "host", "port"),
    "frame-sent": ("peer", "type", "name", "port", "session_id", "bytes"),
    "frame-received": ("peer", "type", "name", "port", "session_id", "bytes"),
    "file-written": ("path", "format"),
    "environment-set": ("variables", "cleared"),
    "group-ready": ("size", "backend"),
    "sum-checked": ("value",),
    "error": ("stage", "code", "message"),
    "done": ("ok", "ranks", "backend"),
}
"""The fields of each event. `peer` is the other rank, `bytes` counts a cluster frame, `done` has `code` where not `ok`.

On the way out each also has `event`, `rank` (null where no rank is to blame; not on `done`), and `t_ms`, the
milliseconds since the start.
"""


class OnStep(Protocol):
    """Called with an event's name and fields, right after the step."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def silent(event: str, /, **fields: object) -> None:
    """The listener that nobody gave."""
