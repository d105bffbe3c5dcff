"""Harnesses of the stateless layers: link streams, cluster frames, and the other layouts of the schema."""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from random import Random
from typing import Any, Final

from wireproto import jaccl, schema
from wireproto.codec import tensor
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import Frame, LinkDecoder, encode_link_frame
from wireproto.errors import TruncatedError, WireError
from wireproto.fuzzing import seeds
from wireproto.fuzzing.harness import Harness, Verdict, cuts, error_verdict, expect, expect_same, kind_of, verdict_of
from wireproto.fuzzing.sealed import mutate_link
from wireproto.messages import EXTENSIONS, SPEC_BY_CLASS, SPEC_BY_TYPE, Message, PayloadKind, Revision
from wireproto.testing.by_schema import build_message, parse_message
from wireproto.testing.mutations import mutate_bytes, mutate_frame, random_frame

_ALL: Final = frozenset(EXTENSIONS)

# -- link streams -----------------------------------------------------------------------------------------------------


def link_harness(make: Callable[[], LinkDecoder] = LinkDecoder) -> Harness:
    """Return the harness of link streams; `make` makes the decoder. [LINK-*]"""

    def check(data: bytes) -> object:
        whole = _decoded(make(), [data], buffered=False)
        _expect_stream(_decoded(make(), cuts(data), buffered=False), whole, "any chunking")
        _expect_stream(_decoded(make(), cuts(data), buffered=True), whole, "any buffering")
        _expect_stream(_read(data), whole, "the plain reader")
        bodies, _ = whole
        encoded = b"".join(encode_link_frame(body) for body in bodies)
        expect(data.startswith(encoded), "encoding again")
        return min(len(bodies), 3), kind_of(whole[1])

    return Harness("link", check, seeds.link, mutate_link, ("wireproto.codec.link",))


_Stream = tuple[list[bytes], Verdict]
"""The bodies, and the end of the stream."""


_CLEAN: Final[Verdict] = ("ok", type(None), None)


def _expect_stream(other: _Stream, ours: _Stream, oracle: str) -> None:
    expect_same(ours[1], other[1], oracle)
    expect(other[0] == ours[0], oracle, "other bodies")


def _decoded(decoder: LinkDecoder, chunks: Iterable[bytes], *, buffered: bool) -> _Stream:
    """Check that no frame changes while it is held until the end."""
    held: list[tuple[Frame, bytes]] = []
    end = _CLEAN
    try:
        for chunk in chunks:
            for frame in _given(decoder, chunk) if buffered else decoder.feed(chunk):
                held.append((frame, bytes(frame)))
        decoder.eof()
    except WireError as error:
        end = error_verdict(error)
        if error.code != "truncated":
            expect_same(verdict_of(lambda: list(decoder.feed(b"\0"))), end, "an error stays")
    expect(all(frame == body for frame, body in held), "a frame that is held stays as it is")
    return [body for _, body in held], end


def _given(decoder: LinkDecoder, chunk: bytes) -> Iterator[Frame]:
    while chunk:
        buffer = decoder.get_buffer(-1)
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        yield from decoder.buffer_updated(count)
        chunk = chunk[count:]


def _read(data: bytes) -> _Stream:
    """Decode in the simplest way, as the definition of a link stream."""
    source = io.BytesIO(data)
    bodies: list[bytes] = []
    while header := source.read(8):
        start = source.tell() - len(header)
        if len(header) == 8:
            first = verdict_of(schema.parse, schema.LinkFrame, header)
            if first[0] == "error" and first[2] != "truncated":
                return bodies, (*first[:3], start, first[4])
        length = int.from_bytes(header, "little")
        body = source.read(length) if len(header) == 8 and length <= len(data) else b""
        if len(header) < 8 or len(body) < length:
            return bodies, ("error", TruncatedError, "truncated", len(data), None)
        bodies.append(body)
    return bodies, _CLEAN


# -- cluster frames ---------------------------------------------------------------------------------------------------

Decode = Callable[[Any, Revision, Any], Message]


def frame_harness(decode: Decode = decode_frame) -> Harness:
    """Return the harness of cluster frames for `decode`. [FRAME-TYPE, JSON-*, PAYLOAD-*]

    The schema is the slowest check. In a run, it, the other revision and decoding without extensions are checked for
    new inputs and one in eight of the others. Documented errors and re-encoding are checked for every input.
    """

    def check(data: bytes) -> object:
        verdict = verdict_of(decode, data, Revision.V2, _ALL)
        expect_same(verdict, verdict_of(parse_message, data, Revision.V2, _ALL), "the schema")
        spec = SPEC_BY_TYPE.get(data[0]) if data else None
        if spec is not None and spec.extension is not None:
            plain = verdict_of(decode, data, Revision.V2, frozenset())
            expect(plain[2] == "type-unknown", "no uninvited extension")
        if spec is not None and spec.revision is Revision.V2:
            expect(verdict_of(decode, data, Revision.V1, _ALL)[2] == "type-unknown", "revision 1")
        if verdict[0] == "ok":
            _check_again(decode, data, verdict[2])
        return data[:1], kind_of(verdict)

    def quick(data: bytes) -> object:
        verdict = verdict_of(decode, data, Revision.V2, _ALL)
        if verdict[0] == "ok":
            encoded = encode_frame(verdict[2], Revision.V2, _ALL)
            expect(encoded == data or decode(encoded, Revision.V2, _ALL) == verdict[2], "encoding again")
        return data[:1], kind_of(verdict)

    return Harness(
        "frame",
        check,
        seeds.frame,
        _mutate_or_draw,
        ("wireproto.codec.frame", "wireproto.codec.fields", "wireproto.codec.payloads", "wireproto.codec.json_scanner"),
        quick,
    )


def _check_again(decode: Decode, data: bytes, message: Message) -> None:
    encoded = encode_frame(message, Revision.V2, _ALL)
    if SPEC_BY_CLASS[type(message)].kind is not PayloadKind.JSON:
        expect(encoded == data, "encoding again")
        return
    expect(decode(encoded, Revision.V2, _ALL) == message, "encoding again")
    if encoded != data:  # otherwise the schema has read it already
        expect(build_message(message, Revision.V2, _ALL) == encoded, "encoding by the schema")


def _mutate_or_draw(random: Random, data: bytes) -> bytes:
    return random_frame(random) if random.random() < 0.1 else mutate_frame(random, data)


# -- other layouts ----------------------------------------------------------------------------------------------------

_HIDDEN: Final = 3
"""hidden_dim of the activations."""

parse: Final = partial(schema.parse, hidden_dim=_HIDDEN)


def schema_harness(
    decode_destination: Callable[[bytes], jaccl.Destination] = jaccl.decode_destination,
    decode_activation: Callable[[bytes, int], tensor.Activation | None] = tensor.decode_activation,
    decode_token: Callable[[bytes], int] = tensor.decode_token,
) -> Harness:
    """Decode each input as each tensor plaintext and JACCL record. [TENSOR-*, JACCL-DESTINATION, JACCL-HELLO]"""

    def check(data: bytes) -> object:
        kinds = []
        for layout, is_canonical in (
            (schema.Token, True), (schema.Activation, True), (schema.JacclHello, True), (schema.SealedBox, True),
            (schema.JacclDestination, False), (schema.LinkFrame, True), (schema.SideChannelPart, True),
        ):  # fmt: skip
            verdict = verdict_of(parse, layout, data)
            kinds.append(kind_of(verdict))
            if verdict[0] == "ok":
                built = schema.build(layout, verdict[2], hidden_dim=_HIDDEN)
                expect(built == data or not is_canonical, "building again")
                expect(parse(layout, built) == verdict[2], "building again")
        expect_same(verdict_of(decode_token, data), verdict_of(_token, data), "the schema of tokens")
        ours = verdict_of(_plain_activation, decode_activation, data)
        expect_same(ours, verdict_of(_activation, data), "the schema of activations")
        expect_same(verdict_of(decode_destination, data), verdict_of(_destination, data), "the schema of Destinations")
        return tuple(kinds)

    modules = ("wireproto.schema", "wireproto.codec.tensor")
    return Harness("schema", check, seeds.schema, mutate_bytes, modules)


def _token(data: bytes) -> int:
    value: int = parse(schema.Token, data).tokenID
    return value


def _activation(data: bytes) -> tuple[int, bytes]:
    value = parse(schema.Activation, data)
    return value.seqLen, value.data


def _plain_activation(decode: Callable[[bytes, int], tensor.Activation | None], data: bytes) -> tuple[int, bytes]:
    value = decode(data, _HIDDEN)
    return (-1, b"") if value is None else (value.seq_len, bytes(value.data))


def _destination(data: bytes) -> jaccl.Destination:
    value = parse(schema.JacclDestination, data)
    end = value.endpoint
    if end is None:
        return jaccl.OWN_ENTRY
    return jaccl.Destination(value.local_id, end.queue_pair_number, end.packet_sequence_number, end.gid)
