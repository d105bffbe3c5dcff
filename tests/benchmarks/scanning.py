"""Strict scanning of JSON under an unknown key, compared with `json.loads`: a mixture, and six shapes of text."""

import json
import statistics
from collections.abc import Callable
from functools import partial

from tests.benchmarks.harness import Race, Row, benchmark
from wireproto.codec.frame import decode_frame

SIZE = 2**21
MIXED = b'{"a":[1,22,-333],"bb":{"c":"text","d":null},"e":1.5,"f":"\\u00e9"}'
SHAPES = {
    "nested objects": b'{"a":' * 10 + b"{}" + b"}" * 10,
    "empty objects": b"{}",
    "integers": b"12345",
    "floats": b"-1.5e-7",
    "long strings": b'"%b"' % (b"x" * 100_000),
    "escaped strings": rb'"a\n\u00e9\"b\\"',
}


def _race(name: str, item: bytes, least: float) -> Race:
    frame = b'\x08{"uid":"u","tokens":[],"maxTokens":1,"x":[%b]}' % b",".join([item] * (SIZE // len(item)))
    return Race(
        f"scan {name}", "json.loads", partial(decode_frame, frame), partial(json.loads, frame[1:]), (">=", least), True
    )


def races() -> list[Race]:
    """The mixture, then the shapes."""
    return [_race("2 MiB of unknown JSON", MIXED, 0.2), *(_race(name, item, 0.2) for name, item in SHAPES.items())]


def rows(rounds: int, seconds: float) -> list[Callable[[], Row]]:
    done: list[Row] = []

    def shape(race: Race) -> Row:
        done.append(race.run(rounds, seconds))
        return done[-1]

    def median() -> Row:
        ours, other = (
            benchmark(f"scan six shapes: {side}", [getattr(row, side).median() for row in done])
            for side in ("ours", "other")
        )
        ratio = statistics.median(row.ratio for row in done)
        return Row("scan six shapes: median", "json.loads", ours, other, ratio, (">=", 0.4))

    mixed, *shapes = races()
    return [partial(mixed.run, rounds, seconds), *(partial(shape, race) for race in shapes), median]
