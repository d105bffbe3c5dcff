"""Shared by `decode`, `encode` and `codec`: the option --revision, and a frame's answer as JSON."""

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
import typer

from wireproto.codec.frame import decode_frame
from wireproto.errors import WireError
from wireproto.messages import SPEC_BY_CLASS, Message, MessageSpec, PayloadKind, Revision

RevisionOption = Annotated[
    int, typer.Option("--revision", min=min(Revision), max=max(Revision), metavar="N", help="Protocol revision.")
]


def decoded(frame: bytes | memoryview, revision: Revision, extensions: Collection[str] = ()) -> Message | WireError:
    try:
        return decode_frame(frame, revision, extensions)
    except WireError as error:
        return error


def as_json(outcome: Message | WireError) -> str:
    answer: dict[str, Any]
    if isinstance(outcome, WireError):
        answer = {"ok": False, "error": outcome.code, "offset": outcome.offset}
    else:
        spec = SPEC_BY_CLASS[type(outcome)]
        answer = {"ok": True, "type": spec.msg_type.value, "payload": payload_of(spec, outcome)}
    return json_text(answer)


def payload_of(spec: MessageSpec, message: Message) -> Any:
    match spec.kind:
        case PayloadKind.JSON | PayloadKind.NUMBERED:
            return msgspec.to_builtins(message)
        case PayloadKind.EMPTY:
            return None
        case PayloadKind.OPAQUE:
            return message.box  # type: ignore[union-attr]


def json_text(value: object) -> str:
    """Return compact JSON with all unprintable characters escaped."""
    text = msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(map(_json_character, text))


def _json_character(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
