"""The checks of all hosts as one table."""

import re

from bootstrap.doctor.checks import Check
from bootstrap.launch.table import Row, render

GREEN = Check("mlx", "green", "MLX 0.32.4 with jaccl, ring")
YELLOW = Check("bridge", "yellow", "bridge0 is up", "macOS made it", "sudo ifconfig bridge0 down")
RED = Check(
    "rdma-ctl", "red", "RDMA is disabled", "it is so until it is enabled", "restart into Recovery; " + "x" * 200
)
ROWS = [
    Row.of(0, "mac-a", [GREEN]),
    Row.of(10, "mac-long", [GREEN, YELLOW, RED]),
    Row.of(2, "mac-c", [YELLOW, YELLOW, Check("peer", "skipped", "x")]),
]


def test_the_check_that_matters_most() -> None:
    assert [row.check for row in ROWS] == [None, RED, YELLOW]
    assert [row.ok for row in ROWS] == [True, False, True]


def test_plain_words() -> None:
    assert render(ROWS, terminal=False) == (
        "green     0  mac-a               nothing is wrong\n"
        "red      10  mac-long  rdma-ctl  RDMA is disabled\n"
        "                         cause   it is so until it is enabled\n"
        f"                         remedy  {RED.remedy}\n"
        "yellow    2  mac-c     bridge    bridge0 is up\n"
        "                         cause   macOS made it\n"
        "                         remedy  sudo ifconfig bridge0 down\n"
    )


def test_a_terminal_has_marks_and_colours_and_remedies_in_one_piece() -> None:
    text = render(ROWS, terminal=True)
    assert "\x1b[1;31m✗\x1b[0m" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert [line[0] for line in lines] == ["✓", "✗", " ", " ", "!", " ", " "]
    assert lines[3].endswith(str(RED.remedy))
    assert lines[0].index("nothing") == lines[1].index("RDMA")


def test_events() -> None:
    assert ROWS[0].to_json() == {"rank": 0, "host": "mac-a", "ok": True, "check": None}
    found = ROWS[1].to_json()["check"]
    assert (found["name"], found["verdict"], found["remedy"]) == ("rdma-ctl", "red", RED.remedy)
