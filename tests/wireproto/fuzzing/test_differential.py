"""`fuzz codec`: faults of answers, and handling of a decoder with faults."""

import json
import sys
import time
from collections.abc import Sequence

import pytest

from tests.examples import examples
from tests.wireproto.fuzzing.faulty.base import Parser
from tests.wireproto.fuzzing.faulty.frames import CODECS, Coded
from tests.wireproto.oracle import judge
from wireproto import Revision, decode_frame, encode_frame
from wireproto.conformance.contract import expected_answer, wrong
from wireproto.fuzzing.asked import Codec, CodecError
from wireproto.fuzzing.differential import Differential
from wireproto.fuzzing.seeds import frame as frames
from wireproto.messages import PongPayload
from wireproto.testing.mutations import mutate_frame, random_frame

BOOTSTRAP = b'\x07{"port":1,"sessionID":"a"}'
PONG = b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'


def program(text: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, json, time\nfor line in sys.stdin:\n    {text}\n    sys.stdout.flush()"]


# -- verdicts on an answer --------------------------------------------------------------------------------------------

RIGHT = {"ok": True, "type": 7, "payload": {"port": 1, "sessionID": "a"}}
REFUSED = {"ok": False, "error": "truncated", "offset": 0}


@pytest.mark.parametrize(
    ("frame", "answer", "kind"),
    [
        (BOOTSTRAP, RIGHT, ""),
        (BOOTSTRAP, {"payload": {"sessionID": "a", "port": 1}, "type": 7, "ok": True, "more": 0}, ""),
        (BOOTSTRAP, RIGHT | {"payload": {"port": 1.0, "sessionID": "a"}}, "a wrong value of port"),
        (BOOTSTRAP, RIGHT | {"payload": {"port": True, "sessionID": "a"}}, "a wrong value of port"),
        (BOOTSTRAP, RIGHT | {"payload": {"port": 1}}, "a wrong value of sessionID"),
        (BOOTSTRAP, RIGHT | {"payload": {"port": 1, "sessionID": "a", "x": 0}}, "an extra key"),
        (BOOTSTRAP, RIGHT | {"payload": None}, "a wrong payload"),
        (BOOTSTRAP, RIGHT | {"type": 8}, "a wrong type"),
        (BOOTSTRAP, {"ok": False}, "refuses a valid frame, with no code"),
        (BOOTSTRAP, {"ok": False, "error": "json-syntax"}, "refuses a valid frame, with json-syntax"),
        (b"", REFUSED | {"error": "EOF", "offset": 7}, ""),  # its own name for it
        (b"", REFUSED, ""),
        (b"", {"ok": False}, ""),
        (b"", {"ok": False, "error": ["EOF"]}, ""),
        (b"", {"ok": True, "type": 3, "payload": None}, "accepts truncated"),
        (b"", REFUSED | {"error": "type-unknown"}, "type-unknown instead of truncated"),
        (b"", REFUSED | {"offset": 1}, "a wrong offset of truncated"),
        (b"", {"ok": 0}, "a malformed answer"),
        (b"", [], "a malformed answer"),
        (b"", {}, "a malformed answer"),
    ],
)
def test_what_is_wrong(frame: bytes, answer: object, kind: str) -> None:
    assert wrong(expected_answer(frame, Revision.V2), json.dumps(answer).encode()) == kind


@pytest.mark.parametrize("line", [b"", b"{", b"\xff", b"[" * 100_000])
def test_answers_that_are_none(line: bytes) -> None:
    assert wrong(expected_answer(b"\x03", Revision.V2), line) == "a malformed answer"


def test_what_is_expected() -> None:
    assert expected_answer(BOOTSTRAP, Revision.V2) == RIGHT
    assert expected_answer(b"\x05\xff", Revision.V2) == {"ok": True, "type": 5, "payload": "/w=="}
    assert expected_answer(b"\x03", Revision.V2) == {"ok": True, "type": 3, "payload": None}
    assert expected_answer(b"\x0a{}", Revision.V1) == {"ok": False, "error": "type-unknown", "offset": 0}
    message = decode_frame(PONG)
    assert isinstance(message, PongPayload)
    assert expected_answer(encode_frame(message), Revision.V2)["payload"] == json.loads(PONG[1:])


# -- decoders ---------------------------------------------------------------------------------------------------------


def test_a_decoder_is_asked() -> None:
    codec = Codec([sys.executable, "-m", "wireproto", "codec"])
    try:
        answers = codec.ask([b"\x03", b"", b"\x03"])
        assert [json.loads(answer)["ok"] for answer in answers] == [True, False, True]
        assert len(codec.ask([b"\x05" + bytes(300_000)])) == 1  # more than a pipe holds
        assert codec.peak() > 1_000_000
    finally:
        codec.stop()
    assert codec.peak() == 0


def test_a_decoder_that_ends_is_started_anew() -> None:
    codec = Codec(program("print('{}') if line != '03\\n' else sys.exit(7)"))
    with pytest.raises(CodecError, match="crash: exit status 7") as caught:
        codec.ask([b"\x01", b"\x03", b"\x01"])
    assert caught.value.answers == [b"{}"]
    assert codec.ask([b"\x01"]) == [b"{}"]
    codec.stop()


def test_a_decoder_that_has_ended_is_told_at_once_though_a_child_of_it_holds_the_pipe() -> None:
    codec = Codec(["sh", "-c", "sleep 60 & echo 'no room' >&2; exit 3"])
    started = time.monotonic()
    with pytest.raises(CodecError, match="crash: exit status 3") as caught:
        codec.ask([b"\x03"])
    assert (caught.value.crashed, caught.value.stderr) == (True, ("no room",))
    assert time.monotonic() - started < 9  # not the 10 s of an answer


def test_a_crash_comes_with_its_shortest_frame_and_what_was_said_last() -> None:
    dies = program(
        "frame = bytes.fromhex(line); "
        "b'u' in frame and (print('no room', file=sys.stderr), sys.exit(70)); print(json.dumps({'ok': False}))"
    )
    found = Differential(dies, 1)._smaller("crash: exit status 70", [b"\x0a" + b"auau"], time.monotonic() + 60)
    assert (found.frames, found.is_crash, found.stderr) == ((b"u",), True, ("no room",))


def test_a_slow_decoder_does_not_lengthen_a_run() -> None:
    """A batch of 32 frames takes it 16 s."""
    differential = Differential(program("time.sleep(0.5); print(json.dumps({'ok': False}))"), 1, has_extensions=True)
    started = time.monotonic()
    list(differential.run(1.0))
    assert time.monotonic() - started < 10


def test_a_decoder_that_never_answers_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.fuzzing.asked.START_TIME", 0.5)
    (found,) = Differential(["sleep", "60"], 1).run(0.1)
    assert (found.kind, found.frames) == ("no answer within 0.5 s", (b"\x03",))


def test_names_that_the_specification_does_not_have_are_told() -> None:
    differential = Differential(program("print(json.dumps({'ok': False, 'error': 'EOF'}))"), 1, has_extensions=True)
    list(differential._asked([b""]))
    assert differential.by_verdict
    differential._codec.stop()


def test_a_decoder_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.fuzzing.asked.START_TIME", 0.5)
    codec = Codec(program("time.sleep(100)"))
    with pytest.raises(CodecError, match=r"no answer within 0\.5 s"):
        codec.ask([b"\x03"])
    codec.stop()


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Codec(["/nowhere/codec"]).ask([b"\x03"])


# -- the whole --------------------------------------------------------------------------------------------------------


def faulty(name: str) -> list[str]:
    return [sys.executable, "-m", "tests.wireproto.fuzzing.faulty", name]


def test_the_base_of_the_faulty_parsers_is_right() -> None:
    """It agrees with this package and the tests' own reader; otherwise an unplanted fault would be found."""
    from random import Random

    random = Random(5)
    drawn = [random_frame(random) for _ in range(examples(2000))]
    drawn += [mutate_frame(random, frame) for frame in drawn]
    for parser in (Parser(), Coded()):
        for frame in (*drawn, *(data for _, data in frames())):
            answer = json.dumps(parser.answer(frame)).encode()
            assert wrong(expected_answer(frame, Revision.V2), answer) == "", frame
            if frame and frame[0] in Parser.json_types:
                assert (judge(frame, Revision.V2) is not None) is json.loads(answer)["ok"]


@pytest.mark.parametrize("command", [[sys.executable, "-m", "wireproto", "codec"], faulty("Parser")])
def test_who_is_right_is_not_accused(command: Sequence[str]) -> None:
    differential = Differential(command, 1)
    assert list(differential.run(1.0)) == []
    assert differential.frames > 0


def test_a_disagreement_is_made_small() -> None:
    found = next(Differential(faulty("PingWithPayload"), 1).run(60.0))
    assert found.kind == "accepts payload-not-empty"
    assert len(found.frames) == 1
    assert len(found.frames[0]) == 2
    assert found.text == found.frames[0].hex().encode() + b"\n"
    assert Differential(faulty("PingWithPayload"), 1).replay(found.frames) == found
    assert Differential(faulty("Parser"), 1).replay(found.frames) is None


def test_a_disagreement_that_needs_earlier_frames() -> None:
    found = next(Differential(faulty("MissingKeyIsThatOfTheLastFrame"), 1).run(60.0))
    assert (found.kind, len(found.frames)) == ("accepts field-missing", 2)


COSTLY = """
import sys, time
for line in sys.stdin:
    if line[:2] == "05":
        taken = bytearray(b"1") * 10**8
        time.sleep(float(sys.argv[1]))
    print('{"ok": true, "type": 5, "payload": ""}', flush=True)
"""


@pytest.mark.parametrize(
    ("seconds", "limit", "kind"),
    [
        ("0.6", "asked.SLOW", "more than 2 s for one answer"),
        ("0", "differential.MUCH_MEMORY", "more than 256 MiB of memory"),
    ],
)
def test_what_costs_too_much_is_made_small_and_shown_again(
    seconds: str, limit: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"wireproto.fuzzing.{limit}", 0.5 if limit == "asked.SLOW" else 64 * 2**20)
    differential = Differential([sys.executable, "-c", COSTLY, seconds], 1)
    found = differential._smaller(kind, [b"\x03", b"\x05"], time.monotonic() + 10)
    assert (found.kind, found.frames, found.is_repeated) == (kind, (b"\x05",), True)
    assert differential.replay(found.frames) == found


def test_what_the_last_frames_do_not_show_again() -> None:
    """It is saved unchanged, and reported with the seed."""
    found = Differential(faulty("Parser"), 1)._smaller(
        "accepts field-range", [b"\x03", BOOTSTRAP], time.monotonic() + 10
    )
    assert (found.kind, found.frames, found.is_repeated) == ("accepts field-range", (b"\x03", BOOTSTRAP), False)


def test_the_same_frames_for_the_same_seed() -> None:
    batches = [list(Differential([], seed)._batch()) for seed in (1, 1, 2)]
    assert batches[0] == batches[1] != batches[2]


def test_a_decoder_without_extensions_was_accused() -> None:
    named = BOOTSTRAP[:-1] + b',"extensions":["a/1"]}'
    assert expected_answer(named, Revision.V2, has_extensions=False) == RIGHT
    assert expected_answer(named.replace(b"a/1", b"a"), Revision.V2, has_extensions=False) == {}
    plain = program(
        "frame = bytes.fromhex(line); print(json.dumps({'ok': True, 'type': 4, 'payload': {'modelLoaded': True}}))"
    )
    assert not Differential(plain, 1)._asks_for_extensions()
    assert Differential([sys.executable, "-m", "wireproto", "codec"], 1)._asks_for_extensions()


def test_every_vector_is_asked_first_invalid_ones_too() -> None:
    """One of them is the payload whose 513th opening bracket is its last byte."""
    batches = Differential([], 1)._batches()
    vectors = [data for _, data in frames()]
    asked: list[bytes] = []
    while len(asked) < len(vectors):
        asked += next(batches)
    assert sorted(asked) == sorted(vectors)
    assert any(frame.count(b"[") > 500 and frame.endswith(b"[") for frame in asked)


def test_every_fault_is_a_fault() -> None:
    """Each faulty decoder differs from the base only in its class."""
    assert len(CODECS) >= 25
    assert all(issubclass(each, Parser) and each not in (Parser, Coded) for each in CODECS.values())
