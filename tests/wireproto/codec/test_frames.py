"""One table of messages and their exact bytes; each row drives encoder, decoder, schema and link decoder.

The bytes are written out, from the protocol, so that a wrong key, order or base64 alphabet shows.
"""

import linecache
import struct
from collections.abc import Callable
from itertools import product
from typing import Final, NamedTuple

import pytest

from tests.examples import some
from tests.wireproto.payloads import ALL_EXTENSIONS, EXTENSION_OF, EXTENSION_TYPES, JSON_CLASSES, V1_TYPES
from tests.wireproto.session_states import EACH_REVISION, MESSAGES
from tests.wireproto.streams import pattern
from tests.wireproto.verdicts import (
    Accepted,
    Stream,
    decode_stream,
    expected,
    fast,
    parse_stream,
    pieces,
    slow,
    verdict,
)
from wireproto import (
    ClusterMsgType,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    LinkDecoder,
    MemoryPressure,
    Message,
    Outcome,
    OutcomeState,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SessionEnd,
    SessionStopPayload,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
    decode_frame,
    encode_frame,
    encode_link_frame,
    link_frame_pieces,
    schema,
)
from wireproto.codec import frame as fast_path
from wireproto.codec.frame import frame_pieces
from wireproto.messages import REGISTRY, SPEC_BY_CLASS
from wireproto.testing.by_schema import build_message


class Row(NamedTuple):
    """A message, and the frame that we send for it."""

    id: str
    revision: Revision
    message: Message
    frame: bytes


V1, V2 = Revision.V1, Revision.V2
I64_MIN, I64_MAX = -9223372036854775808, 9223372036854775807
ALL_BYTES: Final = bytes(range(256))
UUID: Final = "6F1C1B1E-0B0A-4E4C-9A57-0D5A2B7E8C11"

ROWS: Final = (
    Row(
        "hello-zeros",
        V1,
        HandshakeHello(bytes(64), bytes(32), bytes(32), b""),
        b'\x01{"sePubKeyRaw":"' + b"A" * 86 + b'==","ephemeralX25519PubKey":"' + b"A" * 43
        + b'=","nonce":"' + b"A" * 43 + b'=","seSignature":""}',
    ),
    Row(
        "hello-ones",
        V1,
        HandshakeHello(b"\xff" * 64, b"\xff" * 32, b"\xff" * 32, b"\xff"),
        b'\x01{"sePubKeyRaw":"' + b"/" * 85 + b'w==","ephemeralX25519PubKey":"' + b"/" * 42
        + b'8=","nonce":"' + b"/" * 42 + b'8=","seSignature":"/w=="}',
    ),
    Row(
        "ack-each-field-its-own",
        V1,
        HandshakeAck(bytes(range(64)), bytes(range(64, 96)), bytes(range(96, 128)), b"\xfb\xef\xbe\x00"),
        b'\x02{"sePubKeyRaw":'
        b'"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",'
        b'"ephemeralX25519PubKey":"QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=",'
        b'"nonce":"YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn8=","seSignature":"++++AA=="}',
    ),
    Row("ping", V1, Ping(), b"\x03"),
    Row(
        "pong-normal",
        V1,
        PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL),
        b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}',
    ),
    Row(
        "pong-warning",
        V1,
        PongPayload(model_loaded=False, inference_in_flight=True, memory_pressure=MemoryPressure.WARNING),
        b'\x04{"modelLoaded":false,"inferenceInFlight":true,"memoryPressure":"warning"}',
    ),
    Row(
        "pong-critical",
        V1,
        PongPayload(model_loaded=True, inference_in_flight=True, memory_pressure=MemoryPressure.CRITICAL),
        b'\x04{"modelLoaded":true,"inferenceInFlight":true,"memoryPressure":"critical"}',
    ),
    Row("inference-step", V1, InferenceStep(ALL_BYTES), b"\x05" + ALL_BYTES),
    Row("inference-step-empty", V1, InferenceStep(b""), b"\x05"),
    Row("inference-step-like-json", V1, InferenceStep(b'{"box":"AA=="}'), b'\x05{"box":"AA=="}'),
    Row("inference-token", V1, InferenceToken(bytes(28)), b"\x06" + bytes(28)),
    Row("inference-token-empty", V1, InferenceToken(b""), b"\x06"),
    Row("bootstrap", V1, JacclBootstrapPayload(29400, UUID), b'\x07{"port":29400,"sessionID":"%s"}' % UUID.encode()),
    Row("bootstrap-least", V1, JacclBootstrapPayload(0, ""), b'\x07{"port":0,"sessionID":""}'),
    Row("bootstrap-greatest", V1, JacclBootstrapPayload(65535, "x"), b'\x07{"port":65535,"sessionID":"x"}'),
    Row("bootstrap-path", V1, JacclBootstrapPayload(1, "../a/b"), b'\x07{"port":1,"sessionID":"../a/b"}'),
    Row(
        "bootstrap-escapes",
        V1,
        JacclBootstrapPayload(1, '"\\\b\f\n\r\t\0\x01\x1f\x7f'),
        b'\x07{"port":1,"sessionID":"\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\x7f"}',
    ),
    Row(
        "bootstrap-not-ascii",
        V1,
        JacclBootstrapPayload(2, "é€\u2028\ufeff\uffff"),
        b'\x07{"port":2,"sessionID":"\xc3\xa9\xe2\x82\xac\xe2\x80\xa8\xef\xbb\xbf\xef\xbf\xbf"}',
    ),
    Row(
        "bootstrap-astral",
        V1,
        JacclBootstrapPayload(3, "\U00010000😀\U0010ffff"),
        b'\x07{"port":3,"sessionID":"\xf0\x90\x80\x80\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"}',
    ),
    Row(
        "bootstrap-next-to-surrogates",
        V1,
        JacclBootstrapPayload(4, "\ud7ff\ue000"),
        b'\x07{"port":4,"sessionID":"\xed\x9f\xbf\xee\x80\x80"}',
    ),
    Row(
        "bootstrap-session-id-like-json",
        V1,
        JacclBootstrapPayload(5, '","port":6,"sessionID":"'),
        b'\x07{"port":5,"sessionID":"\\",\\"port\\":6,\\"sessionID\\":\\""}',
    ),
    Row(
        "prompt-ends",
        V2,
        PromptTokensPayload("u", (0, -1, I64_MIN, I64_MAX), I64_MAX),
        b'\x08{"uid":"u","tokens":[0,-1,-9223372036854775808,9223372036854775807],"maxTokens":9223372036854775807}',
    ),
    Row("prompt-empty", V2, PromptTokensPayload("", (), 0), b'\x08{"uid":"","tokens":[],"maxTokens":0}'),
    Row("prompt-one", V2, PromptTokensPayload("", (7,), -1), b'\x08{"uid":"","tokens":[7],"maxTokens":-1}'),
    Row("step-token", V2, StepTokenPayload("u-1", 151643), b'\x09{"uid":"u-1","token":151643}'),
    Row("step-token-least", V2, StepTokenPayload("", I64_MIN), b'\x09{"uid":"","token":-9223372036854775808}'),
    Row("step-token-greatest", V2, StepTokenPayload("", I64_MAX), b'\x09{"uid":"","token":9223372036854775807}'),
    Row("session-stop", V2, SessionStopPayload("u"), b'\x0a{"uid":"u"}'),
    Row("session-stop-empty", V2, SessionStopPayload(""), b'\x0a{"uid":""}'),
    Row(
        "pp-activation",
        V2,
        PPActivationPayload("u", 2, b"\x00\x10\x83\x10\x51\x87"),
        b'\x0b{"uid":"u","seqLen":2,"sealedActivation":"ABCDEFGH"}',
    ),
    Row(
        "pp-activation-empty",
        V2,
        PPActivationPayload("", I64_MIN, b""),
        b'\x0b{"uid":"","seqLen":-9223372036854775808,"sealedActivation":""}',
    ),
    Row(
        "pp-activation-one-byte",
        V2,
        PPActivationPayload("é", I64_MAX, b"\xfe"),
        b'\x0b{"uid":"\xc3\xa9","seqLen":9223372036854775807,"sealedActivation":"/g=="}',
    ),
    Row("pp-token", V2, PPTokenPayload("u", b"\xfb\xff"), b'\x0c{"uid":"u","sealedToken":"+/8="}'),
    Row("pp-token-empty", V2, PPTokenPayload("", b""), b'\x0c{"uid":"","sealedToken":""}'),
    Row("pp-session-end", V2, PPSessionEndPayload("u"), b'\x0d{"uid":"u"}'),
    Row("pp-session-end-long", V2, PPSessionEndPayload("u" * 300), b'\x0d{"uid":"' + b"u" * 300 + b'"}'),
    Row("session-end", V1, SessionEnd(), b"\xff"),
    Row(
        "pong-extensions",
        V1,
        PongPayload(True, False, MemoryPressure.NORMAL, ("outcome/1", "side-channel/1")),
        b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal",'
        b'"extensions":["outcome/1","side-channel/1"]}',
    ),
    Row(
        "bootstrap-extension",
        V1,
        JacclBootstrapPayload(1, "x", ("z-9/9999",)),
        b'\x07{"port":1,"sessionID":"x","extensions":["z-9/9999"]}',
    ),
    Row(
        "bootstrap-extensions-most",
        V1,
        JacclBootstrapPayload(1, "", ("a" * 62 + "/1", *(f"a/{number}" for number in range(1, 32)))),
        b'\x07{"port":1,"sessionID":"","extensions":["' + b"a" * 62 + b'/1",'
        + b",".join(b'"a/%d"' % number for number in range(1, 32)) + b"]}",
    ),
    Row("part", V2, SideChannelPart(0x01020304, b"\x05\x06"), b"\x40\x04\x03\x02\x01\x05\x06"),
    Row("part-empty", V2, SideChannelPart(0, b""), b"\x40\0\0\0\0"),
    Row("part-last", V2, SideChannelPart(0xFFFF_FFFF, ALL_BYTES), b"\x40\xff\xff\xff\xff" + ALL_BYTES),
    Row("whole", V2, SideChannelWhole(1, b'{"sequence":2}'), b'\x41\x01\0\0\0{"sequence":2}'),
    Row("whole-empty", V2, SideChannelWhole(2**31, b""), b"\x41\0\0\0\x80"),
    Row(
        "outcome-started",
        V2,
        Outcome(0, OutcomeState.STARTED, "", "", ""),
        b'\x42{"rank":0,"state":"started","stage":"","code":"","message":""}',
    ),
    Row(
        "outcome-ready",
        V2,
        Outcome(65535, OutcomeState.READY, "s", "", ""),
        b'\x42{"rank":65535,"state":"ready","stage":"s","code":"","message":""}',
    ),
    Row(
        "outcome-failed",
        V2,
        Outcome(1, OutcomeState.FAILED, "init", "native-error", "é\n" * 512),
        b'\x42{"rank":1,"state":"failed","stage":"init","code":"native-error","message":"'
        + b"\xc3\xa9\\n" * 512 + b'"}',
    ),
    Row(
        "outcome-finished",
        V2,
        Outcome(7, OutcomeState.FINISHED, "", "", ""),
        b'\x42{"rank":7,"state":"finished","stage":"","code":"","message":""}',
    ),
    Row(
        "versions",
        V2,
        Versions("0.1.0", "0.32.4", "jaccl", "0123456789abcdef" * 4),
        b'\x43{"package":"0.1.0","mlx":"0.32.4","backend":"jaccl","devices":"' + b"0123456789abcdef" * 4 + b'"}',
    ),
    Row(
        "versions-empty",
        V2,
        Versions("", "", "", ""),
        b'\x43{"package":"","mlx":"","backend":"","devices":""}',
    ),
    *(
        Row(
            f"versions-{word}",
            V2,
            Versions("", "", "ring", "", program),
            b'\x43{"package":"","mlx":"","backend":"ring","devices":"","program":"%s"}' % word.encode(),
        )
        for word, program in (
            ("hold", Program.HOLD),
            ("module", Program.MODULE),
            ("command", Program.COMMAND),
            ("dry-run", Program.DRY_RUN),
        )
    ),
)  # fmt: skip

EVERY_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
JSON_ROWS = [row for row in ROWS if isinstance(row.message, JSON_CLASSES)]
SEVERAL = (
    b"\x01\x00\x00\x00\x00\x00\x00\x00\x03"
    b"\x01\x00\x00\x00\x00\x00\x00\x00\xff"
    b"\x0c\x00\x00\x00\x00\x00\x00\x00\x0a" + b'{"uid":"u"}'
)


def known_in(row: Row) -> tuple[Revision, ...]:
    return (V1, V2) if row.revision == V1 else (V2,)


def on_link(frame: bytes) -> bytes:
    return struct.pack("<Q", len(frame)) + frame


def test_table_is_whole() -> None:
    assert {row.frame[0] for row in ROWS} == set(ClusterMsgType)
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.frame[0] for row in ROWS if row.revision == V1} == V1_TYPES


@EVERY_ROW
def test_encode(row: Row) -> None:
    for revision in known_in(row):
        assert encode_frame(row.message, revision, ALL_EXTENSIONS) == row.frame
        assert build_message(row.message, revision, ALL_EXTENSIONS) == row.frame
        assert b"".join(frame_pieces(row.message, revision, ALL_EXTENSIONS)) == row.frame


@pytest.mark.parametrize("cls", [InferenceStep, InferenceToken])
def test_opaque_bytes_are_a_piece_of_their_own(
    cls: type[InferenceStep | InferenceToken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not copied, if the frame keeps the limit of its type; otherwise it is for `encode_frame` to refuse."""
    monkeypatch.setitem(SPEC_BY_CLASS, cls, SPEC_BY_CLASS[cls]._replace(max_length=100))
    fits, exceeds = cls(pattern(99)), cls(pattern(100))
    first, second = frame_pieces(fits, V2, ())
    assert first == encode_frame(fits)[:1]
    assert second is fits.box
    assert frame_pieces(exceeds, V2, ()) == (encode_frame(exceeds), b"")


@EVERY_ROW
def test_defaults_are_revision_2_and_no_extension(row: Row) -> None:
    if row.frame[0] in EXTENSION_TYPES:
        assert verdict(encode_frame, row.message) == expected("type-unknown", None)
        assert verdict(decode_frame, row.frame) == expected("type-unknown", 0, "type")
    else:
        assert encode_frame(row.message) == row.frame
        assert decode_frame(row.frame) == row.message


@EVERY_ROW
def test_each_extension_has_its_own_types(row: Row) -> None:
    """An extension that is not agreed on, or unknown, makes no difference. [EXT-UNINVITED]"""
    own = EXTENSION_OF.get(type(row.message))
    for agreed in (frozenset({"side-channel/1"}), frozenset({"outcome/1", "later/1"}), frozenset({"x/1"})):
        accepted = own is None or own in agreed
        unknown = expected("type-unknown", 0, "type")
        whole = Accepted(type(row.message), row.message)
        assert fast(row.frame, V2, agreed) == slow(row.frame, V2, agreed) == (whole if accepted else unknown)
        encoded = Accepted(bytes, row.frame) if accepted else expected("type-unknown", None)
        assert verdict(encode_frame, row.message, V2, agreed) == encoded
        assert isinstance(verdict(build_message, row.message, V2, agreed), Accepted) is accepted


@EVERY_ROW
def test_decode(row: Row) -> None:
    """[FRAME-TYPE]"""
    accepted = Accepted(type(row.message), row.message)
    for revision in known_in(row):
        assert fast(row.frame, revision) == accepted
        assert slow(row.frame, revision) == accepted


@EVERY_ROW
def test_unknown_in_the_other_revision(row: Row) -> None:
    """[FRAME-TYPE]"""
    if row.revision == V2:
        unknown = expected("type-unknown", 0, "type")
        assert fast(row.frame, V1) == slow(row.frame, V1) == unknown


HOLDERS: Final[dict[str, Callable[[bytes], bytearray | memoryview]]] = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "of-bytearray": lambda frame: memoryview(bytearray(frame)),
    "slice": lambda frame: memoryview(b"[" + frame + b"]")[1:-1],
    "strided": lambda frame: memoryview(bytes(byte for pair in zip(frame, frame, strict=True) for byte in pair))[::2],
    "signed-chars": lambda frame: memoryview(frame).cast("b"),
    "chars": lambda frame: memoryview(frame).cast("c"),
}


@EVERY_ROW
def test_decode_whatever_holds_the_bytes(row: Row) -> None:
    for holder, hold in HOLDERS.items():
        message = decode_frame(hold(row.frame), V2, ALL_EXTENSIONS)  # type: ignore[arg-type]
        assert message == row.message, holder
        for name in message.__struct_fields__:
            assert type(getattr(message, name)) is type(getattr(row.message, name)), holder


@EVERY_ROW
def test_message_does_not_change_with_the_buffer(row: Row) -> None:
    buffer = bytearray(row.frame)
    message = decode_frame(memoryview(buffer), V2, ALL_EXTENSIONS)
    buffer[:] = bytes(len(buffer))
    assert message == row.message


@EVERY_ROW
def test_every_truncation(row: Row) -> None:
    """The slow schema judges some of them in the profile `local`."""
    judged = {*some(range(len(row.frame)))}
    for length in range(len(row.frame)):
        prefix = row.frame[:length]
        for revision in known_in(row):
            outcome = fast(prefix, revision)
            assert length not in judged or outcome == slow(prefix, revision)
            if isinstance(row.message, InferenceStep | InferenceToken) and length:
                assert outcome == Accepted(type(row.message), type(row.message)(prefix[1:]))
            elif isinstance(row.message, SideChannelPart | SideChannelWhole) and length >= 5:
                shorter = type(row.message)(row.message.sequence, prefix[5:])
                assert outcome == Accepted(type(row.message), shorter)
            else:
                assert outcome == expected("truncated", length)


TAILS: Final = (b"\0", b"}", b"{}", b"\x0c", b"\xa0", b"x", b"\xff", b"\xef\xbb\xbf", b",", b"1")


@EVERY_ROW
def test_trailing_bytes(row: Row) -> None:
    for tail, revision in product(TAILS, known_in(row)):
        frame = row.frame + tail
        outcome = fast(frame, revision)
        assert outcome == slow(frame, revision), tail
        match row.message:
            case InferenceStep() | InferenceToken():
                verdict = Accepted(type(row.message), type(row.message)(frame[1:]))
            case SideChannelPart(sequence) | SideChannelWhole(sequence):
                verdict = Accepted(type(row.message), type(row.message)(sequence, frame[5:]))
            case Ping() | SessionEnd():
                verdict = expected("payload-not-empty", 1)
            case _:
                verdict = expected("trailing-data", len(row.frame))
        assert outcome == verdict, tail


@pytest.mark.parametrize("size", [1024 * 1024, 1024 * 1024 + 1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1])
def test_longest_gather(size: int) -> None:
    """1 MiB from each of 8 ranks. [EXT-SIDE-CHANNEL-SIZE]"""
    for cls, key, limit in ((SideChannelPart, "part", 1024 * 1024), (SideChannelWhole, "whole", 8 * 1024 * 1024)):
        message = cls(7, bytes(size))
        frame = bytes([0x40 if cls is SideChannelPart else 0x41, 7, 0, 0, 0]) + bytes(size)
        if size <= limit:
            assert fast(frame) == slow(frame) == Accepted(cls, message)
            assert encode_frame(message, V2, ALL_EXTENSIONS) == build_message(message, V2, ALL_EXTENSIONS) == frame
        else:
            assert fast(frame) == slow(frame) == expected("field-length", 5, key)
            assert verdict(encode_frame, message, V2, ALL_EXTENSIONS) == expected("field-length", None, key)
            assert verdict(build_message, message, V2, ALL_EXTENSIONS) == expected("field-length", None, key)


@pytest.mark.parametrize("row", JSON_ROWS, ids=lambda row: row.id)
def test_white_space_around_json(row: Row) -> None:
    accepted = Accepted(type(row.message), row.message)
    for before, after in [(b" ", b""), (b"", b"\n"), (b"\t\r\n ", b" \r\n\t")]:
        frame = row.frame[:1] + before + row.frame[1:] + after
        assert fast(frame) == slow(frame) == accepted
        late = frame + b"\0"
        assert fast(late) == slow(late) == expected("trailing-data", len(frame))


@EVERY_ROW
def test_link_round_trip(row: Row) -> None:
    frame = on_link(row.frame)
    assert encode_link_frame(row.frame) == frame
    assert b"".join(link_frame_pieces(row.frame)) == frame
    assert schema.build(schema.LinkFrame, {"body": row.frame}) == frame
    assert parse_stream(frame) == Stream([row.frame], None)


@EVERY_ROW
def test_link_at_every_split(row: Row) -> None:
    stream = SEVERAL + on_link(row.frame)
    whole = Stream([b"\x03", b"\xff", b'\x0a{"uid":"u"}', row.frame], None)
    assert decode_stream([stream]) == whole
    assert decode_stream(pieces(stream, range(len(stream)))) == whole
    for split in range(len(stream) + 1):
        chunks = [stream[:split], stream[split:]]
        assert decode_stream(chunks) == whole
        assert decode_stream(chunks, buffered=lambda _: True) == whole


@EVERY_ROW
def test_link_truncated_everywhere(row: Row) -> None:
    stream = on_link(row.frame)
    byte_by_byte = LinkDecoder()  # it goes on after the end of a stream that turns out to be none
    for length in range(1, len(stream)):
        prefix = stream[:length]
        cut = Stream([], expected("truncated", length))
        assert decode_stream([prefix]) == cut
        assert decode_stream([prefix[-1:]], byte_by_byte) == cut
        assert parse_stream(prefix) == cut


# -- generated functions ----------------------------------------------------------------------------------------------


@EACH_REVISION
def test_each_plain_type_gets_its_functions_with_its_first_frame(revision: Revision) -> None:
    """Extension types have no decoder there, or they would be known without agreement. [EXT-UNINVITED]"""
    for message in MESSAGES:
        if SPEC_BY_CLASS[type(message)].is_known(revision, ALL_EXTENSIONS):
            assert decode_frame(encode_frame(message, revision, ALL_EXTENSIONS), revision, ALL_EXTENSIONS) == message
    plain = [spec for spec in REGISTRY if spec.is_known(revision)]
    assert fast_path._DECODERS[revision].keys() == {spec.msg_type for spec in plain}
    assert fast_path._ENCODERS[revision].keys() == {spec.payload for spec in plain}


def test_generated_code_shows_up_in_tracebacks() -> None:
    linecache.checkcache()
    for function in (fast_path._decoder(ClusterMsgType.PING), fast_path._encoder(Ping)):
        assert linecache.getline(function.__code__.co_filename, 1).startswith("lambda ")
