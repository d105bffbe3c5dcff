"""The normative declaration of every layout of the cluster link, in construct.

Each layout can parse and build on its own: `JacclBootstrapPayload.parse(b'{"port":29400,"sessionID":"u"}').port` is
29400. The functions `parse` and `build` are strict: they accept all of the bytes or none, and raise only `WireError`.
Do not use construct's `compile()`, which accepts truncated input.

The field tables and byte diagrams of spec/protocol.md and the dissector's tables are generated from this module, and
tests compare `messages` with it. `codec` and `jaccl` read the same bytes without construct. This module imports neither
of them, so tests can compare them with an independent declaration on every byte string.
"""

import base64
import codecs
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn, cast

from construct import (
    Bytes,
    Construct,
    ConstructError,
    Container,
    Enum,
    FormatFieldError,
    GreedyBytes,
    IfThenElse,
    Int8ub,
    Int32sl,
    Int32ul,
    Int64ul,
    Padding,
    Rebuild,
    StreamError,
    Struct,
    Subconstruct,
    Switch,
    len_,
    this,
)

from wireproto.errors import LimitError, MalformedError, TruncatedError, UnknownTypeError, WireError

KIB: Final = 1024
MIB: Final = 1024 * KIB


def parse(layout: Construct, data: bytes, **context: object) -> Any:
    """Return the value of the whole of `data`. Raise `WireError` with code and offset.

    `context` gives what is not in the bytes: `hidden_dim` for an activation, without which it is a TypeError;
    `revision`, by default 2, and the agreed `extensions` for a cluster frame.
    """
    stream = io.BytesIO(memoryview(data).tobytes())
    try:
        value = layout.parse_stream(stream, **context)
    except StreamError as error:
        raise TruncatedError("truncated", "the layout needs more bytes", offset=len(stream.getvalue())) from error
    if stream.read(1):
        _fail("trailing-data", stream.tell() - 1, "bytes follow the end of the layout")
    return value


def build(layout: Construct, value: Any, **context: object) -> bytes:
    """Return the bytes of `value`, a dict or Container with a layout's names. Raise `WireError` without an offset."""
    try:
        return cast(bytes, layout.build(value, **context))
    except WireError:
        raise
    except (ConstructError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise MalformedError("field-type", f"the layout does not allow this value: {error}") from error


def _hidden_dim(context: Container) -> int:
    if "hidden_dim" not in context._params:
        raise TypeError("hidden_dim is not in the bytes; give hidden_dim=... with them")
    return cast(int, context._params.hidden_dim)


def _fail(code: str, offset: int | None, detail: str, path: str | None = None) -> NoReturn:
    raise MalformedError(code, detail, offset=offset, path=path and _name(path))


def _name(path: str) -> str:
    """The last name of a construct path such as `(parsing) -> endpoint -> gid`."""
    return path.rpartition(" -> ")[2]


# -- checks and binary parts -------------------------------------------------------------------------------------------


class Only(Subconstruct):  # type: ignore[misc]
    """A binary value that is built from `python_type` only: construct packs bools as numbers and numbers as bytes."""

    def __init__(self, python_type: type, subcon: Construct) -> None:
        super().__init__(subcon)
        self.python_type = python_type

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if type(obj) is not self.python_type:
            _fail("field-type", None, f"expected {self.python_type.__name__}, not {type(obj).__name__}", path)
        try:
            return self.subcon._build(obj, stream, context, path)
        except FormatFieldError as error:
            raise MalformedError("field-range", str(error), path=_name(path)) from error


class Checked(Subconstruct):  # type: ignore[misc]
    """A value that `check` accepts, both ways; the offset is that of its first byte."""

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Any:
        offset = stream.tell()
        value = self.subcon._parsereport(stream, context, path)
        self.check(value, path, offset)
        return value

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        built = self.subcon._build(obj, stream, context, path)
        self.check(obj, path, None)
        return built

    def check(self, value: Any, path: str, offset: int | None) -> None:
        raise NotImplementedError


class Within(Checked):
    """A number from `low` to `high`."""

    def __init__(self, subcon: Construct, low: int, high: int, code: str = "field-range") -> None:
        super().__init__(subcon)
        self.low, self.high, self.code = low, high, code

    def check(self, value: int, path: str, offset: int | None) -> None:
        if not self.low <= value <= self.high:
            _fail(self.code, offset, f"not from {self.low} to {self.high}", path)


class LinkLength(Within):
    """A length, with a code for each of its bounds."""

    def check(self, value: int, path: str, offset: int | None) -> None:
        if value > self.high:
            raise LimitError("link-length-limit", f"{value} > {self.high}", offset=offset, path="length")
        super().check(value, path, offset)


class Sized(Checked):
    """From `least` to `most` bytes or characters."""

    def __init__(self, subcon: Construct, *, least: int = 0, most: int) -> None:
        super().__init__(subcon)
        self.least, self.most = least, most

    def check(self, value: bytes | str, path: str, offset: int | None) -> None:
        if not self.least <= len(value) <= self.most:
            _fail("field-length", offset, f"a length of {len(value)} is not from {self.least} to {self.most}", path)


class Matches(Checked):
    """Text that a regular expression matches as a whole."""

    def __init__(self, subcon: Construct, pattern: str) -> None:
        super().__init__(subcon)
        self.pattern = pattern

    def check(self, value: str, path: str, offset: int | None) -> None:
        if not re.fullmatch(self.pattern, value):
            _fail("field-pattern", offset, f"{value[:40]!r} is not of the form {self.pattern}", path)


class OneOf(Checked):
    """One of these texts."""

    def __init__(self, subcon: Construct, *values: str) -> None:
        super().__init__(subcon)
        self.values = values

    def check(self, value: str, path: str, offset: int | None) -> None:
        if value not in self.values:
            _fail("field-enum", offset, f"expected one of {', '.join(self.values)}, not {value[:40]!r}", path)


def _left(stream: io.BytesIO) -> int:
    """How many bytes the stream still has."""
    return len(stream.getbuffer()) - stream.tell()


class Empty(Checked):
    """No bytes."""

    def check(self, value: bytes, path: str, offset: int | None) -> None:
        if value:
            _fail("payload-not-empty", offset, "the type has no payload")


class TypeByte(Enum):  # type: ignore[misc]
    """An `Enum` that refuses unknown values."""

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Any:
        if (value := self.subcon._parsereport(stream, context, path)) not in self.decmapping:
            _unknown_type(f"0x{value:02x} is not a message type", stream.tell() - 1)
        return self.decmapping[value]

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if (name := self.decmapping.get(obj, obj)) not in self.encmapping:
            _unknown_type(f"{obj!r} is not a message type", None)
        self.subcon._build(self.encmapping[name], stream, context, path)
        return name


class Payload(Subconstruct):  # type: ignore[misc]
    """The payload of a type that a peer of `revision` knows, once `extension`, if there is one, is agreed.

    Its frame, type byte included, has at most `limit` bytes. [PAYLOAD-LIMIT]
    """

    def __init__(
        self, subcon: Construct, limit: int = 256 * MIB, *, revision: int = 1, extension: str | None = None
    ) -> None:
        super().__init__(subcon)
        self.limit, self.revision, self.extension = limit, revision, extension

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Any:
        offset = stream.tell()
        self._check_known(context, offset - 1)
        self._check_length(offset + _left(stream), offset)
        return self.subcon._parsereport(stream, context, path)

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        self._check_known(context, None)
        built = self.subcon._build(obj, stream, context, path)
        self._check_length(stream.tell(), None)
        return built

    def _check_known(self, context: Container, offset: int | None) -> None:
        revision, extensions = context._params.get("revision", 2), context._params.get("extensions", ())
        if self.revision > revision or (self.extension is not None and self.extension not in extensions):
            _unknown_type(f"{context.type} is not a type of revision {revision:d} with {sorted(extensions)}", offset)

    def _check_length(self, length: int, offset: int | None) -> None:
        if length > self.limit:
            raise LimitError("payload-limit", f"{length} bytes, and the limit is {self.limit}", offset=offset)


def _unknown_type(detail: str, offset: int | None) -> NoReturn:
    raise UnknownTypeError("type-unknown", detail, offset=offset, path="type" if offset is not None else None)


# -- JSON text ---------------------------------------------------------------------------------------------------------

MAX_NESTING: Final = 512
"""Levels of arrays and objects, counting the payload itself. [JSON-NESTING]"""

_SPACE: Final = b" \t\n\r"
_DIGITS: Final = b"0123456789"
_LITERALS: Final = {b"t": (b"true", True), b"f": (b"false", False), b"n": (b"null", None)}
_KINDS: Final = {
    b'"': "a string", b"{": "an object", b"[": "an array", b"t": "a boolean", b"f": "a boolean", b"n": "null",
    **{b"-0123456789"[at : at + 1]: "a number" for at in range(11)},
}  # fmt: skip


class JsonText:
    """A cursor over JSON text, read from the front and one byte at a time, until a byte that cannot be right."""

    def __init__(self, data: bytes, pos: int) -> None:
        self.data, self.pos = data, pos

    def tell(self) -> int:
        return self.pos

    def look(self) -> bytes:
        """Return the next byte without reading it. Raises `TruncatedError` at the end."""
        if self.pos == len(self.data):
            raise TruncatedError("truncated", "the JSON text ends too early", offset=self.pos)
        return self.data[self.pos : self.pos + 1]

    def next(self) -> bytes:
        """Skip white space, and return the byte after it without reading that."""
        while (byte := self.look()) in _SPACE:
            self.pos += 1
        return byte

    def kind(self) -> str:
        """Skip white space, and return the kind of the value after it."""
        return _KINDS.get(self.next()) or self.syntax("a value")

    def syntax(self, expected: str) -> NoReturn:
        _fail("json-syntax", self.pos, f"expected {expected}, not byte 0x{self.look().hex()}")

    def run(self, allowed: bytes, most: int | None = None) -> str:
        """Read bytes that are among `allowed`, and no more than `most`."""
        start = self.pos
        while self.pos - start != most and self.look() in allowed:
            self.pos += 1
        return self.data[start : self.pos].decode()

    def literal(self) -> bool | None:
        word, value = _LITERALS[self.look()]
        for letter in word:
            if not self.run(bytes([letter]), 1):
                self.syntax(word.decode())
        return value

    def number(self) -> tuple[str, bool]:
        """Return the integer part, and whether a fraction or an exponent follows it."""
        integer = self.run(b"-", 1) + (self.run(b"0", 1) or self.digits())
        if fraction := self.run(b".", 1):
            self.digits()
        if exponent := self.run(b"eE", 1):
            self.run(b"+-", 1)
            self.digits()
        return integer, bool(fraction or exponent)

    def digits(self) -> str:
        return self.run(_DIGITS) or self.syntax("a digit")

    def string(self) -> str:
        """Check a string, and let the standard library decode it."""
        start = self.pos
        self.pos += 1
        while (character := self.character()) != '"':
            if character == "\\":
                self.escape()
            elif character < " ":
                _fail("json-control-character", self.pos - 1, f"{character!r} must be escaped in a string")
        return cast(str, json.loads(self.data[start : self.pos]))

    def character(self) -> str:
        start, encoded = self.pos, self.look()
        while True:
            self.pos += 1
            try:
                return encoded.decode()
            except UnicodeDecodeError as error:
                if error.reason != "unexpected end of data":
                    _fail("json-utf8", start, f"not UTF-8: {error.reason}")
            encoded += self.look()

    def escape(self) -> None:
        """Check what follows a backslash."""
        start = self.pos - 1
        if not self.run(b'"\\/bfnrtu', 1):
            _fail("json-escape", start, "JSON has no such escape")
        if self.data[self.pos - 1 : self.pos] == b"u":
            unit = self.utf16_unit()
            is_first = unit >> 10 == 0x36
            is_pair = is_first and self.run(b"\\", 1) and self.run(b"u", 1) and self.utf16_unit() >> 10 == 0x37
            if 0xD800 <= unit <= 0xDFFF and not is_pair:
                _fail("json-surrogate", start, f"\\u{unit:04x} is half a surrogate pair")

    def utf16_unit(self) -> int:
        digits = self.run(_DIGITS + b"abcdefABCDEF", 4)
        if len(digits) < 4:
            _fail("json-escape", self.pos, "expected four hexadecimal digits")
        return int(digits, 16)

    def items(self, closing: bytes) -> Iterator[None]:
        """Go through an array or an object: yield before each item, and end after the closing bracket."""
        self.pos += 1
        if self.next() != closing:
            yield
            while self.next() == b",":
                self.pos += 1
                self.next()
                yield
            if self.look() != closing:
                self.syntax(f"a comma or {closing.decode()}")
        self.pos += 1

    def key(self, seen: set[str]) -> str:
        """Read a member's key, its colon, and white space; `seen` has the keys of this object so far."""
        start = self.pos
        if self.look() != b'"':
            self.syntax("a key")
        key = self.string()
        if key in seen:
            _fail("json-duplicate-key", start, f"the key {key[:40]!r} is repeated in one object")
        seen.add(key)
        if self.next() != b":":
            self.syntax("a colon")
        self.pos += 1
        self.next()
        return key

    def skip(self) -> None:
        """Read the value of an unknown key, validating it fully. [JSON-UNKNOWN-KEY]"""
        opened: list[tuple[Iterator[None], set[str] | None]] = []  # the open arrays (None) and objects
        while True:
            match self.kind():
                case "an object" | "an array" as kind:
                    if len(opened) + 2 > MAX_NESTING:
                        raise LimitError("json-nesting", f"more than {MAX_NESTING} levels", offset=self.pos)
                    keys = set[str]() if kind == "an object" else None
                    opened.append((self.items(b"]" if keys is None else b"}"), keys))
                case "a string":
                    self.string()
                case "a number":
                    self.number()
                case _:
                    self.literal()
            while opened and next(opened[-1][0], "closed") == "closed":
                opened.pop()
            if not opened:
                return
            if (seen := opened[-1][1]) is not None:
                self.key(seen)


# -- JSON values -------------------------------------------------------------------------------------------------------


def _integer(text: JsonText, path: str) -> int:
    offset = text.tell()
    digits, is_real = text.number()
    if is_real:
        _fail("field-not-integer", offset, "an integer has neither fraction nor exponent", path)
    return int(digits[:21])  # 21 characters are out of every range, and int() is slow for more


def _base64(text: JsonText, path: str) -> bytes:
    offset = text.tell()
    encoded = text.string()
    try:
        value = base64.b64decode(encoded, validate=True)
    except ValueError:  # not base64, or not even ASCII
        value = b""
    if base64.b64encode(value).decode() != encoded:
        _fail("field-base64", offset, "expected standard base64, padded, with zero bits in the padding", path)
    return value


class JsonValue(Construct):  # type: ignore[misc]
    """A value of a JSON text. Its construct path is the path on the wire, such as `tokens[0]`."""

    def __init__(self, kind: str, python_type: type, read: Callable[[JsonText, str], object]) -> None:
        super().__init__()
        self.kind, self.python_type, self.read = kind, python_type, read

    def _parse(self, stream: JsonText, context: Container, path: str) -> Any:
        if (kind := stream.kind()) != self.kind:
            _fail("field-type", stream.tell(), f"expected {self.kind}, not {kind}", path)
        return self.read(stream, path)

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if type(obj) is not self.python_type:
            _fail("field-type", None, f"expected {self.python_type.__name__}, not {type(obj).__name__}", path)
        text = base64.b64encode(obj).decode() if type(obj) is bytes else obj
        try:
            stream.write(json.dumps(text, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            _fail("json-surrogate", None, "a character is half a surrogate pair", path)
        return obj


class JsonArray(Construct):  # type: ignore[misc]
    """An array, of at most `most` items and each of them once if that is given. It parses to a tuple."""

    def __init__(self, item: Construct, *, most: int | None = None, unique: bool = False) -> None:
        super().__init__()
        self.item, self.most, self.unique = item, most, unique

    def _parse(self, stream: JsonText, context: Container, path: str) -> tuple[Any, ...]:
        if (kind := stream.kind()) != "an array":
            _fail("field-type", stream.tell(), f"expected an array, not {kind}", path)
        start, values = stream.pos, list[Any]()
        for index, _ in enumerate(stream.items(b"]")):
            stream.kind()
            self._check_length(index + 1, path, start)
            offset = stream.pos
            value = self.item._parsereport(stream, context, f"{path}[{index}]")
            self._check_unique(value, values, f"{path}[{index}]", offset)
            values.append(value)
        return tuple(values)

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if type(obj) not in (tuple, list):
            _fail("field-type", None, f"expected tuple or list, not {type(obj).__name__}", path)
        self._check_length(len(obj), path, None)
        texts: list[bytes] = []
        for index, item in enumerate(obj):
            text = _built(self.item, item, f"{path}[{index}]")
            self._check_unique(text, texts, f"{path}[{index}]", None)
            texts.append(text)
        stream.write(b"[%s]" % b",".join(texts))
        return obj

    def _check_length(self, length: int, path: str, offset: int | None) -> None:
        if self.most is not None and length > self.most:
            _fail("field-length", offset, f"more than {self.most} elements", path)

    def _check_unique(self, value: object, before: list[Any], path: str, offset: int | None) -> None:
        if self.unique and value in before:
            _fail("field-duplicate", offset, "the value is repeated", path)


class Optional(Subconstruct):  # type: ignore[misc]
    """A member that may be absent, which means `absent`; that value is not written. [EXT-EMPTY, EXT-VERSIONS]"""

    def __init__(self, subcon: Construct, absent: object) -> None:
        super().__init__(subcon)
        self.absent = absent

    def is_absent(self, value: object) -> bool:
        """Return whether `value` is not written. A list is built as a tuple is."""
        return (tuple(value) if isinstance(value, list) else value) == self.absent


class JsonObject(Construct):  # type: ignore[misc]
    """A JSON text, all bytes up to the end, that is one object with these members; others are ignored. [JSON-TEXT]"""

    def __init__(self, *subcons: Construct) -> None:
        super().__init__()
        self.members = {member.name: member.subcon for member in subcons}
        self.absent = {key: member.absent for key, member in self.members.items() if isinstance(member, Optional)}

    def _parse(self, stream: io.BytesIO, context: Container, path: str) -> Container:
        start = stream.tell()
        text = JsonText(bytes(start) + stream.read(), start)  # so that offsets count from the same byte
        if text.data.startswith(codecs.BOM_UTF8, start):
            _fail("json-bom", start, "the JSON text starts with a byte-order mark")
        if (kind := text.kind()) != "an object":
            _fail("payload-not-object", text.pos, f"expected an object, not {kind}")
        found: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in text.items(b"}"):
            if (key := text.key(seen)) in self.members:
                found[key] = self.members[key]._parsereport(text, context, key)
            else:
                text.skip()
        for key in self.members:
            if key not in found and key not in self.absent:
                _fail("field-missing", text.pos - 1, f"the object ends without {key}", key)
        end = len(text.data) - len(text.data[text.pos :].lstrip(_SPACE))
        if end < len(text.data):
            _fail("trailing-data", end, "only white space may follow the JSON text")
        values = self.absent | found
        return Container({key: values[key] for key in self.members})

    def _build(self, obj: Any, stream: io.BytesIO, context: Container, path: str) -> Any:
        if not isinstance(obj, Mapping):
            _fail("field-type", None, f"expected a dict or Container, not {type(obj).__name__}")
        texts = []
        for key, member in self.members.items():
            if isinstance(member, Optional) and (key not in obj or member.is_absent(obj[key])):
                continue
            if key not in obj:
                _fail("field-missing", None, f"there is no {key}", key)
            texts.append(b'"%s":%s' % (key.encode(), _built(member, obj[key], key)))
        stream.write(b"{%s}" % b",".join(texts))
        return obj


def _built(layout: Construct, value: Any, path: str) -> bytes:
    """The bytes of a value whose construct path is `path`."""
    stream = io.BytesIO()
    layout._build(value, stream, Container(), path)
    return stream.getvalue()


# -- link frame, sealed box --------------------------------------------------------------------------------------------

Octets: Final = Only(bytes, GreedyBytes)
I32: Final = Only(int, Int32sl)
U32: Final = Only(int, Int32ul)
U64: Final = Only(int, Int64ul)

LinkFrame: Final = Struct(
    "length" / Rebuild(LinkLength(U64, 1, 256 * MIB, "link-length-zero"), len_(this.body)),
    "body" / Only(bytes, Bytes(this.length)),
)
"""A unit of the TCP stream: length, body. [LINK-LAYOUT, LINK-LEN-MIN, LINK-LEN-MAX]"""

SealedBox: Final = Struct(
    "nonce" / Only(bytes, Bytes(12)),
    "ciphertext" / Only(bytes, Bytes(lambda box: len(box.ciphertext) if box._building else _left(box._io) - 16)),
    "tag" / Only(bytes, Bytes(16)),
)
"""AES-256-GCM without associated data; a tensor box has the same layout. [SEAL-LAYOUT]"""

# -- payloads ----------------------------------------------------------------------------------------------------------

Boolean: Final = JsonValue("a boolean", bool, lambda text, _: text.literal())
Integer: Final = JsonValue("a number", int, _integer)
Text: Final = JsonValue("a string", str, lambda text, _: text.string())
Base64: Final = JsonValue("a string", bytes, _base64)

U16Number: Final = Within(Integer, 0, 2**16 - 1)
I64Number: Final = Within(Integer, -(2**63), 2**63 - 1)
ShortText: Final = Sized(Text, most=1024)
Sha256Hex: Final = Matches(Text, "([0-9a-f]{64})?")
Bytes32: Final = Sized(Base64, least=32, most=32)
Bytes64: Final = Sized(Base64, least=64, most=64)
ExtensionName: Final = Matches(Sized(Text, most=64), "[a-z][a-z0-9-]*/[1-9][0-9]{0,3}")
ExtensionNames: Final = JsonArray(ExtensionName, most=32, unique=True)
"""Up to 32 names, each at most once. [EXT-NAMES]"""

HandshakeHello: Final = JsonObject(
    "sePubKeyRaw" / Bytes64,
    "ephemeralX25519PubKey" / Bytes32,
    "nonce" / Bytes32,
    "seSignature" / Base64,
)
"""Opens the handshake. [PAYLOAD-HELLO]"""

HandshakeAck: Final = HandshakeHello
"""Answers the hello with the same members. [PAYLOAD-HELLO]"""

Ping: Final = Empty(Octets)
"""Asks for a pong. [PAYLOAD-EMPTY]"""

PongPayload: Final = JsonObject(
    "modelLoaded" / Boolean,
    "inferenceInFlight" / Boolean,
    "memoryPressure" / OneOf(Text, "normal", "warning", "critical"),
    "extensions" / Optional(ExtensionNames, ()),
)
"""Answers a ping. [PAYLOAD-PONG, EXT-OFFER]"""

InferenceStep: Final = Struct("box" / Octets)
"""A tensor box with an activation. [PAYLOAD-OPAQUE]"""

InferenceToken: Final = Struct("box" / Octets)
"""A tensor box with a token. [PAYLOAD-OPAQUE]"""

JacclBootstrapPayload: Final = JsonObject(
    "port" / U16Number,
    "sessionID" / Text,
    "extensions" / Optional(ExtensionNames, ()),
)
"""Starts the group's init on both ranks. [PAYLOAD-BOOTSTRAP, EXT-CHOICE]"""

PromptTokensPayload: Final = JsonObject(
    "uid" / Text,
    "tokens" / JsonArray(I64Number),
    "maxTokens" / I64Number,
)
"""A prompt as token IDs. [PAYLOAD-PROMPT]"""

StepTokenPayload: Final = JsonObject("uid" / Text, "token" / I64Number)
"""One token of a running session. [PAYLOAD-STEP-TOKEN]"""

SessionStopPayload: Final = JsonObject("uid" / Text)
"""Stops an inference session. [PAYLOAD-UID]"""

PPActivationPayload: Final = JsonObject("uid" / Text, "seqLen" / I64Number, "sealedActivation" / Base64)
"""A pipeline-parallel activation in a tensor box. [PAYLOAD-PP-ACTIVATION]"""

PPTokenPayload: Final = JsonObject("uid" / Text, "sealedToken" / Base64)
"""A pipeline-parallel token in a tensor box. [PAYLOAD-PP-TOKEN]"""

PPSessionEndPayload: Final = JsonObject("uid" / Text)
"""Ends a pipeline-parallel session. [PAYLOAD-UID]"""

SideChannelPart: Final = Struct("sequence" / U32, "part" / Sized(Octets, most=MIB))
"""A rank's contribution to one of JACCL's gathers. [EXT-SIDE-CHANNEL-LAYOUT, EXT-SIDE-CHANNEL-SIZE]"""

SideChannelWhole: Final = Struct("sequence" / U32, "whole" / Sized(Octets, most=8 * MIB))
"""The contributions of all ranks, in order. [EXT-SIDE-CHANNEL-LAYOUT, EXT-SIDE-CHANNEL-SIZE]"""

Outcome: Final = JsonObject(
    "rank" / U16Number,
    "state" / OneOf(Text, "started", "ready", "failed", "finished"),
    "stage" / ShortText,
    "code" / ShortText,
    "message" / ShortText,
)
"""The progress of a rank. [EXT-OUTCOME]"""

Versions: Final = JsonObject(
    "package" / ShortText,
    "mlx" / ShortText,
    "backend" / ShortText,
    "devices" / Sha256Hex,
    "program" / Optional(OneOf(Text, "hold", "module", "command", "dry-run"), None),
)
"""The versions and settings of a rank. [EXT-VERSIONS]"""

SessionEnd: Final = Empty(Octets)
"""Ends the session. [PAYLOAD-EMPTY]"""

# -- cluster frame -----------------------------------------------------------------------------------------------------

ClusterMsgType: Final = TypeByte(
    Int8ub,
    handshakeHello=0x01, handshakeAck=0x02, ping=0x03, pong=0x04, inferenceStep=0x05, inferenceToken=0x06,
    jacclBootstrap=0x07, promptTokens=0x08, stepToken=0x09, sessionStop=0x0A, ppActivation=0x0B, ppToken=0x0C,
    ppSessionEnd=0x0D, sideChannelPart=0x40, sideChannelWhole=0x41, outcome=0x42, versions=0x43, sessionEnd=0xFF,
)  # fmt: skip
"""The first byte of a cluster frame. [FRAME-TYPE]"""

ClusterFrame: Final = Struct(
    "type" / ClusterMsgType,
    "payload"
    / Switch(
        this.type,
        {
            "handshakeHello": Payload(HandshakeHello, 4 * KIB),
            "handshakeAck": Payload(HandshakeAck, 4 * KIB),
            "ping": Payload(Ping),
            "pong": Payload(PongPayload, 64 * KIB),
            "inferenceStep": Payload(InferenceStep),
            "inferenceToken": Payload(InferenceToken),
            "jacclBootstrap": Payload(JacclBootstrapPayload, 64 * KIB),
            "promptTokens": Payload(PromptTokensPayload, revision=2),
            "stepToken": Payload(StepTokenPayload, 64 * KIB, revision=2),
            "sessionStop": Payload(SessionStopPayload, 64 * KIB, revision=2),
            "ppActivation": Payload(PPActivationPayload, revision=2),
            "ppToken": Payload(PPTokenPayload, 64 * KIB, revision=2),
            "ppSessionEnd": Payload(PPSessionEndPayload, 64 * KIB, revision=2),
            "sideChannelPart": Payload(SideChannelPart, revision=2, extension="side-channel/1"),
            "sideChannelWhole": Payload(SideChannelWhole, revision=2, extension="side-channel/1"),
            "outcome": Payload(Outcome, 64 * KIB, revision=2, extension="outcome/1"),
            "versions": Payload(Versions, 64 * KIB, revision=2, extension="outcome/1"),
            "sessionEnd": Payload(SessionEnd),
        },
    ),
)
"""A type byte and its payload. [FRAME-TYPE, EXT-UNINVITED]"""

# -- tensor plaintexts -------------------------------------------------------------------------------------------------

STOP: Final = -1
"""The seqLen of the stop sentinel, which has no data. [TENSOR-STOP]"""

Activation: Final = Struct(
    "seqLen" / Within(I32, STOP, 2**31 - 1, "activation-seq-len"),
    "data" / Only(bytes, Bytes(lambda context: max(context.seqLen, 0) * _hidden_dim(context) * 2)),
)
"""bfloat16 of shape `[1, seqLen, hidden_dim]`, row-major, with the model's `hidden_dim`.
[TENSOR-ACTIVATION, TENSOR-STOP]"""

Token: Final = Struct("tokenID" / I32)
"""A token ID. [TENSOR-TOKEN]"""

# -- JACCL's side channel ----------------------------------------------------------------------------------------------

JacclHello: Final = Struct("rank" / Within(I32, 1, 63, "jaccl-rank"))
"""A worker's first message to the root, in a ring of up to 64 ranks. [JACCL-HELLO]"""

JacclCount: Final = Struct("count" / Within(I32, 1, 32_768, "jaccl-count"))
"""The length of a rank's list of Destinations, at most 1 MiB of them. [JACCL-MESH-INIT, JACCL-RING-INIT]"""

JacclEndpoint: Final = Struct(
    "queue_pair_number" / Within(I32, 0, 2**31 - 1, "jaccl-queue-pair"),
    "packet_sequence_number" / Within(I32, 7, 7, "jaccl-sequence-number"),
    Padding(4),
    "gid" / Only(bytes, Bytes(16)),
)
"""The fields of a peer's Destination after its local_id, 28 bytes. [JACCL-DESTINATION]"""

JacclDestination: Final = Struct(
    "local_id" / Within(I32, -1, 2**31 - 1, "jaccl-local-id"),
    "endpoint" / IfThenElse(this.local_id == -1, Padding(28), JacclEndpoint),
)
"""The address of a queue pair, 32 bytes. A local_id of -1 marks a rank's own entry: its other 28 bytes have no meaning.
The padding has none either. [JACCL-DESTINATION]"""
