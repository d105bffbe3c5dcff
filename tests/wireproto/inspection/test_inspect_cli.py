"""`wireproto inspect`, as a child process."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.wireproto.inspection.captured import HEADS, many_interfaces
from tests.wireproto.inspection.dissecting import DISSECTOR
from tests.wireproto.inspection.talks import Talk, a_talk, pcap
from tests.wireproto.inspection.test_pictures import a_long_talk
from wireproto import Ping, Revision, encode_link_frame

COMMAND = [sys.executable, "-m", "wireproto", "inspect"]

LINES = """\
      0.000 ms  #1         opened                                127.0.0.1:50001 → 127.0.0.2:49999
      0.000 ms  #1  0 → 1  handshakeHello         353 B          HELLO
      1.000 ms  #1  1 → 0  handshakeAck           353 B          ACK
      2.000 ms  #1  0 → 1  ping                     9 B
      3.000 ms  #1  1 → 0  pong                    82 B          \
modelLoaded false, inferenceInFlight false, memoryPressure "normal"
      4.000 ms  #1  0 → 1  jacclBootstrap          41 B          port 29400, sessionID "S-1"
      5.000 ms  #1  0 → 1  sessionEnd               9 B
      5.000 ms  #1  0 → 1  closed
      5.000 ms  #1  1 → 0  closed
sessions 1, messages 6, broken 0
"""


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return forks.run("inspect", *map(str, arguments), stdin=stdin)


def objects(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A captured sealed session and its key."""
    talk = a_talk()
    capture, keys = tmp_path / "link.pcapng", tmp_path / "keys"
    capture.write_bytes(talk.pcapng())
    keys.write_text(talk.key_log.getvalue())
    return capture, keys


# -- the time line -----------------------------------------------------------------------------------------------------


def test_the_time_line(tmp_path: Path) -> None:
    path = tmp_path / "link.pcap"
    path.write_bytes(pcap(a_talk(Revision.V1).packets))
    done = run(path)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = [line.split() for line in done.stdout.decode().splitlines()]
    expected = [line.split() for line in LINES.splitlines()]
    for mine, wanted in zip(shown, expected, strict=True):
        if "handshake" in " ".join(wanted):  # a signature has no fixed length
            mine, wanted = mine[:6], wanted[:6]
        assert mine == wanted


def test_sealed_with_and_without_the_key(files: tuple[Path, Path]) -> None:
    capture, keys = files
    closed = run(capture)
    assert closed.returncode == 0
    assert b"S-1" not in closed.stdout
    assert closed.stdout.count(b"its key is missing") == 4
    assert b"left sealed 4" in closed.stdout
    opened = run(capture, "--keylog", keys)
    assert opened.returncode == 0
    assert b'sessionID "S-1"' in opened.stdout
    assert b"left sealed" not in opened.stdout


def test_json(files: tuple[Path, Path]) -> None:
    *found, done = objects(run(files[0], "--keylog", files[1], "--json"))
    assert found[0] == {
        "kind": "opened",
        "time": 1000.001,
        "connection": 1,
        "ends": ["127.0.0.1:50001", "127.0.0.2:49999"],
    }
    (bootstrap,) = [each for each in found if each.get("type") == 7]
    assert bootstrap["payload"]["port"] == 29400
    assert (bootstrap["sealed"], bootstrap["sender"], bootstrap["name"]) == (True, 0, "jacclBootstrap")
    assert done["kind"] == "done"
    assert (done["ok"], done["opened"], done["message"], done["broken"], done["fault"]) == (True, 1, 6, 0, None)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["--type", "ping"], ["ping"]),
        (["--type", "3", "--type", "0x04"], ["ping", "pong"]),
        (["--rank", "1"], ["handshakeAck", "pong", None]),
        (["--rank", "1", "--type", "ping"], []),
    ],
)
def test_filters(filters: list[str], names: list[str | None], files: tuple[Path, Path]) -> None:
    *found, done = objects(run(files[0], "--keylog", files[1], "--json", *filters))
    assert [each.get("name") for each in found if each["kind"] != "opened"] == names
    assert done["message"] == 6


def test_hex(files: tuple[Path, Path]) -> None:
    shown = run(files[0], "--keylog", files[1], "--hex", "--type", "ping").stdout.decode().splitlines()
    assert [line.split() for line in shown if "length" in line or "type" in line] == [
        ["00000000", "1d", *["00"] * 7, "........", "length", "=", "29"],
        ["00000000", "03", ".", "type", "=", "ping"],
    ]
    assert [line.split()[-1] for line in shown[4:7]] == ["nonce", "ciphertext", "tag"]


def test_a_terminal_gets_colours_and_no_command_of_the_captures(tmp_path: Path) -> None:
    talk = a_long_talk()
    (tmp_path / "capture").write_bytes(talk.pcapng())
    (tmp_path / "keys").write_text(talk.key_log.getvalue())
    output = on_terminal(tmp_path / "capture", "--keylog", tmp_path / "keys", "--hex")
    assert b"\x1b[36m" in output
    assert b"\x1b[37m\x1b[41m" in output  # the broken field
    for dangerous in (b"\x1b[2J", b"\x07", "\u202e".encode(), "\x9b".encode()):
        assert dangerous not in output


def on_terminal(*arguments: object) -> bytes:
    """Return the command's output on a terminal, both streams."""
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    output = b""
    with subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=other_end, stderr=other_end, env=environment):
        os.close(other_end)
        with suppress(OSError):  # Linux reports the end this way
            while chunk := os.read(terminal, 65536):
                output += chunk
        os.close(terminal)
    return output


# -- exit codes --------------------------------------------------------------------------------------------------------


def test_a_broken_frame_is_exit_code_1(tmp_path: Path) -> None:
    talk = Talk(Revision.V1).say(0, Ping()).raw(0, encode_link_frame(b"\x07{}"))
    (tmp_path / "capture").write_bytes(talk.pcapng())
    done = run(tmp_path / "capture")
    assert done.returncode == 1
    assert b"field-missing in port at byte 2 of the cluster frame" in done.stdout
    *_, broken, last = objects(run(tmp_path / "capture", "--json"))
    assert broken["error"] == {"code": "field-missing", "offset": 2, "path": "port", "of": "cluster frame"}
    assert (last["ok"], last["broken"]) == (False, 1)


def test_a_capture_without_a_session_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "capture").write_bytes(pcap([]))
    done = run(tmp_path / "capture")
    assert done.returncode == 1
    assert done.stderr.decode().endswith("it contains no session of the protocol\n")


def test_a_capture_that_ends_in_a_packet_is_exit_code_1(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-5])
    done = run(files[0], "--keylog", files[1])
    assert done.returncode == 1
    assert b"jacclBootstrap" in done.stdout
    assert b"the file is truncated, inside a block, at byte" in done.stderr
    assert done.stderr.count(b"\n") == 1


NOTHING = {
    "text": b"a text file, given by mistake\n" * 20,
    "json": b'{"event": "ready"}\n' * 20,
    "image": b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
    "nothing": b"",
    "snoop": b"snoop\0\0\0" + bytes(200),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("option", ["--hex", "--json"])
def test_a_file_that_is_no_capture_is_said_so_in_one_line(name: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(NOTHING[name])
    done = run(tmp_path / "file", option)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"wireproto inspect: " in done.stderr
    assert b"it is " in done.stderr
    if option == "--hex":
        assert done.stdout == b""
    else:
        (last,) = objects(done)
        assert (last["kind"], last["ok"], last["broken"]) == ("done", False, 0)
        assert last["fault"] in done.stderr.decode()


def test_what_a_capture_lacks_is_counted(tmp_path: Path) -> None:
    packets = a_talk().packets
    cut = [(time, data[:100]) for time, data in packets]
    (tmp_path / "capture").write_bytes(pcap(packets, cut=100))
    done = run(tmp_path / "capture")
    assert done.returncode == 0
    missing = sum(len(data) - len(part) for (_, data), (_, part) in zip(packets, cut, strict=True))
    assert f"bytes missing from the capture {missing:,}" in done.stdout.decode()
    assert "(snapshot length 100)" in done.stdout.decode()
    *_, last = objects(run(tmp_path / "capture", "--json"))
    assert (last["lost_bytes"], last["snapshot_length"]) == (missing, 100)


def test_a_link_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "capture").write_bytes(pcap(a_talk().packets, link_type=127))
    done = run(tmp_path / "capture")
    assert done.returncode == 1
    assert b"packets of link type 127 (Wi-Fi in monitor mode) are not read; record" in done.stderr


def test_several_link_types_and_a_compressed_pipe(files: tuple[Path, Path]) -> None:
    talk = a_talk()
    capture = many_interfaces(talk.packets, *HEADS)
    files[1].write_text(talk.key_log.getvalue())
    done = run("-", "--keylog", files[1], stdin=gzip.compress(capture))
    assert done.returncode == 0
    assert b"messages 6, broken 0\n" in done.stdout


def test_a_stream_on_a_pipe() -> None:
    done = run("-", stdin=encode_link_frame(b"\x03") * 3)
    assert done.returncode == 0
    assert b"messages 3, broken 0\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{capture}", "--hex", "--json"], "give --hex or --json, not both"),
        (["{capture}", "--type", "nothing"], "'nothing' is not a message type"),
        (["{capture}", "--rank", "2"], "--rank"),
        (["{capture}.not"], "No such file"),
        (["/"], "Is a directory"),
        (["{capture}", "--keylog", "{capture}.not"], "No such file"),
        (["{capture}", "--decrypt", "{capture}"], "is the input file"),
        (["{capture}", "--svg", "{capture}"], "is the input file"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, files: tuple[Path, Path]) -> None:
    before = files[0].read_bytes()
    done = run(*(each.format(capture=files[0]) for each in arguments))
    assert done.returncode == 2
    assert text in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert files[0].read_bytes() == before


# -- streams and names of every kind -----------------------------------------------------------------------------------


def in_shell(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`command`, in which inspect stands for the command and "$@" for its arguments."""
    script = f'inspect() {{ {sys.executable} -m wireproto inspect "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(os.fsencode, map(str, arguments))],
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ('inspect "$@" <&-', 0),
        ('inspect "$@" >&-', 0),
        ('inspect "$@" 2>&-', 0),
        ('inspect "$@" --json <&- >&- 2>&-', 0),
        ("inspect - <&-", 1),
        ('inspect "$@" > /dev/full', 3),
        ('inspect "$@" --json > /dev/full', 3),
    ],
)
def test_closed_and_full_streams(command: str, code: int, files: tuple[Path, Path]) -> None:
    done = in_shell(command, files[0])
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == (code != 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("option", ["--svg", "--decrypt"])
def test_a_full_disk_did_not_say_which_file(option: str, files: tuple[Path, Path]) -> None:
    done = run(files[0], option, "/dev/full")
    assert (done.returncode, done.stderr) == (3, b"wireproto: /dev/full: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("option", [None, "--hex", "--json"])
def test_any_encoding_of_the_output(encoding: str, option: str | None, files: tuple[Path, Path]) -> None:
    done = in_shell('inspect "$@"', files[0], *([option] if option else []), PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"handshakeHello" in done.stdout


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
@pytest.mark.parametrize("contents", ["capture", "text"])
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_name_that_is_not_utf_8(contents: str, utf8: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"na\xff\x80me")
    path.write_bytes(a_talk().pcapng() if contents == "capture" else b"text\n")
    done = in_shell('inspect "$@"', path, LC_ALL="C", PYTHONUTF8=utf8, PYTHONCOERCECLOCALE="0")
    assert done.returncode == (contents == "text")
    assert done.stderr.count(b"\n") == (contents == "text")
    done = in_shell('inspect "$@"', f"{path}.not", LC_ALL="C", PYTHONUTF8=utf8, PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_cannot_be_written(files: tuple[Path, Path]) -> None:
    done = run(files[0], "--svg", files[0] / "no" / "where.svg")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1


# -- other sources, and what is written --------------------------------------------------------------------------------


def test_bytes_of_one_direction(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(encode_link_frame(b"\x03") * 2 + b"\x01")
    done = run(tmp_path / "bytes")
    assert done.returncode == 1
    assert done.stdout.count(b"ping") == 2
    assert b"truncated at byte 19 of the stream" in done.stdout


def test_a_capture_on_standard_input(files: tuple[Path, Path]) -> None:
    done = run("-", "--keylog", files[1], stdin=files[0].read_bytes())
    assert done.returncode == 0
    assert b"messages 6" in done.stdout


def test_opened(files: tuple[Path, Path], tmp_path: Path) -> None:
    opened = tmp_path / "opened.pcapng"
    assert run(files[0], "--keylog", files[1], "--decrypt", opened, "--type", "ping").returncode == 0
    assert opened.stat().st_mode & 0o777 == 0o600
    assert b'"sessionID":"S-1"' in opened.read_bytes()
    assert b"messages 6, broken 0\n" in run(opened).stdout


@pytest.mark.usefixtures("working_tshark")
def test_wireshark_shows_what_was_opened(files: tuple[Path, Path], tmp_path: Path) -> None:
    opened = tmp_path / "opened.pcapng"
    run(files[0], "--keylog", files[1], "--decrypt", opened)
    shown = []
    for path in (files[0], opened):
        command = ["tshark", "-X", f"lua_script:{DISSECTOR}", "-r", str(path), "-V"]
        shown.append(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
    assert [b"jacclBootstrap" in each for each in shown] == [False, True]


def test_a_diagram(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(files[0], "--keylog", files[1], "--svg", tmp_path / "a.svg").returncode == 0
    assert ">jacclBootstrap</text>" in (tmp_path / "a.svg").read_text()


# -- live, and ended early ---------------------------------------------------------------------------------------------


def test_a_pipe_is_shown_as_it_fills(files: tuple[Path, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = files[0].read_bytes()
    with subprocess.Popen([*COMMAND, str(tmp_path / "pipe")], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(data[: len(data) // 2])
            assert b"opened" in child.stdout.readline()
            assert b"handshakeHello" in child.stdout.readline()
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
            assert child.stderr is not None
            assert child.stderr.read() == b"wireproto: interrupted\n"


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    talk = Talk(Revision.V1)
    for _ in range(2000):
        talk.say(0, Ping())
    (tmp_path / "capture").write_bytes(talk.pcapng())
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "capture")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(30) == 3
        assert child.stderr.read() == b""


def test_a_long_capture_has_a_bar_and_little_memory(tmp_path: Path) -> None:
    talk = Talk(Revision.V1).say(0, Ping())
    step = encode_link_frame(b"\x05" + bytes(4 << 20))
    for _ in range(5):
        talk.raw(0, step)
    (tmp_path / "capture").write_bytes(talk.pcapng())
    output = on_terminal(tmp_path / "capture")
    assert b"MiB" in output
    assert output.count(b"inferenceStep") == 5


def test_help_loads_no_reader() -> None:
    code = "import sys, wireproto.cli.app; print({'backports.zstd', 'wireproto.inspection'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"set()\n"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="zstd is in the standard library")
def test_without_zstd_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "capture").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    hidden = "sys.modules['backports'] = sys.modules['backports.zstd'] = None"
    code = f"import sys; {hidden}; sys.argv = ['wireproto', 'inspect', {str(tmp_path / 'capture')!r}]\n"
    code += "from wireproto.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert b"pip install 'cluster-wireproto[inspect]'" in done.stderr
