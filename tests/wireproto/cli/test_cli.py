"""The command `wireproto`, as a child process."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import run
from wireproto import (
    EXTENSIONS,
    HandshakeHello,
    InferenceStep,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SideChannelPart,
    Versions,
    encode_frame,
    encode_link_frame,
)

BOOTSTRAP = JacclBootstrapPayload(29400, "a")
BOOTSTRAP_HEX = "077b22706f7274223a32393430302c2273657373696f6e4944223a2261227d"
COMMAND = [sys.executable, "-m", "wireproto"]


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# -- decode ------------------------------------------------------------------------------------------------------------

DECODED = '0x07  jacclBootstrap  0 → 1\n  port       29400\n  sessionID  "a"\n'


@pytest.mark.parametrize(
    "text", [BOOTSTRAP_HEX, BOOTSTRAP_HEX.upper(), base64.b64encode(encode_frame(BOOTSTRAP)).decode()]
)
def test_decode_an_argument(text: str) -> None:
    done = run("decode", text)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, DECODED, b"")


def test_decode_a_file(tmp_path: Path) -> None:
    (tmp_path / "frame").write_bytes(encode_frame(BOOTSTRAP))
    assert run("decode", "--file", str(tmp_path / "frame")).stdout.decode() == DECODED


def test_decode_standard_input() -> None:
    assert run("decode", stdin=encode_frame(BOOTSTRAP)).stdout.decode() == DECODED


def test_decode_a_link_stream_past_a_bad_frame() -> None:
    stream = b"".join(map(encode_link_frame, (b"\x03", b"\x03!", encode_frame(BOOTSTRAP))))
    done = run("decode", "--link", "--json", stdin=stream)
    assert done.returncode == 1
    assert lines(done) == [
        {"ok": True, "type": 3, "payload": None},
        {"ok": False, "error": "payload-not-empty", "offset": 1},
        {"ok": True, "type": 7, "payload": {"port": 29400, "sessionID": "a"}},
    ]


def test_decode_a_link_stream_that_is_cut() -> None:
    done = run("decode", "--link", "--json", encode_link_frame(b"\x03").hex() + "0500")
    assert done.returncode == 1
    assert lines(done)[-1] == {"ok": False, "error": "truncated", "offset": 11}


def test_decode_shows_the_error() -> None:
    done = run("decode", "03", "0321")
    assert done.returncode == 1
    assert done.stdout.decode() == "0x03  ping  0 → 1\nerror  payload-not-empty at byte 1: ping has no payload\n"


def test_decode_by_revision() -> None:
    stop = "0a7b22756964223a2261227d"
    assert run("decode", stop).returncode == 0
    done = run("decode", "--revision", "1", stop)
    assert (done.returncode, b"type-unknown" in done.stdout) == (1, True)


def test_decode_a_frame_of_an_extension() -> None:
    done = run("decode", "4001000000000102")
    assert (done.returncode, done.stdout.decode()) == (
        0,
        '0x40  sideChannelPart  1 → 0\n  sequence  1\n  part      "AAEC"\n',
    )
    assert run("decode", "--revision", "1", "4001000000").returncode == 1


# -- encode ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jacclBootstrap", "7", "0x07"])
def test_encode(name: str) -> None:
    done = run("encode", name, '{"port": 29400, "sessionID": "a"}')
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, BOOTSTRAP_HEX + "\n", b"")


MESSAGES: list[tuple[str, str, Message]] = [
    ("ping", "", Ping()),
    ("inferenceStep", '"AAEC"', InferenceStep(b"\x00\x01\x02")),
    ("promptTokens", '{"uid":"u","tokens":[1,2],"maxTokens":3}', PromptTokensPayload("u", (1, 2), 3)),
    (
        "pong",
        '{"memoryPressure":"normal","modelLoaded":true,"inferenceInFlight":false}',
        PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL),
    ),
    ("sideChannelPart", '{"part":"AAE=","sequence":258}', SideChannelPart(258, b"\x00\x01")),
    ("versions", '{"package":"1","mlx":"","backend":"ring","devices":""}', Versions("1", "", "ring", "")),
    (
        "versions",
        '{"package":"1","mlx":"","backend":"ring","devices":"","program":"dry-run"}',
        Versions("1", "", "ring", "", Program.DRY_RUN),
    ),
]


@pytest.mark.parametrize(("name", "payload", "message"), MESSAGES)
def test_encode_each_kind(name: str, payload: str, message: Message) -> None:
    frame = encode_frame(message, Revision.V2, EXTENSIONS)
    assert run("encode", name, payload).stdout.decode() == frame.hex() + "\n"
    assert run("encode", name, payload, "--form", "raw").stdout == frame
    linked = base64.b64encode(encode_link_frame(frame)).decode()
    assert run("encode", name, payload, "--form", "base64", "--link").stdout.decode() == linked + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ping", "{}"), "payload-not-empty at byte 0"),
        (("jacclBootstrap",), "truncated at byte 0"),
        (("jacclBootstrap", '{"port":70000,"sessionID":""}'), "field-range in port at byte 8"),
        (("inferenceStep", "[]"), "field-base64 at byte 0"),
        (("inferenceStep", '"AA"'), "field-base64 at byte 0"),
        (("sideChannelPart", '{"sequence":-1,"part":""}'), "field-range in sequence at byte 12"),
        (("outcome", "{}"), "field-missing in rank at byte 1"),
    ],
)
def test_encode_what_the_protocol_does_not_carry(arguments: tuple[str, ...], words: str) -> None:
    done = run("encode", *arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"wireproto encode: {words}: ")
    assert done.stderr.count(b"\n") == 1


# -- codec -------------------------------------------------------------------------------------------------------------


def test_codec_answers_each_line() -> None:
    hello = HandshakeHello(bytes(64), bytes(32), bytes(32), b"\x30")
    frames = [encode_frame(BOOTSTRAP), b"\x03", b"", b"\x0e", b"\x05\xff", b"\x07{", encode_frame(hello)]
    stdin = "".join(frame.hex() + "\n" for frame in frames) + "0\nzz\r\n 03\n03\r\n03"
    done = run("codec", stdin=stdin.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines(done) == [
        {"ok": True, "type": 7, "payload": {"port": 29400, "sessionID": "a"}},
        {"ok": True, "type": 3, "payload": None},
        {"ok": False, "error": "truncated", "offset": 0},
        {"ok": False, "error": "type-unknown", "offset": 0},
        {"ok": True, "type": 5, "payload": "/w=="},
        {"ok": False, "error": "truncated", "offset": 2},
        {
            "ok": True,
            "type": 1,
            "payload": {
                "sePubKeyRaw": base64.b64encode(bytes(64)).decode(),
                "ephemeralX25519PubKey": base64.b64encode(bytes(32)).decode(),
                "nonce": base64.b64encode(bytes(32)).decode(),
                "seSignature": "MA==",
            },
        },
        {"ok": False, "error": "not-hex", "offset": 0},
        {"ok": False, "error": "not-hex", "offset": 0},
        {"ok": False, "error": "not-hex", "offset": 0},
        {"ok": True, "type": 3, "payload": None},
        {"ok": True, "type": 3, "payload": None},
    ]


def test_codec_answers_before_the_next_line_comes() -> None:
    with subprocess.Popen([*COMMAND, "codec"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"03\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"ok": True, "type": 3, "payload": None}
        process.stdin.close()
        assert process.wait(60) == 0


def test_codec_knows_no_extensions() -> None:
    assert lines(run("codec", stdin=b"4000000000\n")) == [{"ok": False, "error": "type-unknown", "offset": 0}]


def test_codec_by_revision() -> None:
    assert lines(run("codec", "--revision", "1", stdin=b"0a\n")) == [
        {"ok": False, "error": "type-unknown", "offset": 0}
    ]


# -- as a user meets them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("decode", "zz"), "'zz' is neither hex nor base64"),
        (("decode", "03", "--file", "x"), "give frames or --file, not both"),
        (("decode", "--file", "no/such/file"), "no/such/file: No such file or directory"),
        (("decode", "--file", "/"), "/: Is a directory"),
        (("decode", "--revision", "3", "03"), "--revision"),
        (("encode", "pang"), "'pang' is not a type of revision 2; use one of handshakeHello,"),
        (("encode", "sessionStop", "--revision", "1"), "'sessionStop' is not a type of revision 1"),
        (("encode", "ping", "--form", "octal"), "'octal'"),
        (("deocde", "03"), "decode"),
        (("decode", "--frob"), "--frob"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [(), ("decode",), ("encode",), ("codec",)])
def test_help_fits_a_screen(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 24
    if command:
        assert b"Example: " in done.stdout


def test_reader_that_goes_away() -> None:
    script = f'yes 03 | "{sys.executable}" -m wireproto codec | head -n 1'
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=True)
    assert lines(done) == [{"ok": True, "type": 3, "payload": None}]
    assert done.stderr == b""


def test_interrupt() -> None:
    with subprocess.Popen(
        [*COMMAND, "codec"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"03\n")
        process.stdin.flush()
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"wireproto: interrupted\n"


def test_a_port_of_many_digits_was_a_traceback() -> None:
    done = run("conform", "peer", "--connect", f"127.0.0.1:{'0' * 5000}1")
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.splitlines()
    assert line.endswith(b" is not HOST:PORT")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["conform", "fuzz"])
def test_a_codec_outlived_the_command_that_a_signal_ended(command: str, number: signal.Signals, tmp_path: Path) -> None:
    """It does not end with its standard input, either."""
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    codec = ["sh", "-c", f"read line; echo $$ > {pipe}; exec sleep 1000"]
    with subprocess.Popen(
        [*COMMAND, command, "codec", "--json", "--", *codec], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        pid = int(pipe.read_text())
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr is not None
        what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        assert process.stderr.read() == f"wireproto: {what}\n".encode()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_goes_away_was_a_failed_case() -> None:
    """Exit code 1 is for those alone."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "conform", "codec", "--only", "codec.*-ping*", "--", *COMMAND, "codec"]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (3, b"")
