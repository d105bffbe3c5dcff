"""The commands `wireproto fuzz …`, as child processes."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.forks import run, run_text
from wireproto.fuzzing import display
from wireproto.fuzzing.corpus import dictionary
from wireproto.fuzzing.sealed import split_stream
from wireproto.fuzzing.seeds import SEEDS

FAULTY = [sys.executable, "-m", "tests.wireproto.fuzzing.faulty"]
BROKEN = """
from wireproto.fuzzing.harness import Harness, expect

def make():
    def check(data):
        expect(b"!" not in data, "no mark", "a mark")
        return len(data)
    return Harness("broken", check, lambda: [("one", b"one")], lambda random, data: random.choice([b"ab!cd", b"x"]))
"""


def fuzz(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_text("fuzz", *arguments, cwd=cwd)


def fuzz_until_found(*arguments: str, codec: Sequence[str] = (), cwd: Path) -> subprocess.CompletedProcess[str]:
    """A run interrupted after it has reported a finding, however long that takes."""
    command = [sys.executable, "-m", "wireproto", "fuzz", *arguments, "--seconds", "60", "--", *codec]
    with subprocess.Popen(command, cwd=cwd, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        return subprocess.CompletedProcess(
            command, process.wait(60), first + process.stdout.read(), process.stderr.read()
        )


def test_run_finds_nothing(tmp_path: Path) -> None:
    done = fuzz("run", "link", "--seconds", "0.5", "--corpus", "corpus", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = r"link: [\d,]+ runs, [\d,]+/s, coverage \d+/\d+ lines \(\d+%\), corpus \d+, findings 0\n"
    assert re.fullmatch(shown, done.stdout)
    kept = list((tmp_path / "corpus" / "link").iterdir())
    assert kept
    again = fuzz("replay", *map(str, kept), cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "".join(f"{path}: good\n" for path in kept))


def test_a_finding_is_kept_shown_again_and_made_smaller(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    done = fuzz_until_found("run", "mine:make", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    told, last = map(json.loads, done.stdout.splitlines())
    assert (told["layer"], told["oracle"], told["detail"]) == ("broken", "no mark", "a mark")
    assert (last["done"], last["findings"], last["seed"]) == (True, 1, 0)
    command, *arguments = told["replay"].replace("'", "").split()[1:]
    assert command == "fuzz"
    again = fuzz(*arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert again.stdout == f"{arguments[1]}: no mark: a mark\n"
    assert "FindingError" in again.stderr
    smaller = fuzz("minimize", arguments[1], cwd=tmp_path)
    assert smaller.returncode == 0
    path = tmp_path / smaller.stdout.strip().partition("now 1: ")[2]
    assert path.read_bytes() == b"!"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "links"], "'links' is not a layer; use one of link, frame"),
        (["replay", "link/nothing"], "No such file or directory"),
        (["minimize", "link/nothing"], "No such file or directory"),
        (["codec"], "give the codec's command after --"),
        (["codec", "--replay", "nothing", "--", "true"], "No such file or directory"),
        (["peer"], "give --listen or --connect"),
        (["peer", "--listen", "127.0.0.1:1", "--connect", "127.0.0.1:1"], "give --listen or --connect"),
        (["peer", "--connect", "127.0.0.1"], "'127.0.0.1' is not HOST:PORT"),
        (["peer", "--connect", "127.0.0.1:65536"], "'127.0.0.1:65536' is not HOST:PORT"),
        (["peer", "--connect", "192.0.2.1:7777"], "192.0.2.1 is not this machine; add --anywhere"),
        (["peer", "--connect", "127.evil.example:7777"], "127.evil.example is not this machine"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = fuzz(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


ENDLESS = """
from pathlib import Path
from wireproto.fuzzing.harness import Harness

def make():
    def check(data):
        Path("begun").touch()
        return 0
    return Harness("endless", check, lambda: [("one", b"one")], lambda random, data: data)
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_a_run_with_its_summary(as_json: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ENDLESS)
    command = [sys.executable, "-m", "wireproto", "fuzz", "run", "mine:make", *(["--json"] if as_json else [])]
    with subprocess.Popen(command, cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "wireproto: interrupted\n")
    assert out.count("\n") == 1
    assert json.loads(out)["findings"] == 0 if as_json else "findings 0" in out


def test_minimize_wants_a_finding(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "good").write_bytes(b"")
    done = fuzz("minimize", "link/good", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "wireproto fuzz minimize: link/good is not a finding\n")


# -- codec ------------------------------------------------------------------------------------------------------------


def test_codec_that_agrees(tmp_path: Path) -> None:
    done = fuzz("codec", "--seconds", "0.5", "--", sys.executable, "-m", "wireproto", "codec", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[\d,]+ frames, disagreements 0\n", done.stdout)


@pytest.mark.parametrize("as_json", [False, True])
def test_codec_that_disagrees(as_json: bool, tmp_path: Path) -> None:
    options = ["--findings", str(tmp_path), *(["--json"] if as_json else [])]
    root = Path(__file__).parents[3]
    done = fuzz_until_found("codec", *options, codec=[*FAULTY, "PingWithPayload"], cwd=root)
    assert done.returncode == 1, done.stderr
    if as_json:
        told, last = map(json.loads, done.stdout.splitlines())
        assert (told["kind"], last["disagreements"]) == ("accepts payload-not-empty", 1)
        assert len(told["frame"]) == 4
    else:
        assert done.stdout.startswith("accepts payload-not-empty\n  frame: ")
    (kept,) = (tmp_path / "codec").iterdir()
    again = fuzz("codec", "--replay", str(kept), "--", *FAULTY, "PingWithPayload", cwd=root)
    assert again.returncode == 1
    assert again.stdout.startswith("accepts payload-not-empty\n")
    assert fuzz("codec", "--replay", str(kept), "--", *FAULTY, "Parser", cwd=root).returncode == 0


def test_codec_that_cannot_be_started(tmp_path: Path) -> None:
    done = fuzz("codec", "--", "/nowhere/codec", cwd=tmp_path)
    assert done.returncode == 3
    assert "/nowhere/codec" in done.stderr


def test_progress_is_told_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "_EVERY", -1.0)
    with display.shown() as show:
        show("7 frames")
    with display.shown(wanted=False) as show:
        show("8 frames")
    assert capsys.readouterr().err == "7 frames\n"


# -- corpus, dictionary -----------------------------------------------------------------------------------------------


def test_corpus_export(tmp_path: Path) -> None:
    done = fuzz("corpus", "export", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert done.stdout == f"{len(files)} files in out\n"
    for layer, seeds in SEEDS.items():
        kept = {path.name: path.read_bytes() for path in (tmp_path / "out" / layer).iterdir()}
        assert kept == dict(seeds())
    sequences = sorted((tmp_path / "out" / "sequences").iterdir())
    assert [path.name for path in sequences] == sorted(name for name, _ in SEEDS["session"]())
    for path in sequences:
        data = (tmp_path / "out" / "replay" / path.name).read_bytes()
        messages = []
        while data:
            size = int.from_bytes(data[:4], "little")
            messages.append(data[4 : 4 + size])
            data = data[4 + size :]
        assert b"".join(messages) == path.read_bytes()
        bodies, tail = split_stream(path.read_bytes())
        assert len(messages) == len(bodies) + bool(tail)


def test_dictionary(tmp_path: Path) -> None:
    lines = list(dictionary())
    assert run("fuzz", "dict").stdout.decode().splitlines() == lines
    assert len(lines) == len({*lines}) > 100
    assert all(re.fullmatch(r'[a-z]+_\d+="([ !#-\[\]-~]|\\x[0-9a-f]{2})+"', line) for line in lines)
    assert 'type_2="\\x03"' in lines
    assert 'key_0="\\x22sePubKeyRaw\\x22:"' in lines
