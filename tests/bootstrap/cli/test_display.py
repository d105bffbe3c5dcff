"""Display of a run's events: for people, on a terminal or in a file, and for programs."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli.display import (
    LINES,
    RETRY,
    ChannelDisplay,
    JsonDisplay,
    PlainDisplay,
    TerminalDisplay,
    columns,
    display_for,
)
from bootstrap.control.output import Output
from bootstrap.events import FIELDS

SAMPLES: dict[str, object] = {
    "pids": [7, 8],
    "turned_away": ["127.0.0.1, which is no rank's address"],
    "variables": {"MLX_RANK": "1", "MLX_HOSTFILE": "/d/f"},
    "cleared": ["JACCL_RANK", "JACCL_RING"],
    "retry_s": 10.0,
}
ERROR = {
    "event": "error",
    "rank": 1,
    "stage": "link",
    "code": "link-lost",
    "message": "the session was lost",
    "cause": "the cable is out",
    "remedy": "look",
    "retry": "safe",
    "t_ms": 12.3,
}
DONE = {"event": "done", "ok": True, "ranks": 2, "backend": "ring", "t_ms": 1234.5}


def sample(name: str, **fields: object) -> dict[str, Any]:
    known = {field: SAMPLES.get(field, f"<{field}>") for field in FIELDS[name]}
    return {"event": name, "rank": 1, **known, "t_ms": 1.0, **fields}


def what(event: dict[str, Any]) -> str:
    return columns(event)[2]


def test_every_event_has_a_line_and_no_line_is_nobodys() -> None:
    assert FIELDS.keys() - {"log"} - LINES.keys() == {"error", "done", "output", "ladders"}
    assert LINES.keys() <= FIELDS.keys()


@pytest.mark.parametrize("name", LINES)
def test_an_event_is_one_line(name: str) -> None:
    when, who, said = columns(sample(name))
    assert (when, who) == ("    1 ms", "rank 1")
    assert said.isprintable()
    assert "{" not in said


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (sample("reaped"), "ended processes left by an earlier run: 7 8"),
        (sample("link-lost", message="gone", host="h"), "link to h lost: gone; again in 10 s"),
        (sample("link-lost", message="gone", host="h", retry_s=None), "link to h lost: gone"),
        (
            sample("environment-set"),
            "environment set: MLX_RANK MLX_HOSTFILE; cleared: JACCL_RANK JACCL_RING",
        ),
        (sample("environment-set", cleared=[]), "environment set: MLX_RANK MLX_HOSTFILE"),
        (sample("would-set", cleared=[]), "would set: MLX_RANK=1 MLX_HOSTFILE=/d/f"),
        (DONE, "2 ranks form one ring group"),
        ({**DONE, "stopped": True}, "stopped"),
        ({**DONE, "status": 0}, "the command ended with exit status 0"),
        ({**DONE, "dry_run": True}, "dry run: the link works; nothing was set or written"),
    ],
)
def test_what_a_line_says(event: dict[str, Any], line: str) -> None:
    assert what(event) == line


class Shown:
    """A display on two files, or on one for both streams, and its output."""

    def __init__(
        self, kind: type[PlainDisplay], directory: Path, *, encoding: str = "utf-8", same: bool = False
    ) -> None:
        self._paths = [directory / name for name in ("out", "out" if same else "err")]
        self._files = [path.open("a", encoding=encoding) for path in self._paths]
        self.output = Output(*self._files)
        self.display = kind("jaccl-bootstrap up", self.output)

    def end(self) -> tuple[str, str]:
        out, err = self.bytes()
        return out.decode(), err.decode()

    def bytes(self) -> tuple[bytes, bytes]:
        self.output.close()
        for file in self._files:
            file.close()
        out, err = (path.read_bytes() for path in self._paths)
        return out, err


def test_plain_lines(tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path)
    for event in (sample("holding"), ERROR, {**DONE, "ok": False, "code": "link-lost"}):
        shown.display.event(event)
    shown.display.log(1, "native words")
    shown.display.output(1, "stdout", b"out\n")
    shown.display.output(1, "stderr", b"err\n")
    out, err = shown.end()
    assert out == "    1 ms  rank 1  holding the group; Ctrl-C ends it\n[rank 1] out\n"
    assert err.splitlines() == [
        "jaccl-bootstrap up: rank 1: the session was lost",
        "  likely cause: the cable is out",
        "  what to do: look",
        "  trying again: safe, no native code has run",
        "[rank 1] native words",
        "[rank 1] err",
    ]


def test_done_has_no_rank(tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path)
    shown.display.event(DONE)
    assert shown.end()[0] == " 1234 ms  done    2 ranks form one ring group\n"


def test_an_error_without_a_rank(tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path)
    shown.display.event({**ERROR, "rank": None})
    assert shown.end()[1].splitlines()[0] == "jaccl-bootstrap up: the session was lost"


@pytest.mark.parametrize("retry", ["safe", "fix-first", "unsafe"])
def test_whether_to_try_again_is_said(retry: str, tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path)
    shown.display.event({**ERROR, "retry": retry})
    assert shown.end()[1].splitlines()[-1] == f"  trying again: {RETRY[retry]}"


@pytest.mark.parametrize(("kind", "count"), [(PlainDisplay, 3), (JsonDisplay, 5)])
def test_a_pong_that_says_nothing_new_is_for_programs_alone(
    kind: type[PlainDisplay], count: int, tmp_path: Path
) -> None:
    shown = Shown(kind, tmp_path)
    for at, loaded in enumerate([False, False, True, True, False]):
        shown.display.event(sample("pong", modelLoaded=loaded, t_ms=float(at)))
    assert len(shown.end()[0].splitlines()) == count


def test_any_encoding_of_stdout_works(tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path, encoding="ascii")
    shown.display.event(sample("waiting", what="Köln → Zürich"))
    assert shown.end()[0] == "    1 ms  rank 1  waiting: K\\xf6ln \\u2192 Z\\xfcrich\n"


# -- a command's output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([b"a\nb\n"], b"[rank 0] a\n[rank 0] b\n"),
        ([b"\r 20%|#", b"\r 40%|##", b"\n"], b"[rank 0] \r[rank 0]  20%|#\r[rank 0]  40%|##\n"),
        ([b"Password: "], b"[rank 0] Password: \n"),
        ([b"a\r", b"\nb\r\n"], b"[rank 0] a\r\n[rank 0] b\r\n"),
        ([b"\xff\xfe\x00 raw\n"], b"[rank 0] \xff\xfe\x00 raw\n"),
        ([b"\xc3", b"\xa9\n"], "[rank 0] é\n".encode()),
        ([b"\x1b[31mred\x1b[0m\n"], b"[rank 0] \x1b[31mred\x1b[0m\n"),
        ([], b""),
    ],
)
def test_bytes_of_a_command(pieces: list[bytes], shown: bytes, tmp_path: Path) -> None:
    display = Shown(PlainDisplay, tmp_path)
    for piece in [*pieces, b""]:
        display.display.output(0, "stdout", piece)
    assert display.bytes()[0] == shown


def test_a_progress_bar_is_shown_as_it_is_drawn(tmp_path: Path) -> None:
    shown = Shown(PlainDisplay, tmp_path)
    shown.display.output(0, "stdout", b"\r 20%|#")
    limit = time.monotonic() + 30
    while (tmp_path / "out").read_bytes() != b"[rank 0] \r[rank 0]  20%|#":
        assert time.monotonic() < limit
        time.sleep(0.01)
    shown.end()


def test_no_line_sticks_to_an_unfinished_one(tmp_path: Path) -> None:
    """And another line splits no character."""
    shown = Shown(PlainDisplay, tmp_path, same=True)
    shown.display.output(0, "stdout", b"caf\xc3")
    shown.display.log(0, "log")
    shown.display.output(0, "stderr", b"error")
    shown.display.output(0, "stdout", b"\xa9")
    shown.display.event(sample("holding"))
    text = shown.bytes()[0].decode()
    assert text.splitlines() == [
        "[rank 0] caf",
        "[rank 0] log",
        "[rank 0] error",
        "[rank 0] é",
        "    1 ms  rank 1  holding the group; Ctrl-C ends it",
    ]


def test_json_lines(tmp_path: Path) -> None:
    shown = Shown(JsonDisplay, tmp_path)
    shown.display.event(ERROR)
    shown.display.output(1, "stdout", b'a "quoted" line \xff\r\nPassword: ')
    shown.display.quiet(1, "stdout")
    shown.display.output(1, "stdout", b"secret\nend")
    shown.display.output(1, "stdout", b"")
    shown.display.log(1, "native words")
    out, err = shown.end()
    line = {"event": "output", "rank": 1, "stream": "stdout"}
    assert [json.loads(each) for each in out.splitlines()] == [
        ERROR,
        {**line, "line": 'a "quoted" line \\xff'},
        {**line, "line": "Password: ", "partial": True},
        {**line, "line": "secret"},
        {**line, "line": "end"},
    ]
    assert err.splitlines()[0] == "jaccl-bootstrap up: rank 1: the session was lost"
    assert err.splitlines()[-1] == "[rank 1] native words"


def test_two_ranks_write_at_once(tmp_path: Path) -> None:
    """An incomplete line is ended before another program's; no character of either is lost."""
    shown = Shown(PlainDisplay, tmp_path)
    for rank, data in [(0, b"Pass\xc3"), (1, b"one\n"), (0, b"\xa4word"), (1, b""), (0, b": ok\n")]:
        shown.display.output(rank, "stdout", data)
    assert shown.end()[0] == "[rank 0] Pass\n[rank 1] one\n[rank 0] \u00e4word\n[rank 0] : ok\n"


def test_two_ranks_write_in_json(tmp_path: Path) -> None:
    shown = Shown(JsonDisplay, tmp_path)
    for rank, data in [(0, b"a"), (1, b"b\n"), (0, b"c\n")]:
        shown.display.output(rank, "stdout", data)
    lines = [json.loads(line) for line in shown.end()[0].splitlines()]
    assert [(line["rank"], line["line"]) for line in lines] == [(1, "b"), (0, "ac")]


@pytest.mark.parametrize("kind", [PlainDisplay, TerminalDisplay])
def test_the_table_of_the_ladders(kind: type[PlainDisplay], tmp_path: Path) -> None:
    """It is shown if something is wrong anywhere."""
    good = {"rank": 0, "host": "mac-a", "ok": True, "check": None}
    check = {"name": "lock", "verdict": "red", "evidence": "taken", "cause": "a group", "remedy": "end it"}
    for rows, count in (([good], 0), ([good, {"rank": 1, "host": "mac-b", "ok": False, "check": check}], 4)):
        shown = Shown(kind, tmp_path)
        shown.display.event({"event": "ladders", "rank": None, "rows": rows, "t_ms": 1.0})
        out = shown.end()[0]
        assert out.count("\n") == count
        assert ("\x1b[" in out) is (kind is TerminalDisplay and count > 0)


@pytest.mark.parametrize(
    ("left", "why", "line"),
    [
        ("", None, "mac-b: nothing is left"),
        ("processes 7", None, "mac-b: left behind: processes 7"),
        ("", "gone", "mac-b: not checked: gone"),
    ],
)
def test_a_last_look(left: str, why: str | None, line: str) -> None:
    assert what(sample("looked", host="mac-b", left=left, not_checked=why)) == line


def test_a_launched_rank_writes_all_to_one_stream(tmp_path: Path) -> None:
    shown = Shown(ChannelDisplay, tmp_path)
    assert isinstance(shown.display, ChannelDisplay)
    shown.display.event(ERROR)
    shown.display.log(1, "words")
    shown.display.taken(7)
    out, err = shown.end()
    log = {"event": "log", "rank": 1, "line": "words", "t_ms": None}
    assert [json.loads(line) for line in out.splitlines()] == [ERROR, log, {"type": "taken", "bytes": 7}]
    assert err == ""


# -- a terminal --------------------------------------------------------------------------------------------------------


def test_on_a_terminal_nothing_is_taken_for_markup(tmp_path: Path) -> None:
    shown = Shown(TerminalDisplay, tmp_path)
    shown.display.event(
        sample("waiting", what="[red]a port[/] that is [not] usable, in a line longer than the terminal")
    )
    shown.display.event(DONE)
    text = shown.end()[0]
    assert "[red]a port[/] that is [not] usable, in a line longer than the terminal\n" in text
    assert "2 ranks form one ring group" in text
    assert "\x1b[" in text


def test_the_spinner_never_mixes_with_lines() -> None:
    """It is cleared before each line, and not drawn once a command runs."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        output = Output(terminal, terminal)
        display = TerminalDisplay("x", output)
        output.spin("rank 0 of 2")
        seen = read_until(master, lambda text: text.count(b"rank 0 of 2") > 2)
        display.event(sample("holding"))
        seen += read_until(master, lambda text: b"rank 0 of 2" in text.partition(b"holding")[2])
        display.event(sample("environment-set"))
        display.output(0, "stdout", b"a line\n")
        output.close()
        seen += read_until(master, lambda text: b"a line" in text)
    os.close(master)
    rows = [row.rpartition(b"\x1b[2K")[2] for row in seen.split(b"\r\n")]
    assert not any(b"of 2" in row for row in rows if b"holding" in row or b"a line" in row)
    assert b"of 2" not in seen.partition(b"a line")[2]


def test_a_rank_has_its_colour_on_a_terminal(tmp_path: Path) -> None:
    """The program's output is unchanged after the prefix."""
    shown = Shown(TerminalDisplay, tmp_path)
    for rank in (0, 1):
        shown.display.output(rank, "stdout", b"\x1b[1mbold\x1b[0m\n")
    first, second = (line.partition("\x1b[1mbold\x1b[0m") for line in shown.end()[0].splitlines())
    assert (first[0], second[0]) == ("\x1b[36m[rank 0]\x1b[0m ", "\x1b[35m[rank 1]\x1b[0m ")
    assert first[1:] == second[1:] == ("\x1b[1mbold\x1b[0m", "")


def read_until(descriptor: int, condition: Callable[[bytes], bool]) -> bytes:
    seen = b""
    while not condition(seen):
        seen += os.read(descriptor, 4096)
    return seen


def test_a_log_line_that_nobody_read_held_up_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link's record, for example, reports a full disk in such a line."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with display_for("x", "doing", True):
            logging.getLogger("bootstrap.link.record").warning("the recording ends here")
            os.read(read, 1 << 20)
    with os.fdopen(read) as stream:
        assert stream.read().endswith("the recording ends here\n")


def test_which_display_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    for as_json in (True, False):
        with display_for("x", "doing", as_json) as display:
            kinds.append(type(display))
    monkeypatch.setattr(sys, "stdout", None)
    with display_for("x", "doing", False) as display:
        kinds.append(type(display))
        display.event(DONE)  # the caller closed it
    assert kinds == [JsonDisplay, PlainDisplay, PlainDisplay]
