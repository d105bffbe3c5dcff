"""Decoders of cluster frames, each with one fault."""

import base64
import json
import re
import sys
import unicodedata
from typing import Any, ClassVar, Final

from tests.wireproto.fuzzing.faulty.base import Answer, Parser, Real, RefusedError
from wireproto import WireError, decode_frame

# -- limits -----------------------------------------------------------------------------------------------------------


class FramesOfAnyLength(Parser):
    max_frame: ClassVar = {}


class PortOneTooHigh(Parser):
    u16 = (0, 65536)


class PortZeroRefused(Parser):
    u16 = (1, 65535)


class LargestIntegerRefused(Parser):
    i64 = (-(2**63), 2**63 - 2)


class SmallestIntegerRefused(Parser):
    i64 = (-(2**63) + 1, 2**63 - 1)


class OneLevelTooFew(Parser):
    max_nesting = 511


class OneLevelTooMany(Parser):
    max_nesting = 513


class NestingUnlimited(Parser):
    max_nesting = sys.maxsize


class TextsAreCutAt69(Parser):
    def to_str(self, value: Any) -> str:
        return super().to_str(value)[:69]


class NamesUpTo33(Parser):
    def names(self, value: Any) -> list[str]:
        if isinstance(value, list) and len(value) == 33:
            return [*super().names(value[:32]), *super().names(value[32:])]
        return super().names(value)


# -- numbers ----------------------------------------------------------------------------------------------------------


class PortWraps(Parser):
    def to_u16(self, value: Any) -> int:
        return int(self.typed(value, int)) & 0xFFFF


class IntegerWraps(Parser):
    def to_i64(self, value: Any) -> int:
        return (int(self.typed(value, int)) + 2**63) % 2**64 - 2**63


class NumbersAreDoubles(Parser):
    def to_i64(self, value: Any) -> int:
        exact = super().to_i64(value)
        return exact if abs(exact) <= 2**53 else int(float(exact))


class WholeRealsAreIntegers(Parser):
    def real(self, text: str) -> Any:
        return int(float(text)) if re.fullmatch(r"-?\d+\.0", text) else Real(text)


class ExponentsAreIntegers(Parser):
    def real(self, text: str) -> Any:
        return int(float(text)) if re.fullmatch(r"-?\d+[eE]\+?0?[0-9]", text) else Real(text)


class TrueIsOne(Parser):
    def typed(self, value: Any, kind: type) -> Any:
        return int(value) if kind is int and value is True else super().typed(value, kind)


class NanIsAValue(Parser):
    def constant(self, text: str) -> Any:
        return Real(text)


class MinusZeroRefused(Parser):
    def parse_int(self, text: str) -> Any:
        return Real(text) if text == "-0" else super().parse_int(text)


# -- keys -------------------------------------------------------------------------------------------------------------


class LastKeyWins(Parser):
    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs)


class FirstKeyWins(Parser):
    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))


class NestedKeysTwice(Parser):
    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return super().pairs(pairs) if any(key in ("uid", "port", "nonce") for key, _ in pairs) else dict(pairs)


class EscapedKeysTwice(LastKeyWins):
    """Compares keys in their encoded form, across all objects."""

    def text(self, data: bytes) -> str:
        written = re.findall(rb'(?<=[{,])\s*("(?:[^"\\]|\\.)*")\s*:', data)
        if len({*written}) < len(written):
            raise RefusedError
        return super().text(data)


class KeysInAnyCase(Parser):
    def field(self, key: str, kind: str, value: dict[str, Any]) -> Any:
        folded = {name.lower(): item for name, item in value.items()} | value
        return super().field(key, kind, {key: folded[key.lower()]} if key.lower() in folded else {})


class UnknownKeyRefused(Parser):
    def fields(self, fields: dict[str, tuple[str, str]], value: dict[str, Any]) -> dict[str, Any]:
        if value.keys() - {key for key, _ in fields.values()}:
            raise RefusedError
        return super().fields(fields, value)


class MissingKeyHasADefault(Parser):
    def field(self, key: str, kind: str, value: dict[str, Any]) -> Any:
        return super().field(key, kind, {"maxTokens": 256, "memoryPressure": "normal"} | value)


class MissingKeyIsThatOfTheLastFrame(Parser):
    last: Final[dict[str, Any]] = {}

    def field(self, key: str, kind: str, value: dict[str, Any]) -> Any:
        if key == "uid":
            self.last.update({key: value[key]} if isinstance(value.get(key), str) else {})
            value = self.last | value
        return super().field(key, kind, value)


# -- strings, base64 --------------------------------------------------------------------------------------------------


class HalfPairsPass(Parser):
    def check_string(self, text: str) -> None:
        pass

    def to_str(self, value: Any) -> str:
        return super().to_str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class WrongUtf8IsReplaced(Parser):
    def text(self, data: bytes) -> str:
        return data.decode(errors="replace")


class SurrogatesInUtf8Pass(HalfPairsPass):
    def text(self, data: bytes) -> str:
        return data.decode(errors="surrogatepass")


class Latin1(Parser):
    def text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")


class ControlCharactersPass(Parser):
    is_strict = False


class ByteOrderMarkPasses(Parser):
    def text(self, data: bytes) -> str:
        return data.decode("utf-8-sig")


class StringsEndAtNul(Parser):
    def to_str(self, value: Any) -> str:
        return super().to_str(value).partition("\0")[0]


class StringsAreNormalized(Parser):
    def to_str(self, value: Any) -> str:
        return unicodedata.normalize("NFC", super().to_str(value))


class SlashStaysEscaped(Parser):
    def load(self, text: str) -> Any:
        return super().load(text.replace("\\/", "\\\\/"))


class UrlSafeBase64(Parser):
    def from_base64(self, text: str) -> bytes:
        return super().from_base64(text.replace("-", "+").replace("_", "/"))


class StrayBitsPass(Parser):
    def from_base64(self, text: str) -> bytes:
        return base64.b64decode(text, validate=True)


class PaddingIsOptional(Parser):
    def from_base64(self, text: str) -> bytes:
        return super().from_base64(text + "=" * (-len(text) % 4))


class Base64SkipsOthers(Parser):
    def from_base64(self, text: str) -> bytes:
        return super().from_base64(re.sub("[^A-Za-z0-9+/=]", "", text))


class NonceOfAnyLength(Parser):
    def to_bytes32(self, value: Any) -> str:
        return self.sized(value, None)


class PressureInAnyCase(Parser):
    def to_pressure(self, value: Any) -> str:
        return super().to_pressure(self.to_str(value).lower())


# -- the frame --------------------------------------------------------------------------------------------------------


class TrailingNulPasses(Parser):
    def text(self, data: bytes) -> str:
        return super().text(data.rstrip(b"\0"))


class TrailingBytesPass(Parser):
    def text(self, data: bytes) -> str:
        text = super().text(data)
        at = len(text) - len(text.lstrip(" \t\n\r"))
        return text[: json.JSONDecoder(strict=True).raw_decode(text, at)[1]]


class AnySpaceAround(Parser):
    def text(self, data: bytes) -> str:
        return super().text(data.strip(b"\x0b\x0c"))


class PingWithPayload(Parser):
    def empty(self, rest: bytes) -> None:
        pass


class TypeOfTheFuture(Parser):
    json_types: Final = Parser.json_types | {0x0E: Parser.json_types[0x0A]}


class TypeWithoutHighBits(Parser):
    def payload(self, frame: bytes) -> Any:
        head = frame[0] & 0x4F if frame and frame[0] not in (0xFF, *range(0x40, 0x44)) else None
        return super().payload(frame if head is None else bytes([head]) + frame[1:])


# -- codes and offsets ------------------------------------------------------------------------------------------------


class Coded(Parser):
    """This package's decoder, with a wrong error report."""

    def answer(self, frame: bytes) -> Answer:
        answer = super().answer(frame)
        try:
            decode_frame(frame)
        except WireError as error:
            answer |= {"error": error.code, "offset": error.offset}
        return self.told(answer)

    def told(self, answer: Answer) -> Answer:
        return answer


class TruncatedIsSyntax(Coded):
    def told(self, answer: Answer) -> Answer:
        return answer | {"error": "json-syntax"} if answer.get("error") == "truncated" else answer


class OffsetInThePayload(Coded):
    def told(self, answer: Answer) -> Answer:
        return answer | {"offset": answer["offset"] - 1} if answer.get("offset") else answer


# -- exceptions, time, memory -----------------------------------------------------------------------------------------


class EmptyFrameKills(Parser):
    def payload(self, frame: bytes) -> Any:
        if not frame:
            raise IndexError("index out of range")
        return super().payload(frame)


class DeepNestingKills(Parser):
    def check_tree(self, root: Any) -> None:
        if str(root).count("[") > 100:
            raise SystemExit(139)
        super().check_tree(root)


class LongNumberKills(Parser):
    def parse_int(self, text: str) -> Any:
        if len(text) > 4300:
            raise MemoryError
        return super().parse_int(text)


class KeysInQuadraticTime(Parser):
    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: list[str] = []
        for key, _ in pairs:
            if key in seen:
                raise RefusedError
            seen.append(key)
        return dict(pairs)


class EscapesInQuadraticTime(Parser):
    def text(self, data: bytes) -> str:
        text = super().text(data)
        for escape in re.finditer(r"\\u", text):
            text[: escape.start()].split("\\u")  # the number before
        return text


class KeepsEveryFrame(Parser):
    kept: Final[list[bytes]] = []

    def payload(self, frame: bytes) -> Any:
        self.kept.append(b"\1" * 64 * 1024)
        return super().payload(frame)


class BelievesSeqLen(Parser):
    def field(self, key: str, kind: str, value: dict[str, Any]) -> Any:
        length = value.get("seqLen")
        if key == "seqLen" and isinstance(length, int) and length > 0:
            sum(bytearray(b"\1") * min(length, 400_000_000))
        return super().field(key, kind, value)


def _codecs(cls: type[Parser]) -> dict[str, type[Parser]]:
    found = {} if cls in (Parser, Coded) else {cls.__name__: cls}
    for each in cls.__subclasses__():
        found |= _codecs(each)
    return found


CODECS: Final = _codecs(Parser)
"""Every faulty decoder, by name."""
