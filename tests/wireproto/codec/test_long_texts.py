"""Long payloads: scanned at about the speed of `json.loads`, with the same result as short ones. [JSON-*]"""

import base64
import json
import time
import timeit
from collections.abc import Callable
from random import Random
from typing import Final

import pytest

from tests.examples import examples
from tests.wireproto.oracle import judge
from tests.wireproto.verdicts import Accepted, expected, fast, slow
from wireproto import Revision, WireError, decode_frame

_LENGTH: Final = 256 * 1024
_SHORTER: Final = 144 * 1024
"""More than twice the longest part that the scanner skips at once; the schema takes seconds for a MiB."""


def _frames(length: int) -> dict[str, bytes]:
    def array(items: str) -> str:
        return f"[{','.join([items] * (length // (len(items) + 1)))}]"

    shapes = {
        "integers": array("0,1,22,333,-4444,55555"),
        "long integers": array("123456789012345678901234567890"),
        "floats": array("-1.25e-10,0.5"),
        "literals": array("true,false,null"),
        "empty arrays": array("[]"),
        "empty objects": array("{}"),
        "small objects": array('{"a":1,"bb":"x","ccc":null}'),
        "nested objects": array('{"a":' * 100 + "1" + "}" * 100),
        "nested arrays": array("[" * 500 + "]" * 500),
        "trees": array("[[[],[]],[[],[]]]"),
        "one object": "{" + ",".join(f'"k{number}":0' for number in range(length // 12)) + "}",
        "short strings": array('"abc"'),
        "a long string": f'"{"x" * length}"',
        "a string in UTF-8": f'"{"é" * (length // 2)}"',
        "short escapes": '"' + r"\n" * (length // 2) + '"',
        "long escapes": '"' + r"\u00e9" * (length // 6) + '"',
        "surrogate pairs": '"' + r"\ud83d\ude00" * (length // 12) + '"',
        "pairs and long integers": array(r'"\ud83d\ude00",123456789012345678901234567890'),
        "white space": f"[{' ' * length}]",
    }
    return {
        **{f"unknown {name}": _UNKNOWN % text.encode() for name, text in shapes.items()},
        "unknown members": b'\x0b{"uid":"u","seqLen":1,"sealedActivation":"",%b}' % shapes["one object"][1:-1].encode(),
        "tokens": b'\x08{"uid":"u","x":0,"maxTokens":1,"tokens":%b}' % shapes["integers"].encode(),
        "base64": b'\x0b{"uid":"u","x":0,"seqLen":1,"sealedActivation":"%b"}' % base64.b64encode(bytes(length)),
    }


_UNKNOWN: Final = b'\x0b{"uid":"u","seqLen":1,"x":%b,"sealedActivation":""}'
_FRAMES: Final = _frames(_LENGTH)
EVERY_FRAME = pytest.mark.parametrize("name", _FRAMES)


def _fastest(act: Callable[[], object], attempts: int = 5) -> float:
    """CPU seconds of this thread; timeit stops the garbage collector, whose work depends on earlier tests."""
    return min(timeit.repeat(act, timer=time.thread_time, repeat=attempts, number=1))


def _refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_frame(frame)


def _check_time(act: Callable[[], object], floor: Callable[[], float]) -> None:
    """At most five times the minimum, in the best of several attempts, because the machine may be busy."""
    ratios = []
    for _ in range(10):
        ratios.append(_fastest(act, 2) / floor())
        if ratios[-1] <= 5:
            return
    pytest.fail(f"{min(ratios):.1f} times as long as json.loads")


@EVERY_FRAME
def test_scanning_a_valid_payload_takes_at_most_five_times_as_long_as_json_loads(name: str) -> None:
    frame = _FRAMES[name]
    _check_time(lambda: decode_frame(frame), lambda: _fastest(lambda: json.loads(frame[1:])))


@EVERY_FRAME
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_scanning_an_invalid_payload_takes_at_most_five_times_as_long_as_the_slowest_valid_one(
    name: str, place: str
) -> None:
    frame = _FRAMES[name]
    at = {"first": 40, "middle": len(frame) // 2, "last": len(frame) - 30}[place]
    wrong = frame[:at] + b"\x01" + frame[at:]
    slowest = _FRAMES["unknown nested arrays"][1:]
    _check_time(lambda: _refused(wrong), lambda: _fastest(lambda: json.loads(slowest)))


@EVERY_FRAME
def test_long_payloads_are_accepted(name: str) -> None:
    frame = _frames(_SHORTER)[name]
    verdict = fast(frame)
    assert isinstance(verdict, Accepted)
    assert verdict == slow(frame)
    assert judge(frame, Revision.V2) == verdict.value


_FAULTS: Final = (
    *(b"\x01", b"\xff", b"\xc3", b"]", b"}", b",", b'"', b":", b"[", b"{", b"\\", b"\\ud800", b"01", b"nul", b"-"),
    *(b"1e", b" x"),
)


@EVERY_FRAME
def test_faults_in_long_payloads_get_the_same_verdict_wherever_they_are(name: str) -> None:
    """The scanner skips valid parts in bulk; it must find the same fault as reading byte by byte."""
    random = Random(name)
    frame = _FRAMES[name][:20_000] + _FRAMES[name][-10_000:]
    for fault in random.sample(_FAULTS, examples(len(_FAULTS))):
        at = random.choice([random.randrange(1, len(frame)), len(frame) - random.randrange(1, 60)])
        for wrong in (frame[:at] + fault + frame[at:], frame[:at] + fault + frame[at + len(fault) :]):
            assert fast(wrong) == slow(wrong), (at, fault)
    cut = random.randrange(1, len(frame))
    assert fast(frame[:cut]) == slow(frame[:cut])


@pytest.mark.parametrize("distance", [1, 1_000, 5_000, 100_000])
def test_a_repeated_key_is_found_however_far_away_the_first_is(distance: int) -> None:
    """[JSON-DUPLICATE-KEY]"""
    between = b",".join(b'"k%d":[{"a":1},{"a":2}]' % number for number in range(distance // 24 + 1))
    for frame in (
        b'\x0b{"x":0,%b,"x":0,"uid":"","seqLen":1,"sealedActivation":""}' % between,
        b'\x0b{"y":[0,{"x":0,%b,"x":0}],"uid":"","seqLen":1,"sealedActivation":""}' % between,
        b'\x0b{"y":[0,{"\\u0078":0,%b,"x":0}],"uid":"","seqLen":1,"sealedActivation":""}' % between,
        b'\x0b{"uid":"",%b,"uid":"","seqLen":1,"sealedActivation":""}' % between,
    ):
        key = b'"uid"' if frame.count(b'"uid"') > 1 else b'"x"'
        at = frame.index(key, frame.index(between) + len(between))
        assert fast(frame) == slow(frame) == expected("json-duplicate-key", at)


@pytest.mark.parametrize("levels", [1, 100, 509, 510])
def test_the_nesting_limit_counts_from_the_payload_after_a_long_valid_part(levels: int) -> None:
    """[JSON-NESTING]"""
    before = b'\x0b{"uid":"","seqLen":1,"sealedActivation":"","x":[%b,' % b",".join([b"[1,2]"] * 10_000)
    deep = b"[" * levels + b"]" * levels
    assert isinstance(fast(before + deep + b"]}"), Accepted)
    too_deep = before + b"[" * 511 + b"]" * 511 + b"]}"
    assert fast(too_deep) == slow(too_deep) == expected("json-nesting", len(before) + 510)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33])
@pytest.mark.parametrize("found", [b"]", b"}", b"x", b",", b""])
def test_a_byte_where_an_element_is_due_is_a_syntax_error_whatever_the_count(count: int, found: bytes) -> None:
    names = b"".join(b'"x/%d",' % number for number in range(1, count + 1))
    frame = b'\x07{"port":1,"sessionID":"","extensions":[' + names
    if not count and found in (b"]", b""):
        return  # an empty array, or the end of the text
    verdict = fast(frame + found)
    assert verdict == slow(frame + found)
    if count == 33:
        assert verdict == expected("field-length", frame.index(b"["), "extensions")
    elif found:
        assert verdict == expected("json-syntax", len(frame))
    else:
        assert verdict == expected("truncated", len(frame))
