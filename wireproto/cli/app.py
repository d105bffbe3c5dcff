"""The command `wireproto`."""

import base64
import binascii
import sys
from collections.abc import Collection, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from wireproto.cli import conform as conform_cli
from wireproto.cli import fuzz as fuzz_cli
from wireproto.cli import inspect as inspect_cli
from wireproto.cli import vectors as vectors_cli
from wireproto.cli.console import EXIT_NO, EXIT_OK, new_app, say
from wireproto.codec.fields import decode_payload
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import LinkDecoder, encode_link_frame
from wireproto.errors import MalformedError, WireError, printable
from wireproto.messages import EXTENSIONS, REGISTRY, SPEC_BY_CLASS, Message, MessageSpec, PayloadKind, Revision

app = new_app(
    "wireproto",
    "Encode and decode the cluster link protocol; test, fuzz and inspect implementations of it.\n\n"
    "Example: wireproto decode 077b22706f7274223a32393430302c2273657373696f6e4944223a2261227d",
)


class TextForm(Enum):
    """Output format of bytes."""

    HEX = "hex"
    BASE64 = "base64"
    RAW = "raw"


RevisionOption = Annotated[
    int, typer.Option("--revision", min=min(Revision), max=max(Revision), help="Revision of the protocol.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, as `wireproto codec` writes them.")]


@app.command()
def decode(
    context: typer.Context,
    frames: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FRAME]...", help="Frames in hex, with or without 0x, or else base64."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Read raw bytes from a file. Default: standard input.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="The input is link frames, each with its length.")] = False,
    revision: RevisionOption = Revision.V2,
    as_json: JsonOption = False,
) -> int:
    """Decode cluster frames and show their fields. Includes frames of extensions.

    Example: wireproto decode 077b22706f7274223a32393430302c2273657373696f6e4944223a2261227d

    Exit codes: 0 all good, 1 a frame is bad, 2 wrong usage.
    """
    if frames and file:
        raise typer.BadParameter("give frames or --file, not both", ctx=context)
    bad = 0
    for outcome in _outcomes(_inputs(context, frames, file), link, Revision(revision)):
        bad += isinstance(outcome, WireError)
        say(_as_json(outcome) if as_json else _as_text(outcome))
    return EXIT_NO if bad else EXIT_OK


@app.command()
def encode(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TYPE", help="Name or number: jacclBootstrap, 7 or 0x07.")],
    payload: Annotated[
        str, typer.Argument(metavar="[JSON]", help="Payload with keys as on the wire; a base64 string if opaque.")
    ] = "",
    link: Annotated[bool, typer.Option("--link", help="Encode a link frame, with the length first.")] = False,
    form: Annotated[TextForm, typer.Option("--form", help="Output format.")] = TextForm.HEX,
    revision: RevisionOption = Revision.V2,
) -> int:
    """Encode one cluster frame.

    Example: wireproto encode jacclBootstrap '{"port": 29400, "sessionID": "a"}'

    Exit codes: 0 encoded, 1 the protocol cannot carry it, 2 wrong usage.
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


@app.command()
def codec(revision: RevisionOption = Revision.V2) -> int:
    """Decode hex frames from standard input, one per line. Each answer is a line of JSON.

    {"ok": true, "type": 7, "payload": {…}}: keys as on the wire, bytes in base64, null if empty.
    {"ok": false, "error": "CODE", "offset": N}: a code of the error table, or `not-hex`.

    Example: echo 03 | wireproto codec

    Continues after a bad line. Does not know frames of extensions. Exit code: 0 at the end of input.
    """
    for line in sys.stdin.buffer:
        try:
            frame = binascii.unhexlify(line.rstrip(b"\r\n"))
        except binascii.Error:
            answer = '{"ok":false,"error":"not-hex","offset":0}'
        else:
            answer = _as_json(_decoded(frame, Revision(revision)))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    return EXIT_OK


# -- bytes in ----------------------------------------------------------------------------------------------------------


def _inputs(context: typer.Context, frames: list[str] | None, file: Path | None) -> Iterator[BinaryIO | bytes]:
    if frames:
        for text in frames:
            try:
                yield _from_text(text)
            except ValueError:
                detail = f"{text[:40]!r} is neither hex nor base64"
                raise typer.BadParameter(detail, ctx=context, param_hint="FRAME") from None
    elif file:
        try:
            stream = file.open("rb")
        except OSError as error:
            raise typer.BadParameter(f"{file}: {error.strerror}", ctx=context, param_hint="--file") from None
        with stream:
            yield stream
    else:
        yield sys.stdin.buffer


def _from_text(text: str) -> bytes:
    try:
        return binascii.unhexlify(text[2:] if text[:2] in ("0x", "0X") else text)
    except ValueError:
        return base64.b64decode(text, validate=True)


def _outcomes(inputs: Iterator[BinaryIO | bytes], link: bool, revision: Revision) -> Iterator[Message | WireError]:
    for source in inputs:
        if link:
            yield from _link_outcomes(source, revision)
        else:
            yield _decoded(source if isinstance(source, bytes) else source.read(), revision, EXTENSIONS)


def _link_outcomes(source: BinaryIO | bytes, revision: Revision) -> Iterator[Message | WireError]:
    decoder = LinkDecoder()
    chunks = iter([source]) if isinstance(source, bytes) else iter(lambda: source.read(64 * 1024), b"")
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                yield _decoded(frame, revision, EXTENSIONS)
        decoder.eof()
    except WireError as error:
        yield error


def _decoded(frame: bytes | memoryview, revision: Revision, extensions: Collection[str] = ()) -> Message | WireError:
    try:
        return decode_frame(frame, revision, extensions)
    except WireError as error:
        return error


def _spec(context: typer.Context, name: str, revision: Revision) -> MessageSpec:
    specs = [spec for spec in REGISTRY if spec.is_known(revision, EXTENSIONS)]
    for spec in specs:
        if name in (spec.msg_type.wire_name, str(spec.msg_type.value)) or name.lower() == f"0x{spec.msg_type:02x}":
            return spec
    known = ", ".join(spec.msg_type.wire_name for spec in specs)
    raise typer.BadParameter(f"{name!r} is not a type of revision {revision:d}; use one of {known}", ctx=context)


def _message(spec: MessageSpec, payload: bytes) -> Message:
    """Return the message of a payload as `codec` shows it. Offsets in errors count from the start of the payload."""
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


# -- outcomes out ------------------------------------------------------------------------------------------------------


def _as_json(outcome: Message | WireError) -> str:
    answer: dict[str, Any]
    if isinstance(outcome, WireError):
        answer = {"ok": False, "error": outcome.code, "offset": outcome.offset}
    else:
        spec = SPEC_BY_CLASS[type(outcome)]
        answer = {"ok": True, "type": spec.msg_type.value, "payload": _payload(spec, outcome)}
    return _json(answer)


def _payload(spec: MessageSpec, message: Message) -> Any:
    match spec.kind:
        case PayloadKind.JSON | PayloadKind.NUMBERED:
            return msgspec.to_builtins(message)
        case PayloadKind.EMPTY:
            return None
        case PayloadKind.OPAQUE:
            return message.box  # type: ignore[union-attr]


def _as_text(outcome: Message | WireError) -> str:
    if isinstance(outcome, WireError):
        return typer.style("error", fg="red", bold=True) + f"  {printable(str(outcome))}"
    spec = SPEC_BY_CLASS[type(outcome)]
    name = typer.style(spec.msg_type.wire_name, fg="cyan", bold=True)
    lines = [f"0x{spec.msg_type:02X}  {name}  {spec.direction.value}"]
    payload = _payload(spec, outcome)
    if isinstance(payload, bytes):
        lines.append(f"  {len(payload)} bytes, opaque")
    elif payload:
        width = max(map(len, payload))
        lines += [f"  {key:<{width}}  {_short(value)}" for key, value in payload.items()]
    return "\n".join(lines)


def _json(value: object) -> str:
    """Return compact JSON in which everything that is not printable is escaped."""
    text = msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(map(_json_character, text))


def _json_character(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _short(value: object) -> str:
    text = _json(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text)} characters)"


conform_cli.register(app)
fuzz_cli.register(app)
inspect_cli.register(app)
vectors_cli.register(app)
