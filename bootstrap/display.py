"""A run's events: plain lines, coloured lines on a terminal, or JSON lines for programs."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO, cast

from bootstrap.events import Event

if TYPE_CHECKING:
    from rich.console import Console

LINES: Final = {
    "started": "started, process {pid}",
    "listening": "listening on {host}:{port}",
    "connected": "link with {host}:{port} is up, rank {peer}",
    "established": "session with rank {peer} established",
    "confirmed": "rank {peer} confirmed",
    "health": "rank {peer} is {state}, missed pongs: {missed}",
    "pong": "pong from rank {peer}: model loaded {modelLoaded}, memory pressure {memoryPressure}",
    "bootstrap-sent": "sent jacclBootstrap (0x07) to rank {peer}: port {port}, session {session_id}",
    "bootstrap-received": "got jacclBootstrap (0x07) from rank {peer}: port {port}, session {session_id}",
    "ignored": "ignored {name} from rank {peer}, where it does not belong",
    "session-ended": "rank {peer} ended the session",
    "link-lost": "link with {host} lost: {message}{retry}",
    "would-set": "would set: {variables}{cleared}",
    "would-write": "would write {format} to {path}: {content}",
    "file-written": "{format} written to {path}",
    "environment-set": "environment set: {variables}{cleared}",
    "group-ready": "group ready: size {size}, {backend}",
    "sum-checked": "sum checked: {value}",
}
DONE: Final = {
    False: "{ranks} ranks form one {backend} group",
    True: "dry run: the link works, and nothing was set or written",
}
RANK_COLOURS: Final = ("cyan", "magenta", "yellow", "blue")


class PlainDisplay:
    """A line a step on stdout, as it happens; log lines and errors on stderr."""

    def __init__(self, prog: str) -> None:
        self._prog = prog

    def event(self, event: Event) -> None:
        if event["event"] == "error":
            where = "" if event["rank"] is None else f"rank {event['rank']}: "
            _write(sys.stderr, f"{self._prog}: {where}{event['message']}")
        elif event["event"] != "done" or event["ok"]:
            self.step(*columns(event))

    def step(self, when: str, who: str, what: str) -> None:
        _write(sys.stdout, f"{when}  {who}  {what}")

    def log(self, rank: int, line: str) -> None:
        _write(sys.stderr, f"[rank {rank}] {line}")


class JsonDisplay(PlainDisplay):
    """An object a line on stdout. An error is on stderr as well, for whoever watches the program."""

    def event(self, event: Event) -> None:
        _write(sys.stdout, json.dumps(event))
        if event["event"] == "error":
            super().event(event)


class TerminalDisplay(PlainDisplay):
    """The same lines in colour, above a spinner."""

    def __init__(self, prog: str, console: "Console") -> None:
        super().__init__(prog)
        self._console = console

    def step(self, when: str, who: str, what: str) -> None:
        from rich.text import Text

        colour = RANK_COLOURS[int(who.split()[-1]) % len(RANK_COLOURS)] if who.startswith("rank") else "bold green"
        good = "green" if what.startswith(("group ready", "sum checked")) or colour == "bold green" else ""
        self._console.print(Text.assemble((when, "dim"), "  ", (who, colour), "  ", (what, good)), soft_wrap=True)


@contextmanager
def display_for(prog: str, doing: str, as_json: bool) -> Iterator[PlainDisplay]:
    """Give the display that suits stdout."""
    if as_json:
        yield JsonDisplay(prog)
    elif sys.stdout is None or not sys.stdout.isatty():
        yield PlainDisplay(prog)
    else:
        # Here, since a program that reads the output should not wait for it.
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        console = Console(highlight=False)
        spinner = Spinner("line", text=doing, style="bold")
        # Lines for a stderr that goes elsewhere must not be drawn into between.
        with Live(spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=sys.stderr.isatty()):
            yield TerminalDisplay(prog, console)


def columns(event: Event) -> tuple[str, str, str]:
    """Return when, who and what, the first two padded."""
    when = f"{event['t_ms']:5.0f} ms"
    if event["event"] == "done":
        return when, "done  ", DONE[bool(event.get("dry_run"))].format_map(event)
    fields = dict(event)
    if "variables" in event:
        variables, cleared = cast(dict[str, str], event["variables"]), cast(list[str], event["cleared"])
        fields["variables"] = " ".join(
            variables if event["event"] == "environment-set" else map("=".join, variables.items())
        )
        fields["cleared"] = "; cleared: " + " ".join(cleared) if cleared else ""
    if event["event"] == "link-lost":
        fields["retry"] = "" if event["retry_s"] is None else f"; again in {event['retry_s']:g} s"
    return when, f"rank {event['rank']}", LINES[str(event["event"])].format_map(fields)


def _write(stream: TextIO | None, line: str) -> None:
    if stream is not None:  # the caller closed it
        stream.write(line + "\n")
        stream.flush()
