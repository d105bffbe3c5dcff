"""`wireproto` with any standard streams, encoding and file name, and texts with terminal control characters."""

import json
import os
import select
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tests.examples import some
from tests.forks import run
from tests.wireproto.cli.test_cli import COMMAND
from wireproto import JacclBootstrapPayload, encode_frame
from wireproto.errors import printable

CONTROLS = "\u202e\x9b\x7f\x1b[31m\u2066\U000e0001\u200b"
FRAME = encode_frame(JacclBootstrapPayload(1, f"a{CONTROLS}b")).hex()
PING = "03"

COMMANDS = {
    "decode": "decode",
    "decode a frame": f"decode {PING}",
    "decode a bad frame": "decode 77",
    "encode": "encode ping",
    "encode raw": "encode ping --form raw",
    "codec": "codec",
    "conform list": "conform codec --list",
    "fuzz dict": "fuzz dict",
    "wrong usage": "decode zz!",
}


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = f"exec {sys.executable} -m wireproto {command}"
    env = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=env)


def is_one_line(text: bytes) -> bool:
    return b"Traceback" not in text and text.count(b"\n") <= 1


null = cache(shell)
"""With nothing closed; standard input is /dev/null."""


@pytest.mark.parametrize(("name", "how"), some(product(COMMANDS, ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"))))
def test_a_closed_stream_is_as_dev_null(name: str, how: str) -> None:
    """Close each stream, and all three."""
    expected = null(COMMANDS[name])
    assert is_one_line(expected.stderr)
    closed = shell(f"{COMMANDS[name]} {how}")
    assert closed.returncode == expected.returncode
    assert closed.stdout == (b"" if " >&-" in f" {how}" else expected.stdout)
    assert closed.stderr == (b"" if "2>&-" in how else expected.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("codec", "wrong usage")])
def test_a_full_disk_is_one_line(name: str) -> None:
    done = shell(f"{COMMANDS[name]} >/dev/full")
    assert (done.returncode, done.stderr) == (3, b"wireproto: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no non-blocking pipes")
@pytest.mark.parametrize(("command", "frame"), [("codec", b"03\n"), ("decode --link", b"\1\0\0\0\0\0\0\0\3")])
def test_a_slow_reader_of_a_non_blocking_pipe_gets_all(command: str, frame: bytes, tmp_path: Path) -> None:
    """Node and others leave pipes non-blocking: output that did not fit was lost, with exit code 0."""
    (tmp_path / "in").write_bytes(frame * 20_000)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (tmp_path / "in").open("rb") as given, os.fdopen(reader, "rb") as output:
        arguments = [*COMMAND, *command.split()]
        with subprocess.Popen(arguments, stdin=given, stdout=writer, stderr=subprocess.PIPE) as process:
            while process.poll() is None and select.select([], [writer], [], 0.01)[1]:
                pass  # until the pipe is full
            os.close(writer)
            lines = output.read().splitlines()
            _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, b"")
    assert len(lines) == 20_000
    assert len(set(lines)) == 1


SHOWN = ("decode 0a7b22756964223a22c3a9e282ac227d", "decode 03", "conform codec --list", "--help")


@pytest.mark.parametrize(
    ("command", "encoding"), some(product(SHOWN, ("ascii", "latin-1", "cp437", "utf-8", "utf-16")))
)
def test_any_encoding_shows_every_text(command: str, encoding: str) -> None:
    done = shell(command, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)  # and not in another encoding
    if command.startswith("decode 0a"):
        expected = "".join(each.encode(encoding, "backslashreplace").decode(encoding) for each in "é€")
        assert f'"{expected}"' in shown


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_locale_of_ascii_shows_every_text(locale: str) -> None:
    done = shell(
        "decode 0a7b22756964223a22c3a9227d", LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING=""
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\x1b[31m.bin"
    missing = subprocess.run([*COMMAND, "decode", "--file", path], capture_output=True, timeout=60)
    assert missing.returncode == 2
    assert missing.stderr.endswith(b"/\\udcff\\x1b[31m.bin: No such file or directory\n")
    Path(os.fsdecode(path)).write_bytes(b"\x03")
    there = subprocess.run([*COMMAND, "decode", "--file", path], capture_output=True, timeout=60)
    assert (there.returncode, there.stdout.decode(), there.stderr) == (0, "0x03  ping  0 → 1\n", b"")


@pytest.mark.parametrize("text", ["0x03", "0X03", "03"])
def test_decode_takes_hex_as_people_write_it(text: str) -> None:
    done = run("decode", text)
    assert (done.returncode, done.stdout.decode()) == (0, "0x03  ping  0 → 1\n")


# -- texts from a peer or a file ---------------------------------------------------------------------------------------


def test_printable_escapes_what_a_terminal_obeys() -> None:
    assert printable(CONTROLS) == r"\u202e\x9b\x7f\x1b[31m\u2066\U000e0001\u200b"
    assert printable("a→é 😀") == "a→é 😀"
    assert printable("\ud800\n") == r"\ud800\n"


@pytest.mark.parametrize("arguments", [["decode"], ["decode", "--json"], ["codec"]], ids=" ".join)
def test_decode_escapes_text_from_a_peer(arguments: list[str]) -> None:
    done = run(*arguments, *([] if arguments == ["codec"] else [FRAME]), stdin=FRAME.encode() + b"\n")
    shown = done.stdout.decode()
    assert done.returncode == 0
    assert all(line.isprintable() for line in shown.splitlines())
    if arguments != ["decode"]:
        assert json.loads(shown)["payload"]["sessionID"] == f"a{CONTROLS}b"


@pytest.mark.parametrize(
    "frame",
    [
        b'\x04{"memoryPressure":"%b"' % CONTROLS.encode(),
        b'\x0a{"%b":1,"%b":1' % ((CONTROLS.encode(),) * 2),
        b'\x07{"port":1,"sessionID":"","extensions":["%b"' % CONTROLS.encode(),
        b'\x0a{"\\%b' % "\x9b".encode(),
    ],
    ids=["enum", "key", "pattern", "escape"],
)
def test_errors_escape_text_from_a_peer(frame: bytes) -> None:
    done = run("decode", frame.hex())
    assert done.returncode == 1
    assert done.stdout.decode().removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    "arguments", [("encode", CONTROLS), ("decode", CONTROLS), (CONTROLS,), ("decode", f"--{CONTROLS}")]
)
def test_errors_escape_arguments(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.decode().removesuffix("\n").isprintable()


def test_an_encoding_error_escapes_the_payload() -> None:
    done = run("encode", "pong", json.dumps({"memoryPressure": CONTROLS}, ensure_ascii=False))
    assert done.returncode == 1
    assert done.stderr.decode().removesuffix("\n").isprintable()
