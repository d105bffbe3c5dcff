"""The output of `wireproto inspect`: lines, lines with every byte, or JSON objects."""

import json
import sys
from collections import Counter
from typing import Any, Final

import typer

from wireproto.errors import printable
from wireproto.inspection.hexdump import FAULT, ROW, Line, dump
from wireproto.inspection.reading import Reading
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.timeline import as_json, summary, title

_TITLES: Final[dict[Kind, dict[str, Any]]] = {
    Kind.MESSAGE: {"fg": "cyan", "bold": True},
    Kind.BROKEN: {"fg": "red", "bold": True},
    Kind.LOST: {"fg": "yellow"},
    Kind.SKIPPED: {"fg": "yellow"},
    Kind.LATE: {"fg": "yellow"},
    Kind.OPENED: {"bold": True},
}


class Tally:
    """Counts over all entries."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.sessions = 0
        self.lost = 0
        """Bytes missing from the capture."""
        self.late = 0
        """Bytes captured too late to be read."""

    def add(self, entry: Entry) -> None:
        self.kinds[entry.kind] += 1
        self.sessions = max(self.sessions, entry.connection)
        self.lost += entry.lost
        if entry.kind is Kind.LATE:
            self.late += entry.size

    @property
    def is_good(self) -> bool:
        """Return whether there are messages and nothing is broken."""
        messages = self.kinds.keys() & {Kind.MESSAGE, Kind.SEALED, Kind.LONG}
        return bool(messages) and not self.kinds[Kind.BROKEN]


class JsonReport:
    """Write a JSON object for each entry, and one at the end."""

    def entry(self, entry: Entry) -> None:
        sys.stdout.write(as_json(entry) + "\n")

    def done(self, tally: Tally, reading: Reading, fault: str | None) -> None:
        cut, longest_cut = reading.cut
        done: dict[str, Any] = {"kind": "done", "ok": tally.is_good and fault is None}
        done |= {kind.value: tally.kinds[kind] for kind in Kind}
        done |= {
            "lost_bytes": tally.lost,
            "late_bytes": tally.late,
            "repeated_bytes": reading.repeated,
            "packets": reading.packets,
            "packets_without_tcp": dict(reading.others),
            "cut_packets": cut,
            "snapshot_length": longest_cut or None,
            "dropped_packets": reading.dropped,
            "other_connections": reading.other_connections,
            "other_bytes": reading.other_bytes,
            "unread_bytes": reading.unread_bytes,
            "fault": fault,
        }
        sys.stdout.write(json.dumps(done) + "\n")


class TextReport:
    """Write a line for each entry, with times since the first; `with_bytes` adds hex dumps. In colour on a terminal."""

    def __init__(self, with_bytes: bool) -> None:
        self._with_bytes = with_bytes
        self._start: float | None = None
        self._is_terminal = sys.stdout.isatty()

    def entry(self, entry: Entry) -> None:
        if self._start is None:
            self._start = entry.time
        when = self._style(f"{(entry.time - self._start) * 1000:11.3f} ms", dim=True)
        who = "       " if entry.sender is None else f"{entry.sender} → {1 - entry.sender}  "
        name = self._style(f"{title(entry):<17}", **_TITLES.get(entry.kind, {}))
        size = f"{entry.size:>9,} B" if entry.size else " " * 11
        sealed = "sealed" if entry.sealed else "      "
        line = f"{when}  #{entry.connection}  {who}{name}{size}  {sealed}  {summary(entry)}"
        sys.stdout.write(line.rstrip() + "\n")
        if self._with_bytes:
            for each in dump(entry):
                sys.stdout.write(self._dumped(each) + "\n")

    def done(self, tally: Tally, reading: Reading, fault: str | None) -> None:
        kinds = tally.kinds
        texts = [
            f"sessions {tally.sessions}",
            f"messages {kinds[Kind.MESSAGE]}",
            f"broken {kinds[Kind.BROKEN]}",
        ]
        if kinds[Kind.SEALED]:
            texts.append(f"left sealed {kinds[Kind.SEALED]} (--keylog opens them)")
        if kinds[Kind.LONG]:
            texts.append(f"too long {kinds[Kind.LONG]}")
        if tally.lost:
            texts.append(f"bytes missing from the capture {tally.lost:,}")
        if tally.late:
            texts.append(f"bytes too late {tally.late:,}")
        if reading.repeated:
            texts.append(f"bytes repeated {reading.repeated:,}")
        cut, longest_cut = reading.cut
        if cut:
            texts.append(f"packets cut {cut} (snapshot length {longest_cut})")
        if reading.dropped:
            texts.append(f"packets dropped by the recorder {reading.dropped}")
        if reading.others:
            names = ", ".join(f"{printable(name)} {count}" for name, count in reading.others.most_common())
            texts.append(f"packets without TCP {reading.others.total()} ({names})")
        if reading.other_connections:
            texts.append(f"other TCP connections {reading.other_connections} ({reading.other_bytes:,} bytes)")
        sys.stdout.write(", ".join(texts) + "\n")

    def _dumped(self, line: Line | str) -> str:
        if isinstance(line, str):
            return self._style(f"      {line}", bold=True)
        colour = {"dim": True} if line.colour == "dim" else {"fg": line.colour}
        if line.colour == FAULT:
            colour = {"fg": "white", "bg": "red"}
        if not line.data:
            return self._style(f"      {line.offset:08x}  … {line.value}", **colour)
        digits = " ".join(f"{byte:02x}" for byte in line.data)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line.data)
        field = f"{line.field} = {line.value}" if line.value else line.field
        parts = [f"      {line.offset:08x}", self._padded(digits, 3 * ROW - 1, colour), self._padded(text, ROW, colour)]
        return "  ".join([*parts, self._style(printable(field), **colour)]).rstrip()

    def _padded(self, text: str, width: int, colour: dict[str, Any]) -> str:
        """Return text in colour, except for trailing spaces."""
        return self._style(text, **colour) + " " * (width - len(text))

    def _style(self, text: str, **colour: Any) -> str:
        return typer.style(text, **colour) if self._is_terminal and colour else text
