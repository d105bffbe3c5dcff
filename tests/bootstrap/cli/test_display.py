"""How a run's events are shown: to a person, on a terminal or in a file, and to a program."""

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

from bootstrap.cli.display import LINES, RETRY, JsonDisplay, PlainDisplay, TerminalDisplay, columns, display_for
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
    "mend": "look",
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
    assert FIELDS.keys() - LINES.keys() == {"error", "done", "output"}
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
        (sample("reaped"), "ended what an earlier run left: 7 8"),
        (
            sample("rehearsed", coordinator="127.0.0.1:29400"),
            "rehearsed the side channel at 127.0.0.1:29400; turned away: 127.0.0.1, which is no rank's address",
        ),
        (sample("rehearsed", turned_away=[]), "rehearsed the side channel at <coordinator>"),
        (sample("link-lost", message="gone", host="h"), "link with h lost: gone; again in 10 s"),
        (sample("link-lost", message="gone", host="h", retry_s=None), "link with h lost: gone"),
        (
            sample("environment-set"),
            "environment set: MLX_RANK MLX_HOSTFILE; cleared: JACCL_RANK JACCL_RING",
        ),
        (sample("environment-set", cleared=[]), "environment set: MLX_RANK MLX_HOSTFILE"),
        (sample("would-set", cleared=[]), "would set: MLX_RANK=1 MLX_HOSTFILE=/d/f"),
        (DONE, "2 ranks form one ring group"),
        ({**DONE, "stopped": True}, "the group is stopped"),
        ({**DONE, "status": 0}, "the command ended with exit status 0"),
        ({**DONE, "dry_run": True}, "dry run: the link works, and nothing was set or written"),
    ],
)
def test_what_a_line_says(event: dict[str, Any], line: str) -> None:
    assert what(event) == line


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay("jaccl-bootstrap up")
    for event in (sample("holding"), ERROR, {**DONE, "ok": False, "code": "link-lost"}):
        display.event(event)
    display.log(1, "native words")
    display.output(1, "stdout", "out")
    display.output(1, "stderr", "err")
    said = capsys.readouterr()
    assert said.out == "    1 ms  rank 1  holding the group; Ctrl-C ends it\n[rank 1] out\n"
    assert said.err.splitlines() == [
        "jaccl-bootstrap up: rank 1: the session was lost",
        "  likely cause: the cable is out",
        "  what to do: look",
        "  trying again: safe, nothing native has run",
        "[rank 1] native words",
        "[rank 1] err",
    ]


def test_done_has_no_rank(capsys: pytest.CaptureFixture[str]) -> None:
    PlainDisplay("x").event(DONE)
    assert capsys.readouterr().out == " 1234 ms  done    2 ranks form one ring group\n"


def test_an_error_that_is_nobodys(capsys: pytest.CaptureFixture[str]) -> None:
    PlainDisplay("x").event({**ERROR, "rank": None})
    assert capsys.readouterr().err.splitlines()[0] == "x: the session was lost"


@pytest.mark.parametrize("retry", ["safe", "mend-first", "unsafe"])
def test_whether_to_try_again_is_said(retry: str, capsys: pytest.CaptureFixture[str]) -> None:
    PlainDisplay("x").event({**ERROR, "retry": retry})
    assert capsys.readouterr().err.splitlines()[-1] == f"  trying again: {RETRY[retry]}"


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = JsonDisplay("x")
    display.event(ERROR)
    display.output(1, "stdout", 'a "quoted" line \ufffd')
    display.log(1, "native words")
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [
        ERROR,
        {"event": "output", "rank": 1, "stream": "stdout", "line": 'a "quoted" line \ufffd'},
    ]
    assert said.err.splitlines()[0] == "x: rank 1: the session was lost"
    assert said.err.splitlines()[-1] == "[rank 1] native words"


def test_on_a_terminal_nothing_is_taken_for_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, highlight=False)
    display = TerminalDisplay("x", console)
    display.event(sample("waiting", what="[red]a port[/] that is [not] usable, in a line longer than the terminal"))
    display.event(DONE)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[red]a port[/] that is [not] usable, in a line longer than the terminal\n" in text.replace("\x1b[0m", "")
    assert "2 ranks form one ring group" in text
    assert "\x1b[" in text


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
