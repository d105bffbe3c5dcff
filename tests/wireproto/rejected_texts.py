"""Frames that must be rejected: bytes, type, JSON text. `rejected_fields` continues with the fields.

In a rejected frame a caret stands before the byte that the error names, and is no part of the frame. Which byte that
is follows from these rules:

- what cannot go on: the first byte that cannot stand where it stands;
- a value that is well formed and yet wrong (range, length, base64, enum, fraction): its first byte, for a string the
  opening quote;
- a unit of a string (a UTF-8 sequence, an escape, a surrogate's escape): its first byte; but a bad digit in `\\uXXXX`
  is named itself;
- a key that stands twice: the opening quote of the second;
- a field that is missing: the closing brace; the first one, in the order of the protocol's table, is named;
- a frame that ends too soon: its end.
"""

from typing import Final, NamedTuple

from tests.wireproto.payloads import MAX_FRAME, json_object, members
from wireproto import HandshakeHello, Revision

V1, V2 = Revision.V1, Revision.V2


class Reject(NamedTuple):
    id: str
    code: str
    marked: bytes
    """The frame, with a caret before the byte at fault."""
    path: str | None = None
    revision: Revision = V2

    @property
    def frame(self) -> bytes:
        return self.marked.replace(b"^", b"")

    @property
    def offset(self) -> int:
        assert self.marked.count(b"^") == 1
        return self.marked.index(b"^")


_HELLO: Final = json_object(members(HandshakeHello(bytes(64), bytes(32), bytes(32), b"")))

# -- the frame and its type -------------------------------------------------------------------------------------------

_TYPES_WITH_LIMIT: Final = sorted(MAX_FRAME)

FRAME: Final = [
    # The limit is checked first, whatever the payload is.
    *(
        Reject(f"type-0x{byte:02x}-over-limit", "payload-limit", bytes([byte]) + b"^" + b" " * MAX_FRAME[byte])
        for byte in _TYPES_WITH_LIMIT
    ),
    Reject("hello-over-limit", "payload-limit", b"\x01^" + b" " * (4096 - len(_HELLO)) + _HELLO, revision=V1),
    Reject("ack-over-limit", "payload-limit", b"\x02^" + b" " * (4096 - len(_HELLO)) + _HELLO),
    Reject("hello-far-over-limit", "payload-limit", b"\x01^" + b" " * 60 + b"\0" * 200_000),
    Reject("no-type-byte", "truncated", b"^"),
    Reject("no-type-byte-v1", "truncated", b"^", revision=V1),
    Reject("type-0x00", "type-unknown", b"^\x00", "type"),
    Reject("type-0x00-with-payload", "type-unknown", b'^\x00{"uid":"u"}', "type"),
    Reject("type-0x0e", "type-unknown", b"^\x0e", "type"),
    Reject("type-0x10", "type-unknown", b'^\x10{"uid":"u"}', "type"),
    Reject("type-0x7b-bare-json", "type-unknown", b'^{"uid":"u"}', "type"),
    Reject("type-0x3f", "type-unknown", b"^\x3f\0\0\0\0", "type"),
    Reject("type-0x44", "type-unknown", b'^\x44{"rank":0}', "type"),
    Reject("type-0x7f", "type-unknown", b"^\x7f", "type"),
    Reject("type-0x80", "type-unknown", b"^\x80", "type"),
    Reject("type-0xef-bom", "type-unknown", b'^\xef\xbb\xbf\x0a{"uid":"u"}', "type"),
    Reject("type-0xfe", "type-unknown", b"^\xfe", "type"),
    Reject("type-0x20-space", "type-unknown", b"^ \x03", "type"),
    Reject("v1-prompt-tokens", "type-unknown", b'^\x08{"uid":"u","tokens":[1],"maxTokens":2}', "type", V1),
    Reject("v1-step-token", "type-unknown", b'^\x09{"uid":"u","token":1}', "type", V1),
    Reject("v1-session-stop", "type-unknown", b'^\x0a{"uid":"u"}', "type", V1),
    Reject("v1-pp-activation", "type-unknown", b'^\x0b{"uid":"u","seqLen":1,"sealedActivation":""}', "type", V1),
    Reject("v1-pp-token", "type-unknown", b'^\x0c{"uid":"u","sealedToken":""}', "type", V1),
    Reject("v1-pp-session-end", "type-unknown", b'^\x0d{"uid":"u"}', "type", V1),
    Reject("v1-session-stop-malformed", "type-unknown", b"^\x0a{{", "type", V1),
    Reject("v1-type-0x0e", "type-unknown", b"^\x0e", "type", V1),
    Reject("v1-type-0x00", "type-unknown", b"^\x00", "type", V1),
    Reject("v1-type-0xfe", "type-unknown", b"^\xfe{}", "type", V1),
    Reject("ping-with-object", "payload-not-empty", b"\x03^{}"),
    Reject("ping-with-space", "payload-not-empty", b"\x03^ "),
    Reject("ping-with-newline", "payload-not-empty", b"\x03^\n"),
    Reject("ping-with-nul", "payload-not-empty", b"\x03^\0"),
    Reject("ping-twice", "payload-not-empty", b"\x03^\x03"),
    Reject("ping-with-null", "payload-not-empty", b"\x03^null", revision=V1),
    Reject("session-end-with-object", "payload-not-empty", b"\xff^{}"),
    Reject("session-end-with-byte", "payload-not-empty", b"\xff^\xff"),
    Reject("session-end-with-many", "payload-not-empty", b"\xff^" + bytes(1000), revision=V1),
]

# -- the JSON text as a whole -----------------------------------------------------------------------------------------

TEXT: Final = [
    Reject("no-payload", "truncated", b"\x07^"),
    Reject("only-space", "truncated", b"\x0a \n\t\r^"),
    *(
        Reject(f"payload-{name}", "payload-not-object", b"\x0a^" + text)
        for name, text in {
            "array": b'[{"uid":"u"}]', "empty-array": b"[]", "string": b'"uid"', "number": b"1", "minus": b"-",
            "null": b"null",
            "true": b"true", "false": b"false", "half-null": b"nul", "truth": b"truth", "open-string": b'"',
            "real": b"1.5e3",
            "deep-array": b"[" * 1000, "string-with-bad-utf8": b'"\xff"', "base64": b'"e30="',
        }.items()
    ),
    Reject("payload-array-behind-space", "payload-not-object", b"\x07 \n^[]"),
    *(
        Reject(f"payload-starts-with-{name}", "json-syntax", b"\x0a^" + text)
        for name, text in {
            "x": b"x", "closing-brace": b"}", "closing-bracket": b"]", "comma": b",", "colon": b":",
            "apostrophe": b"'a'",
            "nan": b"NaN", "infinity": b"Infinity", "plus": b"+1", "dot": b".5", "nul": b"\0",
            "comment": b'//\n{"uid":"u"}',
            "block-comment": b'/**/{"uid":"u"}', "form-feed": b'\x0c{"uid":"u"}', "vertical-tab": b'\x0b{"uid":"u"}',
            "nbsp": b'\xa0{"uid":"u"}', "utf8-nbsp": b'\xc2\xa0{"uid":"u"}', "half-bom": b'\xef\xbb{"uid":"u"}',
            "other-ef": b'\xef\xbb\xbe{"uid":"u"}', "record-separator": b'\x1e{"uid":"u"}',
            "zero-width": b"\xe2\x80\x8b{}",
            "capital-null": b"NULL", "capital-true": b"True", "backslash": b'\\u007b"uid":"u"}', "delete": b"\x7f{}",
        }.items()
    ),
    Reject("bom", "json-bom", b'\x0a^\xef\xbb\xbf{"uid":"u"}'),
    Reject("bom-alone", "json-bom", b"\x0a^\xef\xbb\xbf"),
    Reject("bom-twice", "json-bom", b'\x07^\xef\xbb\xbf\xef\xbb\xbf{"port":1,"sessionID":""}'),
    Reject("bom-before-array", "json-bom", b"\x0a^\xef\xbb\xbf[]"),
    Reject("bom-behind-space", "json-syntax", b'\x0a ^\xef\xbb\xbf{"uid":"u"}'),
    Reject("bom-inside", "json-syntax", b'\x0a{^\xef\xbb\xbf"uid":"u"}'),
    Reject("bom-at-the-end", "trailing-data", b'\x0a{"uid":"u"}^\xef\xbb\xbf'),
    Reject("utf-16-le", "json-syntax", b"\x0a{^\0" + '"uid":"u"}'.encode("utf-16-le")),
    Reject("utf-16-be", "json-syntax", b"\x0a^" + '{"uid":"u"}'.encode("utf-16-be")),
    Reject("utf-16-le-bom", "json-syntax", b"\x0a^\xff\xfe" + '{"uid":"u"}'.encode("utf-16-le")),
    Reject("utf-16-be-bom", "json-syntax", b"\x0a^\xfe\xff" + '{"uid":"u"}'.encode("utf-16-be")),
    Reject("utf-32-le", "json-syntax", b"\x0a{^\0\0\0" + '"uid":"u"}'.encode("utf-32-le")),
    Reject("utf-32-be", "json-syntax", b"\x0a^" + '{"uid":"u"}'.encode("utf-32-be")),
    Reject("utf-32-le-bom", "json-syntax", b"\x0a^\xff\xfe\0\0" + '{"uid":"u"}'.encode("utf-32-le")),
    Reject("utf-32-be-bom", "json-syntax", b"\x0a^\0\0\xfe\xff" + '{"uid":"u"}'.encode("utf-32-be")),
    Reject("utf-7", "json-syntax", b"\x0a^+AHsAIgB1AGkAZAAi"),
    *(
        Reject(f"trailing-{name}", "trailing-data", b'\x0a{"uid":"u"}' + text)
        for name, text in {
            "nul": b"^\0", "form-feed": b"^\x0c", "vertical-tab": b"^\x0b", "nbsp": b"^\xa0", "utf8-nbsp": b"^\xc2\xa0",
            "comma": b"^,",
            "brace": b"^}", "second-object": b'^{"uid":"u"}', "object-on-next-line": b'\n^{"uid":"u"}',
            "null": b" ^null",
            "comment": b"\n^// done", "nul-behind-space": b" \t\r\n^\0", "bad-utf8": b"^\xff",
            "next-line": b"^\xc2\x85",
            "line-separator": b"^\xe2\x80\xa8", "ctrl-z": b"^\x1a", "delete": b"^\x7f", "bracket": b"^]",
            "colon": b"^:",
        }.items()
    ),
    Reject("trailing-behind-empty-object-member", "trailing-data", b'\x0a{"uid":"u","x":{}}^}'),
    Reject("trailing-comma-behind-unknown-array", "trailing-data", b'\x0a{"uid":"u","x":[]} ^,'),
]  # fmt: skip

# -- objects and arrays -----------------------------------------------------------------------------------------------

STRUCTURE: Final = [
    *(
        Reject(f"ends-{name}", "truncated", b"\x07" + text + b"^")
        for name, text in {
            "behind-brace": b"{", "inside-key": b'{"po', "behind-key": b'{"port"', "behind-colon": b'{"port":',
            "inside-number": b'{"port":1',
            "behind-minus": b'{"port":-', "behind-point": b'{"port":1.', "behind-exponent": b'{"port":1e',
            "behind-exponent-sign": b'{"port":1e-',
            "behind-number": b'{"port":1 ', "behind-comma": b'{"port":1,', "at-value-quote": b'{"sessionID":"',
            "inside-escape": b'{"sessionID":"\\',
            "inside-unicode-escape": b'{"sessionID":"\\u00', "behind-high-surrogate": b'{"sessionID":"\\ud83d',
            "between-surrogates": b'{"sessionID":"\\ud83d\\', "inside-low-surrogate": b'{"sessionID":"\\ud83d\\ude0',
            "inside-utf8-2": b'{"sessionID":"\xc3', "inside-utf8-3": b'{"sessionID":"\xe2\x82',
            "inside-utf8-4": b'{"sessionID":"\xf0\x9f\x98',
            "behind-string": b'{"sessionID":"x"', "inside-unknown-literal": b'{"x":tru',
            "inside-unknown-array": b'{"x":[',
            "behind-unknown-comma": b'{"x":[1,', "inside-unknown-object": b'{"x":{"y"',
            "before-last-brace": b'{"port":1,"sessionID":""',
            "inside-deep-array": b'{"x":' + b"[" * 511, "inside-utf8-of-key": b'{"\xc3',
        }.items()
    ),
    *(
        Reject(f"{name}", "json-syntax", b"\x0a" + text)
        for name, text in {
            "comma-first": b'{^,"uid":"u"}', "comma-last": b'{"uid":"u",^}', "comma-twice": b'{"uid":"u",^,"x":1}',
            "comma-missing": b'{"uid":"u" ^"x":1}',
            "colon-missing": b'{"uid" ^"u"}', "colon-twice": b'{"uid":^:"u"}', "equals-sign": b'{"uid"^="u"}',
            "semicolon": b'{"uid":"u"^;"x":1}',
            "key-unquoted": b'{^uid:"u"}', "key-in-apostrophes": b"{^'uid':\"u\"}", "key-number": b'{^1:"u"}',
            "key-null": b'{^null:"u"}',
            "key-array": b'{^["uid"]:"u"}', "key-without-value": b'{"uid"^}', "value-missing": b'{"uid":^}',
            "value-missing-before-comma": b'{"uid":^,"x":1}',
            "bracket-closes-object": b'{"uid":"u"^]', "brace-closes-array": b'{"uid":"u","x":[1^}}',
            "comma-closes-array": b'{"uid":"u","x":[1,^]}',
            "array-comma-first": b'{"x":[^,1],"uid":"u"}', "array-colon": b'{"x":[1^:2],"uid":"u"}',
            "array-values-without-comma": b'{"x":[1 ^2],"uid":"u"}',
            "nested-comma-last": b'{"x":{"y":1,^},"uid":"u"}', "nested-key-unquoted": b'{"x":{^y:1},"uid":"u"}',
            "nested-colon-missing": b'{"x":{"y"^1},"uid":"u"}',
            "comment-inside": b'{^/* */"uid":"u"}', "comment-behind-value": b'{"uid":"u"^//x\n}',
            "form-feed-inside": b'{^\x0c"uid":"u"}', "nul-inside": b'{"uid":^\0"u"}',
            "nbsp-inside": b'{"uid":^\xc2\xa0"u"}', "vertical-tab-behind-value": b'{"uid":"u"^\x0b}',
            "string-twice": b'{"uid":"u"^"v"}', "closing-quote-twice": b'{"uid":"u"^"}',
            "key-open-empty": b'{"uid":"u",^:1}', "bare-word": b'{"uid":^u}', "apostrophe-value": b"{\"uid\":^'u'}",
            "high-byte-between": b'{"uid"^\xff:"u"}',
        }.items()
    ),
    *(
        Reject(f"fault-then-end-{name}", code, b'\x0a{"uid":"' + text)
        for name, (code, text) in {
            "utf8-ff": ("json-utf8", b"^\xff"), "utf8-continuation": ("json-utf8", b"a^\x80"),
            "utf8-c0": ("json-utf8", b"^\xc0"),
            "utf8-f5": ("json-utf8", b"^\xf5"), "utf8-surrogate": ("json-utf8", b"^\xed\xa0"),
            "utf8-overlong": ("json-utf8", b"^\xe0\x80"),
            "utf8-too-great": ("json-utf8", b"^\xf4\x90"), "utf8-cut-by-escape": ("json-utf8", b"^\xc3\\"),
            "escape": ("json-escape", b"^\\x"),
            "hex": ("json-escape", b"\\u12^g"), "low-surrogate": ("json-surrogate", b"^\\udc00"),
            "high-surrogate": ("json-surrogate", b"^\\ud800x"),
            "below-low-surrogates": ("json-surrogate", b"^\\ud801\\udbff"),
            "above-low-surrogates": ("json-surrogate", b"^\\ud801\\ue000"),
            "high-surrogate-n": ("json-surrogate", b"^\\ud800\\n"), "control": ("json-control-character", b"^\0"),
        }.items()
    ),
    Reject("object-empty", "field-missing", b"\x0a{^}", "uid"),
    Reject("object-with-spaces-only", "field-missing", b"\x0a{ \n^}", "uid"),
]  # fmt: skip

# -- literals and numbers where nobody asked for a value --------------------------------------------------------------

SCALARS: Final = [
    Reject(f"unknown-{name}", "json-syntax", b'\x0a{"x":' + text + b',"uid":"u"}')
    for name, text in {
        "trux": b"tru^x", "true1": b"true^1", "truE": b"tru^E", "True": b"^True", "fals": b"fals^", "falsy": b"fals^y",
        "nul": b"nul^",
        "nulL": b"nul^L", "nulls": b"null^s", "undefined": b"^undefined", "NaN": b"^NaN", "Infinity": b"^Infinity",
        "minus-Infinity": b"-^Infinity",
        "nan": b"n^an", "inf": b"^inf", "leading-zero": b"0^1", "minus-leading-zero": b"-0^1", "zero-zero": b"0^0",
        "plus": b"^+1", "minus-alone": b"-^",
        "minus-minus": b"-^-1", "minus-space": b"-^ 1", "point-first": b"^.5", "minus-point": b"-^.5",
        "point-last": b"1.^", "point-twice": b"1.2^.3",
        "point-exponent": b"1.^e5", "exponent-alone": b"1e^", "exponent-sign-alone": b"1e+^",
        "exponent-signs": b"1e+^-1", "exponent-point": b"1e5^.0",
        "exponent-letter": b"1e^x", "exponent-twice": b"1e5^e5", "hex": b"0^x10", "octal": b"0^o17", "binary": b"0^b1",
        "underscore": b"1^_000", "suffix-n": b"1^n",
        "thousands": b"1 ^000", "arabic-digit": b"^\xd9\xa1", "fullwidth-digit": b"1^\xef\xbc\x91",
        "digit-then-quote": b'1^"', "fraction-letter": b"1.0^f",
        "in-array": b"[0^1]", "in-object": b'{"y":-^x}', "apostrophes": b"^'y'", "minus-N": b"-^NaN",
    }.items()
]  # fmt: skip

# -- strings ----------------------------------------------------------------------------------------------------------

_IN_STRING: Final[dict[str, tuple[str, bytes]]] = {
    "nul": ("json-control-character", b"a^\0b"),
    "newline": ("json-control-character", b"^\n"),
    "tab": ("json-control-character", b"a^\tb"),
    "carriage-return": ("json-control-character", b"^\r"),
    "0x01": ("json-control-character", b"^\x01"),
    "0x1f": ("json-control-character", b"\x7f^\x1f"),
    "control-before-bad-utf8": ("json-control-character", b"^\0\xff"),
    "control-behind-escape": ("json-control-character", b"\\n^\n"),
    "escape-x": ("json-escape", b"^\\x41"),
    "escape-0": ("json-escape", b"a^\\0"),
    "escape-a": ("json-escape", b"^\\a"),
    "escape-v": ("json-escape", b"^\\v"),
    "escape-apostrophe": ("json-escape", b"^\\'"),
    "escape-newline": ("json-escape", b"^\\\n"),
    "escape-space": ("json-escape", b"^\\ "),
    "escape-capital-U": ("json-escape", b"^\\U0001F600"),
    "escape-capital-N": ("json-escape", b"^\\N"),
    "escape-octal": ("json-escape", b"^\\101"),
    "escape-braces": ("json-escape", b"\\u^{41}"),
    "escape-nul": ("json-escape", b"^\\\0"),
    "escape-high-byte": ("json-escape", b"^\\\xff"),
    "escape-utf8": ("json-escape", b"^\\\xc3\xa9"),
    "escape-behind-escapes": ("json-escape", b'\\\\\\"^\\q'),
    "hex-1": ("json-escape", b"\\u^g000"),
    "hex-4": ("json-escape", b"\\u12f^g"),
    "hex-3-digits": ("json-escape", b"\\u123^"),
    "hex-0-digits": ("json-escape", b"\\u^"),
    "hex-plus": ("json-escape", b"\\u^+041"),
    "hex-space": ("json-escape", b"\\u^ 041"),
    "hex-underscore": ("json-escape", b"\\u0^_41"),
    "hex-0x": ("json-escape", b"\\u0^x41"),
    "hex-arabic-digit": ("json-escape", b"\\u004^\xd9\xa1"),
    "hex-of-low-surrogate": ("json-escape", b"\\ud83d\\ude0^g"),
    "surrogate-high-alone": ("json-surrogate", b"a^\\ud800"),
    "surrogate-high-last": ("json-surrogate", b"^\\udbff"),
    "surrogate-high-before-char": ("json-surrogate", b"^\\ud83dx"),
    "surrogate-high-before-escape": ("json-surrogate", b"^\\ud83d\\n"),
    "surrogate-high-before-unicode-escape": ("json-surrogate", b"^\\ud83d\\u0041"),
    "surrogate-high-high": ("json-surrogate", b"^\\ud83d\\ud83d\\ude00"),
    "surrogate-high-before-utf8": ("json-surrogate", b"^\\ud83d\xf0\x9f\x98\x80"),
    "surrogate-low-alone": ("json-surrogate", b"^\\udc00"),
    "surrogate-low-last": ("json-surrogate", b"a^\\udfff"),
    "surrogates-swapped": ("json-surrogate", b"^\\ude00\\ud83d"),
    "surrogate-behind-pair": ("json-surrogate", b"\\ud83d\\ude00^\\ude00"),
    "surrogate-capital": ("json-surrogate", b"^\\uD800"),
    "surrogate-before-e000": ("json-surrogate", b"^\\ud800\\ue000"),
    "surrogate-before-d7ff": ("json-surrogate", b"^\\ud800\\ud7ff"),
    "utf8-ff": ("json-utf8", b"^\xff"),
    "utf8-fe": ("json-utf8", b"a^\xfe"),
    "utf8-continuation-alone": ("json-utf8", b"^\x80"),
    "utf8-continuation-too-many": ("json-utf8", b"\xc3\xa9^\xa9"),
    "utf8-cut-2": ("json-utf8", b"^\xc3"),
    "utf8-cut-3": ("json-utf8", b"ab^\xe2\x82"),
    "utf8-cut-4": ("json-utf8", b"^\xf0\x9f\x98"),
    "utf8-cut-before-escape": ("json-utf8", b"^\xc3\\u00a9"),
    "utf8-cut-before-control": ("json-utf8", b"^\xc3\n"),
    "utf8-overlong-2": ("json-utf8", b"^\xc0\x80"),
    "utf8-overlong-2-slash": ("json-utf8", b"^\xc0\xaf"),
    "utf8-overlong-2-last": ("json-utf8", b"^\xc1\xbf"),
    "utf8-overlong-3": ("json-utf8", b"^\xe0\x80\x80"),
    "utf8-overlong-3-last": ("json-utf8", b"^\xe0\x9f\xbf"),
    "utf8-overlong-4": ("json-utf8", b"^\xf0\x80\x80\x80"),
    "utf8-overlong-4-last": ("json-utf8", b"^\xf0\x8f\xbf\xbf"),
    "utf8-surrogate-high": ("json-utf8", b"^\xed\xa0\x80"),
    "utf8-surrogate-low": ("json-utf8", b"^\xed\xbf\xbf"),
    "utf8-surrogate-pair-cesu": ("json-utf8", b"^\xed\xa0\xbd\xed\xb8\x80"),
    "utf8-over-10ffff": ("json-utf8", b"^\xf4\x90\x80\x80"),
    "utf8-f5": ("json-utf8", b"^\xf5\x80\x80\x80"),
    "utf8-5-bytes": ("json-utf8", b"^\xf8\x88\x80\x80\x80"),
    "utf8-6-bytes": ("json-utf8", b"^\xfc\x84\x80\x80\x80\x80"),
    "utf8-latin-1": ("json-utf8", b"caf^\xe9"),
    "utf8-fault-before-bad-escape": ("json-utf8", b"^\xff\\x"),
    "utf8-fault-before-control": ("json-utf8", b"^\xff\0"),
}

STRINGS: Final = [
    Reject(f"{where}-{name}", code, b"\x0a{" + before + text + after + b"}")
    for where, before, after in (
        ("value", b'"uid":"', b'"'),
        ("key", b'"uid":"u","', b'":1'),
        ("unknown-value", b'"x":"', b'","uid":"u"'),
        ("nested-key", b'"x":[{"', b'":1}],"uid":"u"'),
    )
    for name, (code, text) in _IN_STRING.items()
] + [
    Reject("quote-in-value", "json-syntax", b'\x0a{"uid":"u"^u"}'),
    Reject("base64-field-control-character", "json-control-character", b'\x0c{"uid":"u","sealedToken":"AA^\n=="}'),
    Reject("base64-field-bad-escape", "json-escape", b'\x0c{"uid":"u","sealedToken":"AA^\\=="}'),
    Reject("base64-field-bad-utf8", "json-utf8", b'\x0c{"uid":"u","sealedToken":"AA^\xff="}'),
    Reject("enum-field-bad-utf8", "json-utf8", b'\x04{"memoryPressure":"norma^\xffl"}'),
    Reject("enum-field-surrogate", "json-surrogate", b'\x04{"memoryPressure":"^\\ud800"}'),
]

# -- keys that stand twice --------------------------------------------------------------------------------------------

DUPLICATES: Final = [
    Reject(f"duplicate-{name}", "json-duplicate-key", text)
    for name, text in {
        "uid": b'\x0a{"uid":"u",^"uid":"u"}',
        "uid-other-value": b'\x0a{"uid":"u",^"uid":"v"}',
        "uid-wrong-type": b'\x0a{"uid":"u",^"uid":1}',
        "uid-thrice": b'\x0a{"uid":"u",^"uid":"u","uid":"u"}',
        "uid-empty-first": b'\x0a{"uid":"",^"uid":"longer than the first"}',
        "uid-empty-last": b'\x0a{"uid":"longer than the second",^"uid":""}',
        "uid-escaped-second": b'\x0a{"uid":"u",^"\\u0075id":"v"}',
        "uid-escaped-first": b'\x0a{"\\u0075\\u0069\\u0064":"u",^"uid":"v"}',
        "uid-escaped-both": b'\x0a{"\\u0075id":"u",^"ui\\u0064":"v"}',
        "uid-around-unknown": b'\x0a{"uid":"u","x":1,^"uid":"u"}',
        "uid-with-spaces": b'\x0a{ "uid" : "u" , ^"uid" : "u" }',
        "uid-cut-behind-key": b'\x0a{"uid":"u",^"uid"',
        "port": b'\x07{"port":1,^"port":1,"sessionID":""}',
        "port-short": b'\x07{"port":1,"sessionID":"",^"port":2}',
        "port-least": b'\x07{"port":0,"sessionID":"",^"port":0}',
        "port-long-session-id": b'\x07{"port":0,"sessionID":"0123456789abcdef",^"port":0}',
        "session-id": b'\x07{"sessionID":"a","port":1,^"sessionID":"b"}',
        "token": b'\x09{"uid":"u","token":1,^"token":1}',
        "tokens": b'\x08{"uid":"u","tokens":[1],^"tokens":[1],"maxTokens":1}',
        "tokens-empty": b'\x08{"uid":"","tokens":[],"maxTokens":0,^"tokens":[]}',
        "max-tokens": b'\x08{"uid":"u","tokens":[1],"maxTokens":1,^"maxTokens":1}',
        "model-loaded":
            b'\x04{"modelLoaded":true,^"modelLoaded":true,"inferenceInFlight":true,"memoryPressure":"normal"}',
        "model-loaded-last":
            b'\x04{"modelLoaded":true,"inferenceInFlight":true,"memoryPressure":"normal",^"modelLoaded":true}',
        "memory-pressure":
            b'\x04{"memoryPressure":"critical","modelLoaded":true,"inferenceInFlight":true,^"memoryPressure":"normal"}',
        "sealed-token": b'\x0c{"uid":"u","sealedToken":"",^"sealedToken":""}',
        "sealed-activation": b'\x0b{"uid":"u","seqLen":1,"sealedActivation":"AAAA",^"sealedActivation":"AAAA"}',
        "seq-len": b'\x0b{"uid":"u","seqLen":1,^"seqLen":1,"sealedActivation":"AAAA"}',
        "unknown": b'\x0a{"x":1,"uid":"u",^"x":2}',
        "unknown-null": b'\x0a{"x":null,^"x":null,"uid":"u"}',
        "unknown-empty": b'\x0a{"":1,^"":2,"uid":"u"}',
        "unknown-solidus": b'\x0a{"a/b":1,^"a\\/b":2,"uid":"u"}',
        "unknown-hex-case": b'\x0a{"\\u00e9":1,^"\\u00E9":2,"uid":"u"}',
        "unknown-escape-and-utf8": b'\x0a{"\xc3\xa9":1,^"\\u00e9":2,"uid":"u"}',
        "unknown-astral": b'\x0a{"\xf0\x9f\x98\x80":1,^"\\ud83d\\ude00":2,"uid":"u"}',
        "unknown-short-escape": b'\x0a{"\\n":1,^"\\u000a":2,"uid":"u"}',
        "unknown-quote": b'\x0a{"\\"":1,^"\\u0022":2,"uid":"u"}',
        "unknown-nul": b'\x0a{"\\u0000":1,^"\\u0000":2,"uid":"u"}',
        "nested": b'\x0a{"x":{"y":1,^"y":2},"uid":"u"}',
        "nested-escaped": b'\x0a{"x":{"y":1,^"\\u0079":2},"uid":"u"}',
        "nested-in-array": b'\x0a{"x":[0,{"y":1,"z":2,^"y":3}],"uid":"u"}',
        "nested-in-array-behind-object": b'\x0a{"x":[{"y":1},{"y":1,^"y":1}],"uid":"u"}',
        "nested-deep": b'\x0a{"x":{"x":{"x":[[{"x":1,^"x":1}]]}},"uid":"u"}',
        "nested-behind-inner-object": b'\x0a{"x":{"y":{"y":1},^"y":2},"uid":"u"}',
        "behind-nested": b'\x0a{"x":{"uid":1},"uid":"u",^"x":2}',
        "in-last-member": b'\x0a{"uid":"u","x":{"":0,^"":0}}',
    }.items()
]  # fmt: skip

# -- nesting ----------------------------------------------------------------------------------------------------------

NESTING: Final = [
    Reject("nesting-513-arrays", "json-nesting", b'\x0a{"x":' + b"[" * 511 + b"^[" + b"]" * 512 + b',"uid":"u"}'),
    Reject("nesting-513-objects", "json-nesting", b'\x0a{"x":' + b'{"":' * 511 + b"^{" + b"}" * 512 + b',"uid":"u"}'),
    Reject("nesting-513-mixed", "json-nesting", b'\x0a{"x":' + b'[{"":' * 255 + b"[^{}" + b"]" + b"}]" * 255 + b"}"),
    Reject("nesting-513-unclosed", "json-nesting", b'\x0a{"x":' + b"[" * 511 + b"^["),
    Reject("nesting-513-behind-uid", "json-nesting", b'\x0a{"uid":"u","x":' + b"[" * 511 + b"^[]" + b"]" * 511 + b"}"),
    Reject("nesting-513-second-branch", "json-nesting", b'\x0a{"x":[[],' + b"[" * 510 + b"^[" + b"]" * 512 + b"}"),
    Reject("nesting-100000-arrays", "json-nesting", b'\x08{"x":' + b"[" * 511 + b"^[" + b"[" * 99488),
    Reject(
        "nesting-100000-closed", "json-nesting", b'\x08{"x":' + b"[" * 511 + b"^[" + b"[" * 99488 + b"]" * 100000 + b"}"
    ),
    Reject("nesting-100000-objects", "json-nesting", b'\x08{"":' + b'{"":' * 511 + b'^{"":' + b'{"":' * 99488),
    Reject("nesting-100000-spaced", "json-nesting", b'\x08{"x":' + b"[ " * 511 + b"^[ " + b"[ " * 99488),
    Reject("nesting-100000-in-tokens", "field-type", b'\x08{"tokens":[^[' + b"[" * 100000, "tokens[0]"),
    Reject("nesting-100000-in-uid", "field-type", b'\x08{"uid":^[' + b"[" * 100000, "uid"),
    Reject("nesting-100000-as-payload", "payload-not-object", b"\x08^[" + b"[" * 100000),
    Reject("nesting-100000-as-objects", "json-syntax", b"\x08{^{" + b"{" * 100000),
]

REJECTED_TEXTS: Final = [*FRAME, *TEXT, *STRUCTURE, *SCALARS, *STRINGS, *DUPLICATES, *NESTING]
