"""The command `wireproto encode`."""

import base64
import sys
from enum import Enum
from typing import Annotated

import msgspec
import typer

from wireproto.cli.answers import RevisionOption
from wireproto.cli.console import EXIT_NO, EXIT_OK, example, say
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import encode_link_frame
from wireproto.codec.payloads import decode_payload
from wireproto.errors import MalformedError, WireError, printable
from wireproto.messages import EXTENSIONS, REGISTRY, Message, MessageSpec, PayloadKind, Revision


class TextForm(Enum):
    """Output format of bytes."""

    HEX = "hex"
    BASE64 = "base64"
    RAW = "raw"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog=example("""wireproto encode jacclBootstrap '{"port": 29400, "sessionID": "a"}'"""))(encode)


def encode(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TYPE", help="Message type: jacclBootstrap, 7 or 0x07.")],
    payload: Annotated[
        str,
        typer.Argument(
            metavar="[JSON]", help="Payload with keys as on the wire, or a base64 string if opaque. Default: empty."
        ),
    ] = "",
    link: Annotated[bool, typer.Option("--link", help="Encode a link frame: the length comes first.")] = False,
    form: Annotated[TextForm, typer.Option("--form", help="Output format.")] = TextForm.HEX,
    revision: RevisionOption = Revision.V2,
) -> int:
    """Encode one cluster frame.

    Exit codes: 0 encoded, 1 the protocol does not allow it, 2 wrong usage.
    """
    spec = _spec(context, name, Revision(revision))
    try:
        message = _message(spec, payload.encode(errors="surrogateescape"))
        frame = encode_frame(message, Revision(revision), EXTENSIONS)
    except WireError as error:
        say(f"{context.command_path}: {printable(str(error))}", err=True)
        return EXIT_NO
    frame = encode_link_frame(frame) if link else frame
    match form:
        case TextForm.HEX:
            say(frame.hex())
        case TextForm.BASE64:
            say(base64.b64encode(frame).decode())
        case TextForm.RAW:
            sys.stdout.buffer.write(frame)
    return EXIT_OK


def _spec(context: typer.Context, name: str, revision: Revision) -> MessageSpec:
    specs = [spec for spec in REGISTRY if spec.is_known(revision, EXTENSIONS)]
    for spec in specs:
        if name in (spec.msg_type.wire_name, str(spec.msg_type.value)) or name.lower() == f"0x{spec.msg_type:02x}":
            return spec
    known = ", ".join(spec.msg_type.wire_name for spec in specs)
    raise typer.BadParameter(f"{name!r} is not a type of revision {revision:d}; use one of {known}", ctx=context)


def _message(spec: MessageSpec, payload: bytes) -> Message:
    """Return the message of a payload in the format of `codec`. Offsets in errors count from the payload's start."""
    if spec.kind is PayloadKind.OPAQUE:
        try:
            return decode_frame(bytes([spec.msg_type]) + msgspec.json.decode(payload, type=bytes))
        except msgspec.MsgspecError as error:
            raise MalformedError("field-base64", "expected a JSON string of base64", offset=0) from error
    if spec.kind is PayloadKind.NUMBERED:
        return decode_payload(spec.payload, payload)
    try:
        return decode_frame(bytes([spec.msg_type]) + payload, extensions=EXTENSIONS)
    except WireError as error:
        offset = None if error.offset is None else error.offset - 1
        raise type(error)(error.code, error.detail, offset=offset, path=error.path) from error
