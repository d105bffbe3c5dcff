"""Link frames: the incremental decoder in both feeding styles, its limits; the encoder."""

import array
import pickle
import traceback
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.streams import EVERY_STYLE, KIB, MIB, fill, header, link, pattern
from tests.wireproto.verdicts import Rejected, Stream, decode_stream, expected, pieces, read_stream, rejected, verdict
from wireproto import (
    MAX_LINK_LENGTH,
    LimitError,
    LinkDecoder,
    MalformedError,
    StateError,
    TruncatedError,
    WireError,
    encode_link_frame,
    link_frame_pieces,
    schema,
)
from wireproto.codec.link import Frame

# -- any chunking -----------------------------------------------------------------------------------------------------

LENGTHS = st.one_of(
    st.integers(1, 40),
    st.builds(
        lambda base, around: base + around,
        st.sampled_from([4 * KIB, 64 * KIB, 96 * KIB, 128 * KIB, 192 * KIB, 256 * KIB, 512 * KIB]),
        st.integers(-17, 17),
    ),
)


@pytest.mark.parametrize("share", range(3))
@given(
    lengths=st.lists(LENGTHS, max_size=6),
    tail=st.sampled_from([b"", b"\x01", header(9), header(9) + b"x", header(0), header(2**63), header(MIB) + b"y"]),
    chunk=st.one_of(st.integers(1, 600 * KIB), st.sampled_from([7, 8, 9, 64 * KIB, 128 * KIB, 256 * KIB])),
    random=st.integers(0, 2**32).map(Random),
)
def test_any_chunking(share: int, lengths: list[int], tail: bytes, chunk: int, random: Random) -> None:
    """[LINK-CHUNKS]"""
    stream = link(*(pattern(length, seed) for seed, length in enumerate(lengths))) + tail
    chunk = max(chunk, len(stream) // 200)
    cuts = [
        random.randint(max(0, at - 20), at + 20) if random.random() < 0.5 else at for at in range(0, len(stream), chunk)
    ]
    styles = random.getrandbits(16)
    wanted = read_stream(stream, MAX_LINK_LENGTH)
    assert decode_stream(pieces(stream, cuts), buffered=lambda index: bool(styles >> index % 16 & 1)) == wanted


@EVERY_STYLE
def test_byte_by_byte(buffered: Callable[[int], bool]) -> None:
    """[LINK-CHUNKS]"""
    bodies = [b"a", b"bc", pattern(300), b"\0" * 8, link(b"inner")]
    stream = link(*bodies)
    assert decode_stream(pieces(stream, range(len(stream))), buffered=buffered) == Stream(bodies, None)


@EVERY_STYLE
@pytest.mark.parametrize("chunk", [1000, 4096, 65536, 100_003, MIB, 10**9])
def test_short_and_long_frames(chunk: int, buffered: Callable[[int], bool]) -> None:
    lengths = [
        1,
        65536 - 8,
        3,
        65536 - 7,
        65536,
        131072 - 9,
        131072 - 8,
        131072 - 7,
        131072,
        5,
        300_000,
        299_999,
        700_000,
        8,
    ]
    bodies = [pattern(length, seed) for seed, length in enumerate(lengths)]
    stream = link(*bodies)
    assert decode_stream(pieces(stream, range(0, len(stream), chunk)), buffered=buffered) == Stream(bodies, None)


@EVERY_STYLE
def test_header_cut_everywhere_behind_a_long_frame(buffered: Callable[[int], bool]) -> None:
    bodies = [pattern(200_000), b"short", pattern(140_000, 7), b"x"]
    stream = link(*bodies)
    edge = 8 + len(bodies[0])
    for cut in range(edge - 2, edge + 24):
        assert decode_stream([stream[:cut], stream[cut:]], buffered=buffered) == Stream(bodies, None)


def test_many_frames_in_one_chunk() -> None:
    bodies = [bytes([i % 256]) * (i % 50 + 1) for i in range(20_000)]
    assert decode_stream([link(*bodies)]) == Stream(bodies, None)


@pytest.mark.parametrize("hold", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_feed_takes_any_buffer(hold: Callable[[bytes], bytes]) -> None:
    assert [bytes(frame) for frame in LinkDecoder().feed(hold(link(b"one", b"two")))] == [b"one", b"two"]


def test_feed_copies() -> None:
    decoder = LinkDecoder()
    chunk = bytearray(link(b"one", pattern(300_000)))
    frames = decoder.feed(chunk)
    chunk[:] = bytes(len(chunk))
    first, second = frames
    chunk[:] = b"\xff" * len(chunk)
    assert (first, second) == (b"one", pattern(300_000))


def test_nothing_is_fed() -> None:
    decoder = LinkDecoder()
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(header(3)[:5])) == []
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(header(3)[5:] + b"ab")) == []
    decoder.get_buffer()
    assert list(decoder.buffer_updated(0)) == []
    assert list(decoder.feed(b"c")) == [b"abc"]
    decoder.eof()


def test_buffer_asked_for_but_not_used() -> None:
    """asyncio asks for a buffer before it reads, and bytes from another source may arrive first."""
    for body in (b"short", pattern(1_000_000)):
        decoder = LinkDecoder()
        bodies = []
        for chunk in pieces(link(body), range(0, len(body), 50_000)):
            decoder.get_buffer()
            assert decoder.get_buffer()
            bodies += [bytes(frame) for frame in decoder.feed(chunk)]
        assert bodies == [body]


@pytest.mark.parametrize("sizehint", [-1, 0, 1, 65536, 2**31])
def test_buffer_has_room_whatever_the_hint(sizehint: int) -> None:
    decoder = LinkDecoder()
    for chunk in pieces(link(b"abc", pattern(200_000)), range(0, 200_000, 9973)):
        buffer = decoder.get_buffer(sizehint)
        assert len(buffer) >= 1
        assert not buffer.readonly
        buffer.release()
        list(decoder.feed(chunk))


@pytest.mark.parametrize("length", [3, 1_000_000])
def test_buffer_is_taken_back(length: int) -> None:
    decoder = LinkDecoder()
    list(decoder.feed(header(length)))
    buffer = decoder.get_buffer()
    buffer[:2] = b"ab"
    list(decoder.buffer_updated(2))
    with pytest.raises(ValueError, match="released"):
        buffer[0] = 0


# -- frames that are held ---------------------------------------------------------------------------------------------


@EVERY_STYLE
def test_held_frames_do_not_change(buffered: Callable[[int], bool]) -> None:
    """`decode_stream` holds each frame until the end, and compares."""
    random = Random(5)
    bodies = [random.randbytes(random.choice([1, 100, 60_000, 120_000, 140_000, 300_000])) for _ in range(60)]
    stream = link(*bodies)
    assert decode_stream(pieces(stream, range(0, len(stream), 70_001)), buffered=buffered) == Stream(bodies, None)


def test_some_held_some_let_go() -> None:
    random = Random(6)
    decoder = LinkDecoder()
    held: list[tuple[Frame, bytes]] = []
    for _ in range(150):
        body = random.randbytes(random.choice([1, 30, 50_000, 130_000, 200_000]))
        for chunk in pieces(link(body), [random.randint(0, len(body)) for _ in range(3)]):
            held += [(frame[len(body) // 2 :], body[len(body) // 2 :]) for frame in decoder.feed(chunk)]
        random.shuffle(held)
        del held[5:]
        assert all(frame == body for frame, body in held)


@pytest.mark.parametrize("length", [1, 5000, 16_384])
@EVERY_STYLE
def test_short_frames_are_bytes(length: int, buffered: Callable[[int], bool]) -> None:
    for cuts in ([], [8], [4, 8, 9]):
        assert [type(frame) for frame in received(pieces(link(bytes(length)), cuts), buffered)] == [bytes]


@pytest.mark.parametrize("length", [16_385, 500_000])
@EVERY_STYLE
def test_long_frames_in_pieces_are_read_only(length: int, buffered: Callable[[int], bool]) -> None:
    (frame,) = received(pieces(link(bytes(length)), [8]), buffered)
    assert isinstance(frame, memoryview)
    assert (frame.readonly, frame.format, frame.ndim, frame.nbytes) == (True, "B", 1, length)
    with pytest.raises(TypeError):
        frame[0] = 1


def received(chunks: list[bytes], buffered: Callable[[int], bool]) -> list[Frame]:
    decoder = LinkDecoder()
    return [
        frame
        for index, chunk in enumerate(chunks)
        for frame in (fill(decoder, chunk) if buffered(index) else decoder.feed(chunk))
    ]


def test_frames_outlive_the_decoder() -> None:
    decoder = LinkDecoder()
    frames = list(decoder.feed(link(b"one", pattern(400_000))))
    del decoder
    assert frames == [b"one", pattern(400_000)]


# -- limits and errors ------------------------------------------------------------------------------------------------


@EVERY_STYLE
@pytest.mark.parametrize(
    ("length", "code"),
    [
        (0, "link-length-zero"),
        (MAX_LINK_LENGTH + 1, "link-length-limit"),
        (2**32, "link-length-limit"),
        (2**63 - 1, "link-length-limit"),
        (2**63, "link-length-limit"),
        (2**64 - 1, "link-length-limit"),
        (int.from_bytes(b"HTTP/1.1", "little"), "link-length-limit"),
        (int.from_bytes(b"\0\0\0\0\0\0\0\1", "little"), "link-length-limit"),
    ],
)
@pytest.mark.parametrize(
    "before", [[], [b"x"], [b"one", b"two", b"three"], [pattern(200_000)], [b"a", pattern(150_000), b"b"]]
)
def test_bad_length(before: list[bytes], length: int, code: str, buffered: Callable[[int], bool]) -> None:
    """[LINK-LEN-MIN, LINK-LEN-MAX]"""
    stream = link(*before) + header(length) + b"rest"
    wanted = Stream(before, expected(code, len(link(*before)), "length"))
    edge = len(link(*before))
    assert decode_stream([stream], buffered=buffered) == wanted
    assert decode_stream(pieces(stream, range(0, len(stream), 50_000)), buffered=buffered) == wanted
    for cut in range(edge, edge + 9):
        assert decode_stream([stream[:cut], stream[cut:]], buffered=buffered) == wanted
    if len(stream) < 100:
        assert decode_stream(pieces(stream, range(len(stream))), buffered=buffered) == wanted


@pytest.mark.parametrize(("max_length", "length"), [(1, 2), (4, 5), (1024, 1025), (200_000, 200_001), (5, 2**64 - 1)])
def test_limit_of_ones_own(max_length: int, length: int) -> None:
    good = pattern(max_length)
    stream = link(good) + header(length)
    assert decode_stream([stream], LinkDecoder(max_length)) == Stream(
        [good], expected("link-length-limit", len(link(good)), "length")
    )
    assert decode_stream([link(good)], LinkDecoder(max_length=max_length)) == Stream([good], None)


@pytest.mark.parametrize("split", range(9))
def test_longest_length_is_taken(split: int) -> None:
    decoder = LinkDecoder()
    assert list(decoder.feed(header(MAX_LINK_LENGTH)[:split])) == []
    assert list(decoder.feed(header(MAX_LINK_LENGTH)[split:] + b"x")) == []
    assert verdict(decoder.eof) == expected("truncated", 9)


def test_limit_is_named() -> None:
    with pytest.raises(LimitError, match=r"268435457.*268435456"):
        list(LinkDecoder().feed(header(MAX_LINK_LENGTH + 1)))
    with pytest.raises(LimitError, match=r"\b101\b.*\b100\b"):
        list(LinkDecoder(100).feed(header(101)))
    with pytest.raises(MalformedError, match="at byte 9"):
        list(LinkDecoder().feed(link(b"x") + header(0)))


@EVERY_STYLE
def test_frames_before_the_error_come_first(buffered: Callable[[int], bool]) -> None:
    decoder = LinkDecoder()
    stream = link(b"one", b"two") + header(0) + link(b"never")
    frames = fill(decoder, stream) if buffered(1) else decoder.feed(stream)
    assert next(frames) == b"one"
    assert next(frames) == b"two"
    with pytest.raises(MalformedError):
        next(frames)


def test_poisoned() -> None:
    decoder = LinkDecoder()
    frames = decoder.feed(link(b"x") + header(0))
    assert next(frames) == b"x"
    with pytest.raises(MalformedError) as caught:
        next(frames)
    first = rejected(caught.value)
    assert first == expected("link-length-zero", 9, "length")
    for _ in range(2):
        assert verdict(lambda: list(decoder.feed(link(b"good")))) == first
        assert verdict(lambda: list(decoder.feed(b""))) == first
        assert verdict(decoder.get_buffer) == first
        assert verdict(lambda: list(decoder.buffer_updated(0))) == first
        assert verdict(decoder.eof) == first


def test_poisoned_through_the_buffer() -> None:
    decoder = LinkDecoder()
    with pytest.raises(LimitError):
        list(fill(decoder, header(2**63)))
    assert verdict(decoder.get_buffer) == expected("link-length-limit", 0, "length")
    assert verdict(lambda: list(decoder.feed(b"x"))) == expected("link-length-limit", 0, "length")


@EVERY_STYLE
def test_offset_counts_from_the_first_byte_of_the_stream(buffered: Callable[[int], bool]) -> None:
    bodies = [pattern(70_000, seed) for seed in range(10)] + [pattern(300_000)]
    stream = link(*bodies) + header(0)
    for chunk in (4096, 65_536, 99_999):
        end = decode_stream(pieces(stream, range(0, len(stream), chunk)), buffered=buffered).end
        assert end == expected("link-length-zero", 10 * 70_008 + 300_008, "length")


# -- the end of the stream --------------------------------------------------------------------------------------------


def test_eof_between_frames() -> None:
    LinkDecoder().eof()
    for body in (b"x", pattern(200_000)):
        decoder = LinkDecoder()
        list(decoder.feed(link(body)))
        decoder.eof()
        decoder.eof()


@EVERY_STYLE
@pytest.mark.parametrize("before", [[], [b"abc"], [pattern(250_000)]], ids=["first", "second", "behind-long"])
@pytest.mark.parametrize("cut", [1, 7, 8, 9, 100, 70_000, 131_064, 131_072, 131_080, 299_999])
def test_eof_inside_a_frame(before: list[bytes], cut: int, buffered: Callable[[int], bool]) -> None:
    """[LINK-EOF]"""
    stream = (link(*before) + link(pattern(300_000)))[: len(link(*before)) + cut]
    wanted = Stream(before, expected("truncated", len(stream)))
    assert decode_stream([stream], buffered=buffered) == wanted
    assert decode_stream(pieces(stream, range(0, len(stream), 33_333)), buffered=buffered) == wanted


def test_eof_instead_of_bytes_for_the_buffer() -> None:
    """asyncio asks for a buffer before it knows that the stream has ended. [LINK-EOF]"""
    decoder = LinkDecoder()
    whole = link(b"frame")
    list(decoder.feed(whole + b"\1"))
    for _ in range(2):
        decoder.get_buffer()
        assert verdict(decoder.eof) == expected("truncated", len(whole) + 1)


def test_bytes_after_eof_inside_a_frame() -> None:
    """A caller that only asked for the position may continue."""
    decoder = LinkDecoder()
    list(decoder.feed(link(b"abc")[:9]))
    with pytest.raises(TruncatedError):
        decoder.eof()
    assert list(decoder.feed(b"bc")) == [b"abc"]


# -- frames that nobody took ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("second", [b"two", pattern(200_000)], ids=["short", "long"])
def test_not_drained(taken: int, second: bytes) -> None:
    decoder = LinkDecoder()
    frames = decoder.feed(link(b"one", second))
    for _ in range(taken):
        next(frames)
    for call in (lambda: decoder.feed(b"x"), decoder.get_buffer, lambda: decoder.buffer_updated(1), decoder.eof):
        with pytest.raises(StateError) as caught:
            call()
        assert rejected(caught.value) == expected("link-not-drained", None)
    assert [bytes(frame) for frame in frames] == [b"one", second][taken:]
    assert list(decoder.feed(link(b"three"))) == [b"three"]
    decoder.eof()


def test_not_drained_through_the_buffer() -> None:
    decoder = LinkDecoder()
    buffer = decoder.get_buffer()
    buffer[:9] = link(b"x")
    frames = decoder.buffer_updated(9)
    with pytest.raises(StateError):
        decoder.get_buffer()
    assert list(frames) == [b"x"]
    decoder.get_buffer()


# -- encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("length", [1, 2, 255, 256, 65_536, 300_000])
def test_encode(length: int, hold: Callable[[bytes], bytes]) -> None:
    """[LINK-LAYOUT]"""
    body = pattern(length)
    frame = encode_link_frame(hold(body))
    assert type(frame) is bytes
    assert frame == header(length) + body
    first, second = link_frame_pieces(hold(body))
    assert (first, bytes(second)) == (header(length), body)
    assert decode_stream([frame]) == Stream([body], None)


def test_pieces_do_not_copy() -> None:
    body = b"body"
    assert link_frame_pieces(body)[1] is body
    buffer = bytearray(b"body")
    for held in (buffer, memoryview(buffer), memoryview(buffer).cast("H")):
        piece = link_frame_pieces(held)[1]
        buffer[0] ^= 1
        assert piece == buffer


def test_length_is_in_bytes() -> None:
    """A memoryview's `len` counts items."""
    body = memoryview(array.array("I", [1, 2, 3]))
    assert link_frame_pieces(body)[0] == header(12)
    assert encode_link_frame(body) == header(12) + body.tobytes()


@pytest.mark.parametrize("encode", [encode_link_frame, link_frame_pieces])
@pytest.mark.parametrize(
    ("body", "limit", "code"),
    [
        (b"", None, "link-length-zero"),
        (bytearray(), None, "link-length-zero"),
        (memoryview(b""), 5, "link-length-zero"),
        (b"", 0, "link-length-zero"),
        (b"12345", 4, "link-length-limit"),
        (memoryview(array.array("I", [1, 2])), 7, "link-length-limit"),
        (b"1", 0, "link-length-limit"),
    ],
)
def test_encode_rejected(encode: Callable[..., object], body: bytes, limit: int | None, code: str) -> None:
    assert verdict(encode, body, *([] if limit is None else [limit])) == expected(code, None, "length")


def test_encode_at_and_over_the_limit() -> None:
    """[LINK-LEN-MAX]"""
    body = memoryview(bytes(MAX_LINK_LENGTH + 1))
    assert link_frame_pieces(body[:-1])[0] == header(MAX_LINK_LENGTH)
    assert verdict(link_frame_pieces, body) == expected("link-length-limit", None, "length")
    assert link_frame_pieces(b"12345", 5)[0] == header(5)
    with pytest.raises(LimitError, match=r"268435457.*268435456"):
        link_frame_pieces(body)


def test_schema_has_the_same_limits() -> None:
    assert isinstance(verdict(schema.build, schema.LinkFrame, {"body": b""}), Rejected)
    for length, code in [(0, "link-length-zero"), (MAX_LINK_LENGTH + 1, "link-length-limit")]:
        assert verdict(schema.parse, schema.LinkFrame, header(length) + b"x") == expected(code, 0, "length")
    assert verdict(schema.parse, schema.LinkFrame, header(MAX_LINK_LENGTH) + b"x") == expected("truncated", 9)


def test_error_can_be_pickled() -> None:
    with pytest.raises(WireError) as caught:
        link_frame_pieces(b"")
    assert rejected(pickle.loads(pickle.dumps(caught.value))) == expected("link-length-zero", None, "length")  # noqa: S301


def test_pieces_helper() -> None:
    """`chunks` itself works."""
    assert pieces(b"abcd", [2, 9]) == [b"ab", b"cd"]
    assert [len(piece) for piece in pieces(bytes(9), range(9))] == [1] * 9


@pytest.mark.parametrize("count", [-1, 10**7])
@pytest.mark.parametrize("before", [b"", header(10**6)], ids=["short", "long"])
def test_count_that_cannot_be(before: bytes, count: int) -> None:
    """An invalid count was accepted: a long frame never ended, or bytes were silently dropped."""
    decoder = LinkDecoder()
    assert list(decoder.feed(before)) == []
    decoder.get_buffer()
    with pytest.raises(ValueError, match="cannot have been written"):
        decoder.buffer_updated(count)


@pytest.mark.parametrize("before", [b"", header(10**6)], ids=["short", "long"])
def test_count_that_is_no_integer(before: bytes) -> None:
    decoder = LinkDecoder()
    assert list(decoder.feed(before)) == []
    decoder.get_buffer()
    with pytest.raises(TypeError, match=r"^count must be an int, not float$"):
        decoder.buffer_updated(1.0)


@pytest.mark.parametrize("length", [3, 1_000_000])
def test_only_the_last_buffer_counts(length: int) -> None:
    decoder = LinkDecoder()
    list(decoder.feed(header(length)))
    first, last = decoder.get_buffer(), decoder.get_buffer()
    with pytest.raises(ValueError, match="released"):
        first[0] = 1
    last[:1] = b"a"
    assert list(decoder.buffer_updated(1)) == []


def test_count_without_a_buffer() -> None:
    decoder = LinkDecoder()
    with pytest.raises(ValueError, match="cannot have been written to a buffer of 0"):
        decoder.buffer_updated(1)
    decoder.get_buffer()
    assert list(decoder.feed(b"\x01")) == []
    with pytest.raises(ValueError, match="cannot have been written to a buffer of 0"):
        decoder.buffer_updated(1)


@pytest.mark.parametrize("length", [100, 3_000_000])
def test_loop_that_holds_the_buffer_during_buffer_updated(length: int) -> None:
    """uvloop releases a buffer only after `buffer_updated`: a BufferError ended every connection."""
    stream, frames, decoder = link(pattern(length)) * 3, [], LinkDecoder()
    while stream:
        view = decoder.get_buffer()
        count = min(len(view), len(stream))
        view[:count] = stream[:count]
        held = pickle.PickleBuffer(view)
        frames += map(bytes, decoder.buffer_updated(count))
        with pytest.raises(ValueError, match="cannot have been written to a buffer of 0"):
            decoder.buffer_updated(count)
        held.release()
        stream = stream[count:]
    assert frames == [pattern(length)] * 3


def test_the_error_of_a_decoder_that_is_done_does_not_grow() -> None:
    """A repeatedly raised error collected a traceback entry each time."""
    decoder = LinkDecoder()
    with pytest.raises(WireError):
        list(decoder.feed(bytes(8)))
    errors = []
    for _ in range(3):
        with pytest.raises(WireError) as caught:
            decoder.feed(b"")
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1
