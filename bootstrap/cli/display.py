"""Shows a run's events: as plain lines, coloured lines on a terminal, or JSON lines."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

from bootstrap.control.output import Lines, Output, Stream, whole_characters
from bootstrap.events import EventDict
from bootstrap.launch.channel import Taken, encode
from bootstrap.launch.table import Row, render

LINES: Final = {
    "started": "started, process {pid}",
    "loaded": "MLX {version} loaded, backend {backend}",
    "listening": "listening on {host}:{port}",
    "connected": "link to rank {peer} at {host}:{port} is up",
    "established": "session with rank {peer} established",
    "confirmed": "rank {peer} confirmed",
    "peer-moved": "rank {peer} is pinned as {name}, whose address is now {address}",
    "health": "rank {peer} is {state}, missed pongs: {missed}",
    "pong": "pong from rank {peer}: model loaded {modelLoaded}, memory pressure {memoryPressure}",
    "bootstrap-sent": "sent jacclBootstrap (0x07) to rank {peer}: port {port}, session {session_id}",
    "bootstrap-received": "received jacclBootstrap (0x07) from rank {peer}: port {port}, session {session_id}",
    "ignored": "ignored unexpected {name} from rank {peer}",
    "session-ended": "rank {peer} ended the session",
    "link-lost": "link to {host} lost: {message}{retry}",
    "waiting": "waiting: {what}",
    "finished": "rank {peer} has finished",
    "unfinished": "waiting for other ranks to finish: {ranks}",
    "restarting": "restarting ({left} restarts left): {message}",
    "reaped": "ended processes left by an earlier run: {processes}",
    "warning": "warning: {message}",
    "consequence": "this rank then failed too: {message}",
    "holding": "holding the group; Ctrl-C ends it",
    "command-ended": "the command ended with exit status {status}",
    "would-set": "would set: {variables}{cleared}",
    "would-write": "would write {format} to {path}: {content}",
    "file-written": "{format} written to {path}",
    "environment-set": "environment set: {variables}{cleared}",
    "group-ready": "group ready: size {size}, {backend}",
    "sum-checked": "sum checked: {value}",
    "running": "{program} runs in the group: {readiness}",
    "ssh-asks": "{host}: ssh asks for input",
    "looked": "{host}: {found}",
    "sum-skipped": "no sum, only rank and size are checked: {reason}",
}
DRY_RUN: Final = "dry run: the link works; nothing was set or written"
STATUS: Final = "the command ended with exit status {status}"
STOPPED: Final = "stopped"
FORMED: Final = "{ranks} ranks form one {backend} group"
RETRY: Final = {
    "safe": "safe, no native code has run",
    "fix-first": "will fail until this is fixed",
    "unsafe": "risky, on jaccl each failed init can wedge the port until a reboot",
}
RANK_COLOURS: Final = ("36", "35", "33", "34")
_Source = tuple[int | None, str]
"""A rank and a stream of its program."""
_PIECES: Final = re.compile(rb"[^\r\n]*(?:\r?\n|\r)|[^\r\n]+")


class PlainDisplay:
    """Writes a line per step to stdout, log lines and errors to stderr. A command's bytes pass unchanged."""

    _is_coloured = False

    def __init__(self, prog: str, output: Output, has_prefix: bool = True) -> None:
        self._prog = prog
        self._output = output
        self._has_prefix = has_prefix
        self._pongs: dict[tuple[object, object], EventDict] = {}
        self._held: dict[_Source, bytes] = {}
        self._open: set[_Source] = set()  # those with an unfinished line

    def event(self, event: EventDict) -> None:
        if self._is_routine(event):
            return
        if event["event"] in ("environment-set", "output", "done", "error", "ssh-asks"):
            self._output.spin(None)
        if event["event"] == "error":
            where = "" if event["rank"] is None else f"rank {event['rank']}: "
            self._line("stderr", f"{self._prog}: {where}{event['message']}")
            if event["code"] != "output-failed":  # one line is enough there
                self._line("stderr", f"  likely cause: {event['cause']}")
                self._line("stderr", f"  what to do: {event['remedy']}")
                self._line("stderr", f"  trying again: {RETRY[str(event['retry'])]}")
        elif event["event"] == "ladders":
            self._ladders(event)
        elif event["event"] != "done" or event["ok"] or event.get("stopped"):
            self.step(*columns(event))

    def step(self, when: str, who: str, what: str) -> None:
        self._line("stdout", f"{when}  {who}  {what}")

    def _ladders(self, event: EventDict) -> None:
        """Show the table of all hosts if a check on one is not green."""
        rows = [Row.of_json(row) for row in cast("list[EventDict]", event["rows"])]
        if any(row.check is not None for row in rows):
            for line in render(rows, terminal=self._is_coloured).splitlines():
                self._line("stdout", line)

    def log(self, rank: int | None, line: str) -> None:
        self._line("stderr", line if rank is None else f"[rank {rank}] {line}")

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        """Show a command's bytes at once, each line prefixed with its rank. No character is split by another line."""
        source = rank, stream
        text = self._held.pop(source, b"") + data
        if data:
            text, self._held[source] = whole_characters(text)
        prefix = self._prefix(rank).encode() if self._has_prefix else b""
        shown = bytearray()
        for piece in _PIECES.findall(text):
            if source not in self._open:
                self._end_open_lines(stream)
                shown += prefix
            shown += piece
            (self._open.discard if piece.endswith((b"\n", b"\r")) else self._open.add)(source)
        self._output.write(cast(Stream, stream), bytes(shown))
        if not data:
            self._end_open_lines(stream)

    def _prefix(self, rank: int | None) -> str:
        return f"[rank {rank}] "

    def quiet(self, rank: int | None, stream: str) -> None:
        pass

    def full(self, stream: str) -> bool:
        return self._output.full(cast(Stream, stream))

    async def failed(self) -> OSError:
        return await self._output.failed()

    def _is_routine(self, event: EventDict) -> bool:
        """Whether a pong repeats the one before it."""
        if event["event"] != "pong":
            return False
        key, news = (event["rank"], event["peer"]), {**event, "t_ms": 0}
        same = self._pongs.get(key) == news
        self._pongs[key] = news
        return same

    def _line(self, stream: Stream, text: str) -> None:
        self._end_open_lines(stream)
        self._output.line(stream, text)

    def _end_open_lines(self, stream: str) -> None:
        """End the unfinished lines of a stream, so that other lines start on their own."""
        for each in [each for each in self._open if each[1] == stream or self._output.same_file()]:
            self._output.write(cast(Stream, each[1]), b"\n")
            self._open.discard(each)


class JsonDisplay(PlainDisplay):
    """Writes each event to stdout as a line of JSON, and errors to stderr too."""

    def __init__(self, prog: str, output: Output) -> None:
        super().__init__(prog, output)
        self._lines = Lines(self.event)

    def event(self, event: EventDict) -> None:
        self._output.line("stdout", json.dumps(event))
        if event["event"] == "error":
            super().event(event)

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        self._lines.take(rank, stream, data)

    def quiet(self, rank: int | None, stream: str) -> None:
        self._lines.quiet(rank, stream)


class TerminalDisplay(PlainDisplay):
    """Writes the plain lines in colour, above a spinner until a command runs."""

    _is_coloured = True

    def step(self, when: str, who: str, what: str) -> None:
        colour = _colour(int(who.split()[-1])) if who.startswith("rank") else "1;32"
        good = what.startswith(("group ready", "sum checked")) or colour == "1;32"
        text = f"\x1b[32m{what}\x1b[0m" if good else what
        self._line("stdout", f"\x1b[2m{when}\x1b[0m  \x1b[{colour}m{who}\x1b[0m  {text}")

    def _prefix(self, rank: int | None) -> str:
        return f"\x1b[{_colour(rank)}m[rank {rank}]\x1b[0m "


def _colour(rank: int | None) -> str:
    return RANK_COLOURS[(rank or 0) % len(RANK_COLOURS)]


class ChannelDisplay(JsonDisplay):
    """Writes everything for the launcher to stdout; log lines are events too."""

    def event(self, event: EventDict) -> None:
        self._output.line("stdout", json.dumps(event))

    def log(self, rank: int | None, line: str) -> None:
        self.event({"event": "log", "rank": rank, "line": line, "t_ms": None})

    def taken(self, count: int) -> None:
        """Report how many bytes of input the program was given so far."""
        self._output.write("stdout", encode(Taken(count)))


class _LogLines(logging.Handler):
    """Writes this process's log lines to the output, so that a stalled reader does not block the process."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.line("stderr", self.format(record))


@contextmanager
def channel_display(prog: str) -> Iterator[ChannelDisplay]:
    """Yield the display of a rank that a launcher has started."""
    output = Output()
    with _log_lines(output):
        yield ChannelDisplay(prog, output)


@contextmanager
def display_for(prog: str, doing: str, as_json: bool, has_prefix: bool = True) -> Iterator[PlainDisplay]:
    """Yield the display that suits stdout. `has_prefix` puts the rank before a command's lines."""
    output = Output()
    with _log_lines(output):
        if as_json:
            yield JsonDisplay(prog, output)
        elif output.is_terminal:
            output.spin(doing)
            yield (PlainDisplay if os.environ.get("NO_COLOR") else TerminalDisplay)(prog, output, has_prefix)
        else:
            yield PlainDisplay(prog, output, has_prefix)


@contextmanager
def _log_lines(output: Output) -> Iterator[None]:
    """Write this process's log lines to `output` inside the block, and drain it at the end."""
    handler, logger = _LogLines(output), logging.getLogger("bootstrap")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        output.close()


def columns(event: EventDict) -> tuple[str, str, str]:
    """Return when, who and what; the first two are padded."""
    when = f"{event['t_ms']:5.0f} ms"
    if event["event"] == "done":
        texts = {"stopped": STOPPED, "status": STATUS}
        text = DRY_RUN if event.get("dry_run") else next((texts[key] for key in texts if key in event), FORMED)
        return when, "done  ", text.format_map(event)
    fields = dict(event)
    if "variables" in event:
        variables, cleared = cast(dict[str, str], event["variables"]), cast(list[str], event["cleared"])
        fields["variables"] = " ".join(
            variables if event["event"] == "environment-set" else map("=".join, variables.items())
        )
        fields["cleared"] = "; cleared: " + " ".join(cleared) if cleared else ""
    if event["event"] == "running":
        fields["readiness"] = (
            "every rank is ready" if event["all_ready"] else "this rank is ready; the others cannot tell"
        )
    if event["event"] == "looked":
        fields["found"] = _found(event)
    if event["event"] == "reaped":
        fields["processes"] = " ".join(map(str, cast(list[int], event["pids"])))
    if event["event"] == "link-lost":
        fields["retry"] = "" if event["retry_s"] is None else f"; again in {event['retry_s']:g} s"
    return (
        when,
        "launch" if event["rank"] is None else f"rank {event['rank']}",
        LINES[str(event["event"])].format_map(fields),
    )


def _found(event: EventDict) -> str:
    if event["not_checked"] is not None:
        return f"not checked: {event['not_checked']}"
    return f"left behind: {event['left']}" if event["left"] else "nothing is left"
