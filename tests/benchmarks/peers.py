"""Other decoders, on the same bytes: one jacclBootstrap frame.

construct, Kaitai and pydantic check the fields, though less strictly; the others only parse the JSON.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import BaseModel, Field

from tests.benchmarks import floor
from tests.benchmarks.harness import Bound, Elsewhere, Race, Row
from tests.vectors.kaitai import MISSING, Kaitai, compile_parser
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.messages import JacclBootstrapPayload
from wireproto.testing.by_schema import parse_message

WORK = "decode jacclBootstrap"
BOOTSTRAP = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF")
FRAME = encode_frame(BOOTSTRAP)


class _Bootstrap(BaseModel, strict=True):
    port: Annotated[int, Field(ge=0, le=65535)]
    session_id: Annotated[str, Field(alias="sessionID")]
    extensions: tuple[str, ...] = ()


def _race(against: str, other: Callable[[], object] | Elsewhere, bound: Bound | None, *, rate: bool = False) -> Race:
    return Race(WORK, against, partial(decode_frame, FRAME), other, bound, rate)


def _node(rounds: int, seconds: float) -> Row:
    with Elsewhere(["node", str(Path(__file__).with_name("parse.mjs")), FRAME.hex()]) as node:
        return _race("Node's JSON.parse", node, None).run(rounds, seconds)


def races() -> list[Race]:
    """All but Node's, which needs a process."""
    done = [
        _race("floor", partial(floor.decode, FRAME), ("<=", 1.5)),
        _race("construct", partial(parse_message, FRAME), (">=", 8), rate=True),
        _race("struct + json", partial(floor.decode_stdlib, FRAME), ("<=", 1.0)),
        _race("pydantic", lambda: _Bootstrap.model_validate_json(FRAME[1:]), ("<=", 1.0)),
        _race("orjson alone", lambda: orjson.loads(FRAME[1:]), None),
    ]
    if not MISSING:
        kaitai = Kaitai(compile_parser())
        done.append(_race("Kaitai + json", lambda: json.loads(kaitai.frame(FRAME).payload.data), (">=", 8), rate=True))
    return done


def rows(rounds: int, seconds: float) -> list[Callable[[], Row]]:
    measured: list[Callable[[], Row]] = [partial(race.run, rounds, seconds) for race in races()]
    if shutil.which("node") is not None:
        measured.append(partial(_node, rounds, seconds))
    return measured
