"""Sequence diagrams of sessions: one self-contained SVG file, black on white, fit for printing."""

from collections import deque
from collections.abc import Iterator
from html import escape
from typing import Final, NamedTuple

from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.timeline import address, summary, title

_HEAD, _TAIL = 150, 50
"""Rows drawn from the start and from the end of a longer session."""
_MAX_SESSIONS: Final = 32

_WIDTH, _LEFT, _RIGHT = 820, 170, 700
_ROW: Final = 42
_HEADING: Final = 100
_DETAIL: Final = 100
"""Characters that fit between the two ranks."""

_STYLE: Final = """
text { font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 12px; fill: #000 }
.title { font-size: 15px; font-weight: bold }
.name { font-weight: bold }
.small { font-size: 10px; fill: #333 }
.rank { fill: #fff; stroke: #000 }
.life { stroke: #888; stroke-dasharray: 2 4 }
.arrow { stroke: #000; stroke-width: 1.5 }
.fault { fill: #a00 }
.broken { stroke: #a00; stroke-width: 1.5; stroke-dasharray: 7 4 }
.end { stroke: #000; stroke-width: 4 }
"""


class _Row(NamedTuple):
    """One entry, as texts."""

    kind: Kind
    sender: int
    time: float
    is_frame: bool
    """Whether this is a frame, or part of one, from one rank to the other."""
    name: str
    size: str
    detail: str


class _Session:
    def __init__(self, entry: Entry) -> None:
        self.number = entry.connection
        self.start = entry.time
        self.ends = ("", "") if entry.ends is None else (address(entry.ends[0]), address(entry.ends[1]))
        self.note = entry.note
        self.head: list[_Row] = []
        self.tail: deque[_Row] = deque(maxlen=_TAIL)
        self.left_out = 0

    def add(self, row: _Row) -> None:
        if len(self.head) < _HEAD:
            self.head.append(row)
        else:
            self.left_out += len(self.tail) == _TAIL
            self.tail.append(row)


class SequenceDiagram:
    """Collects as many entries as fit in a picture, and draws them."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}
        self._left_out: set[int] = set()

    def add(self, entry: Entry) -> None:
        session = self._sessions.get(entry.connection)
        if session is None:
            if len(self._sessions) == _MAX_SESSIONS:
                self._left_out.add(entry.connection)
                return
            session = self._sessions[entry.connection] = _Session(entry)
        if entry.sender is not None:
            size = f"{entry.size} bytes" + (", sealed" if entry.sealed else "") if entry.size else ""
            name, detail = title(entry), summary(entry)
            is_gap = entry.kind is Kind.LOST and not entry.wire
            is_frame = not is_gap and entry.kind not in (Kind.SKIPPED, Kind.LATE)
            session.add(_Row(entry.kind, entry.sender, entry.time, is_frame, name, size, detail))

    def svg(self) -> str:
        """Return the picture: the sessions one below the other."""
        parts: list[str] = []
        top = 20
        for session in self._sessions.values():
            drawn = list(_session(session, top))
            parts += drawn
            top += _height(session)
        if self._left_out:
            parts.append(_text(20, top + 6, f"{len(self._left_out)} more sessions are not drawn"))
            top += 30
        height = max(top, 60)
        if not parts:
            parts = [_text(_WIDTH // 2, 30, "no session", "middle")]
        size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>'
        return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


def _rows(session: _Session) -> int:
    return len(session.head) + len(session.tail) + bool(session.left_out)


def _height(session: _Session) -> int:
    return _HEADING + _ROW * _rows(session) + 50


def _session(session: _Session, top: int) -> Iterator[str]:
    yield _text(20, top + 6, f"Session {session.number}", kind="title")
    if session.note:
        yield _text(110, top + 6, session.note, kind="small")
    bottom = top + _HEADING + _ROW * _rows(session)
    for rank, x in enumerate((_LEFT, _RIGHT)):
        yield f'<line class="life" x1="{x}" y1="{top + 60}" x2="{x}" y2="{bottom}"/>'
        yield f'<rect class="rank" x="{x - 80}" y="{top + 20}" width="160" height="40" rx="4"/>'
        yield _text(x, top + 37, f"rank {rank}", "middle", "name")
        yield _text(x, top + 52, session.ends[rank], "middle", "small")
    y = top + _HEADING
    for row in session.head:
        yield from _row(row, y, session.start)
        y += _ROW
    if session.left_out:
        yield _text((_LEFT + _RIGHT) // 2, y, f"… {session.left_out} more …", "middle")
        y += _ROW
    for row in session.tail:
        yield from _row(row, y, session.start)
        y += _ROW


def _row(row: _Row, y: int, start: float) -> Iterator[str]:
    middle = (_LEFT + _RIGHT) // 2
    source, target = (_LEFT, _RIGHT) if row.sender == 0 else (_RIGHT, _LEFT)
    yield _text(_LEFT - 90, y + 4, f"{(row.time - start) * 1000:.1f} ms", "end", "small")
    if row.kind is Kind.CLOSED:
        yield f'<line class="end" x1="{source - 14}" y1="{y}" x2="{source + 14}" y2="{y}"/>'
        beside = (source + 22, "start") if row.sender == 0 else (source - 22, "end")
        yield _text(beside[0], y + 4, f"{row.name} {row.detail}".strip(), beside[1])
        return
    if not row.is_frame:
        yield _text(middle, y - 3, row.name, "middle", "name fault")
        yield _text(middle, y + 12, _cut(row.detail), "middle", "small fault")
        return
    is_broken = row.kind in (Kind.BROKEN, Kind.LOST)
    step = 1 if target > source else -1
    tip = target - step * 3
    yield f'<line class="{"broken" if is_broken else "arrow"}" x1="{source}" y1="{y}" x2="{tip}" y2="{y}"/>'
    if row.kind is Kind.BROKEN:
        yield f'<path class="broken" d="M{tip - 6} {y - 6}l12 12m0 -12l-12 12" style="stroke-dasharray:none"/>'
    else:
        yield f'<path d="M{tip} {y}l{-step * 10} -5v10z"/>'
    yield _text(_LEFT + 14, y - 6, row.name, "start", "name fault" if is_broken else "name")
    yield _text(_RIGHT - 14, y - 6, row.size, "end", "small")
    yield _text(_LEFT + 14, y + 14, _cut(row.detail), "start", "small fault" if is_broken else "small")


def _cut(text: str) -> str:
    return text if len(text) <= _DETAIL else text[: _DETAIL - 1] + "…"


def _text(x: int, y: int, text: str, anchor: str = "start", kind: str = "") -> str:
    of_class = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{of_class}>{escape(text)}</text>'
