"""`wireproto` with files, numbers and names that are not what a command asks for."""

import json
from pathlib import Path

import pytest

from bootstrap.trust import load_identity
from tests.forks import run
from tests.wireproto.cli.test_cli import COMMAND
from wireproto.fuzzing.harness import Harness

CODEC = ("--", "true")


def line_of(*arguments: str) -> str:
    """Return the only line of wrong usage."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ("conform", "codec", "--errors", "FILE", *CODEC),
        ("conform", "codec", "--expected-failures", "FILE", *CODEC),
        ("fuzz", "codec", "--replay", "FILE", *CODEC),
        ("fuzz", "replay", "FILE"),
        ("fuzz", "minimize", "FILE"),
    ],
    ids=" ".join,
)
def test_a_file_without_an_end_was_read_until_no_memory_was_left(arguments: tuple[str, ...]) -> None:
    line = line_of(*("/dev/zero" if each == "FILE" else each for each in arguments))
    assert line.endswith(": cannot read /dev/zero: it has more than 67108864 bytes")


def test_an_endless_frame_was_read_until_no_memory_was_left() -> None:
    done = run("decode", "--file", "/dev/zero")
    assert done.returncode == 1
    assert done.stdout.startswith(b"error  type-unknown in type at byte 0")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file that opens and cannot be read")
@pytest.mark.parametrize("arguments", [("decode", "--file"), ("decode", "--link", "--file"), ("inspect",)])
def test_a_file_that_fails_while_it_is_read_was_not_named(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "/proc/self/mem")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"wireproto: /proc/self/mem: Input/output error\n"


@pytest.mark.parametrize("option", ["--errors", "--expected-failures"])
def test_latin_1_is_named(option: str, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(b"caf\xe9")
    line = line_of("conform", "codec", option, str(file), *CODEC)
    assert line == f"wireproto conform codec: cannot read {file}: it is not UTF-8 at byte 3"


@pytest.mark.parametrize(
    ("option", "text", "end"),
    [
        ("--errors", '{"theirs": "none"}', "which is not a code of the spec"),
        ("--expected-failures", "# known\r\nnone reason\r\n", "line 2: no such case: 'none'; --list shows all"),
    ],
)
def test_a_byte_order_mark_is_ignored(option: str, text: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(text.encode("utf-8-sig"))
    assert line_of("conform", "codec", option, str(file), *CODEC).endswith(end)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuzz", "run", "frame", "--seconds", "nan"),
        ("fuzz", "codec", "--seconds", "nan", *CODEC),
        ("fuzz", "peer", "--connect", "127.0.0.1:9", "--seconds", "nan"),
        ("fuzz", "peer", "--connect", "127.0.0.1:9", "--rate", "nan"),
    ],
    ids=" ".join,
)
def test_nan_seconds_never_ended(arguments: tuple[str, ...]) -> None:
    assert "nan is not a number" in line_of(*arguments)


@pytest.mark.parametrize("layer", ["os:getcwd", "os.path:join", "wireproto:Ping", "os:sep"])
def test_a_function_that_makes_no_harness_was_a_traceback(layer: str) -> None:
    line = line_of("fuzz", "run", layer)
    assert (
        line
        == f"wireproto fuzz run: {layer!r} is not a function that returns a Harness; correct the name or the function"
    )


@pytest.mark.parametrize("layer", [".:harness", ":harness", "nothing:harness", "os.path.nothing:harness", "os:nothing"])
def test_a_module_that_is_not_there(layer: str) -> None:
    assert line_of("fuzz", "run", layer).startswith(f"wireproto fuzz run: {layer!r} is not a layer; use one of ")


def wrong_harness() -> Harness:
    return Harness(name="own", check=lambda data: [data], seeds=lambda: [("a", b"a")], mutate=lambda _, data: data)


def test_a_harness_that_returns_a_list_was_a_traceback() -> None:
    line = line_of("fuzz", "run", f"{__name__}:wrong_harness")
    assert line == "wireproto fuzz run: check of the harness 'own' returned list, not something hashable; correct it"


@pytest.mark.parametrize("command", ["replay", "minimize"])
def test_a_finding_in_another_directory_was_called_a_layer(command: str, tmp_path: Path) -> None:
    file = tmp_path / "finding"
    file.write_bytes(b"\3")
    line = line_of("fuzz", command, str(file))
    assert line.startswith(f"wireproto fuzz {command}: {file} is not in a directory named after its layer: ")


@pytest.mark.parametrize("codec", [[*COMMAND, "codec"], ["cat"]], ids=["agrees", "disagrees"])
def test_a_replay_for_programs_had_no_last_line(codec: list[str], tmp_path: Path) -> None:
    file = tmp_path / "finding"
    file.write_text("03\n")
    done = run("fuzz", "codec", "--json", "--replay", str(file), "--", *codec)
    assert done.returncode == (1 if codec == ["cat"] else 0)
    *_, last = map(json.loads, done.stdout.splitlines())
    assert last == {"done": True, "disagreements": done.returncode}


def test_a_peer_that_never_answers_had_no_last_line(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    load_identity(key)
    options = ("--identity", str(key), "--restart-command", "true")
    done = run("fuzz", "peer", "--json", "--connect", "127.0.0.1:9", *options)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    (last,) = map(json.loads, done.stdout.splitlines())
    assert last["done"] is True
