"""The command `wireproto decode`."""

import base64
import binascii
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from wireproto.cli.answers import RevisionOption, as_json, decoded, json_text, payload_of
from wireproto.cli.console import EXIT_NO, EXIT_OK, example, say
from wireproto.cli.files import NamedFile
from wireproto.codec.link import LinkDecoder
from wireproto.errors import WireError, printable
from wireproto.messages import EXTENSIONS, MAX_LINK_LENGTH, SPEC_BY_CLASS, Message, Revision

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, as from `wireproto codec`.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog=example("wireproto decode 03 --json"))(decode)


def decode(
    context: typer.Context,
    frames: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FRAME]...", help="Frames in hex, with or without 0x, or in base64. Default: --file."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File with raw bytes. Default: standard input.")
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="The input is link frames: each starts with its length.")
    ] = False,
    revision: RevisionOption = Revision.V2,
    in_json: JsonOption = False,
) -> int:
    """Decode cluster frames, of extensions too, and show their fields.

    Exit codes: 0 all good, 1 a frame is bad, 2 wrong usage.
    """
    if frames and file:
        raise typer.BadParameter("give frames or --file, not both", ctx=context)
    bad = 0
    for outcome in _outcomes(_inputs(context, frames, file), link, Revision(revision)):
        bad += isinstance(outcome, WireError)
        say(as_json(outcome) if in_json else _as_text(outcome))
    return EXIT_NO if bad else EXIT_OK


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
            stream = BufferedReader(NamedFile(file))
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
            data = source if isinstance(source, bytes) else source.read(MAX_LINK_LENGTH + 1)
            yield decoded(data, revision, EXTENSIONS)


def _link_outcomes(source: BinaryIO | bytes, revision: Revision) -> Iterator[Message | WireError]:
    decoder = LinkDecoder()
    chunks = iter([source]) if isinstance(source, bytes) else iter(lambda: source.read(64 * 1024), b"")
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                yield decoded(frame, revision, EXTENSIONS)
        decoder.eof()
    except WireError as error:
        yield error


def _as_text(outcome: Message | WireError) -> str:
    if isinstance(outcome, WireError):
        return typer.style("error", fg="red", bold=True) + f"  {printable(str(outcome))}"
    spec = SPEC_BY_CLASS[type(outcome)]
    name = typer.style(spec.msg_type.wire_name, fg="cyan", bold=True)
    lines = [f"0x{spec.msg_type:02X}  {name}  {spec.direction.value}"]
    payload = payload_of(spec, outcome)
    if isinstance(payload, bytes):
        lines.append(f"  {len(payload)} bytes, opaque")
    elif payload:
        width = max(map(len, payload))
        lines += [f"  {key:<{width}}  {_short(value)}" for key, value in payload.items()]
    return "\n".join(lines)


def _short(value: object) -> str:
    text = json_text(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text)} characters)"
