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
    "rehearsed": "rehearsed the side channel at {coordinator}{strangers}",
    "waiting": "waiting: {what}",
    "restarting": "bootstrapping anew, {left} more to come: {message}",
    "reaped": "ended what an earlier run left: {processes}",
    "warning": "warning: {message}",
    "consequence": "failed as well, later: {message}",
    "holding": "holding the group; Ctrl-C ends it",
    "command-ended": "the command ended with exit status {status}",
    "would-set": "would set: {variables}{cleared}",
    "would-write": "would write {format} to {path}: {content}",
    "file-written": "{format} written to {path}",
    "environment-set": "environment set: {variables}{cleared}",
    "group-ready": "group ready: size {size}, {backend}",
    "sum-checked": "sum checked: {value}",
    "sum-skipped": "no sum made, rank and size are the check: {reason}",
}
DRY_RUN: Final = "dry run: the link works, and nothing was set or written"
STATUS: Final = "the command ended with exit status {status}"
STOPPED: Final = "the group is stopped"
FORMED: Final = "{ranks} ranks form one {backend} group"
RETRY: Final = {
    "safe": "safe, nothing native has run",
    "mend-first": "in vain before that is mended",
    "unsafe": "with care: on jaccl each failed init can wedge the port until a reboot",
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
            _write(sys.stderr, f"  likely cause: {event['cause']}")
            _write(sys.stderr, f"  what to do: {event['mend']}")
            _write(sys.stderr, f"  trying again: {RETRY[str(event['retry'])]}")
        elif event["event"] != "done" or event["ok"]:
            self.step(*columns(event))

    def step(self, when: str, who: str, what: str) -> None:
        _write(sys.stdout, f"{when}  {who}  {what}")

    def log(self, rank: int, line: str) -> None:
        _write(sys.stderr, f"[rank {rank}] {line}")

    def output(self, rank: int, stream: str, line: str) -> None:
        """A line of the command's, on the stream that it came from."""
        _write(sys.stdout if stream == "stdout" else sys.stderr, f"[rank {rank}] {line}")


class JsonDisplay(PlainDisplay):
    """An object a line on stdout. An error is on stderr as well, for whoever watches the program."""

    def event(self, event: Event) -> None:
        _write(sys.stdout, json.dumps(event))
        if event["event"] == "error":
            super().event(event)

    def output(self, rank: int, stream: str, line: str) -> None:
        self.event({"event": "output", "rank": rank, "stream": stream, "line": line})


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
        texts = {"status": STATUS, "stopped": STOPPED}
        text = DRY_RUN if event.get("dry_run") else next((texts[key] for key in texts if key in event), FORMED)
        return when, "done  ", text.format_map(event)
    fields = dict(event)
    if "variables" in event:
        variables, cleared = cast(dict[str, str], event["variables"]), cast(list[str], event["cleared"])
        fields["variables"] = " ".join(
            variables if event["event"] == "environment-set" else map("=".join, variables.items())
        )
        fields["cleared"] = "; cleared: " + " ".join(cleared) if cleared else ""
    if event["event"] == "rehearsed":
        turned_away = cast(list[str], event["turned_away"])
        fields["strangers"] = "; turned away: " + "; ".join(turned_away) if turned_away else ""
    if event["event"] == "reaped":
        fields["processes"] = " ".join(map(str, cast(list[int], event["pids"])))
    if event["event"] == "link-lost":
        fields["retry"] = "" if event["retry_s"] is None else f"; again in {event['retry_s']:g} s"
    return when, f"rank {event['rank']}", LINES[str(event["event"])].format_map(fields)


def _write(stream: TextIO | None, line: str) -> None:
    if stream is not None:  # the caller closed it
        stream.write(line + "\n")
        stream.flush()
