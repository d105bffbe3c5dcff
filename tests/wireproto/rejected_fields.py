"""Frames that must be rejected for their fields; the notation is explained in `rejected_texts`."""

from collections.abc import Iterator
from typing import Final

from tests.wireproto.payloads import EXTENSION_OF, JSON_FIELDS, OPTIONAL, TYPE_BYTE
from tests.wireproto.rejected_texts import V1, Reject

_GOOD: Final = {
    "str": b'"u"', "bool": b"true", "pressure": b'"normal"', "u16": b"1", "i64": b"1", "i64s": b"[1,2]",
    "bytes": b'"AA=="', "bytes32": b'"' + b"A" * 43 + b'="', "bytes64": b'"' + b"A" * 86 + b'=="',
    "state": b'"failed"', "short": b'"s"', "digest": b'""', "names": b'["a/1"]', "program": b'"hold"',
}  # fmt: skip

_NOT_A_STRING: Final = {
    "null": ("field-type", b"^null"), "true": ("field-type", b"^true"), "number": ("field-type", b"^1"),
    "minus": ("field-type", b"^-1"),
    "array": ("field-type", b'^["u"]'), "object": ("field-type", b"^{}"), "half-a-literal": ("field-type", b"^tru"),
    "bad-word": ("json-syntax", b"^u"),
}  # fmt: skip
_NOT_A_BOOL: Final = {
    "null": ("field-type", b"^null"), "number-1": ("field-type", b"^1"), "number-0": ("field-type", b"^0"),
    "string": ("field-type", b'^"true"'),
    "array": ("field-type", b"^[true]"), "object": ("field-type", b"^{}"), "capital": ("json-syntax", b"^True"),
    "misspelt": ("json-syntax", b"tru^x"),
}  # fmt: skip
_NOT_AN_INTEGER: Final = {
    "null": ("field-type", b"^null"), "true": ("field-type", b"^true"), "false": ("field-type", b"^false"),
    "string": ("field-type", b'^"1"'),
    "array": ("field-type", b"^[1]"), "object": ("field-type", b"^{}"),
    "fraction": ("field-not-integer", b"^1.5"), "point-zero": ("field-not-integer", b"^1.0"),
    "zero-point-zero": ("field-not-integer", b"^0.0"),
    "minus-zero-point-zero": ("field-not-integer", b"^-0.0"), "exponent": ("field-not-integer", b"^1e3"),
    "capital-exponent": ("field-not-integer", b"^1E0"),
    "exponent-plus": ("field-not-integer", b"^1e+0"), "exponent-minus": ("field-not-integer", b"^10e-1"),
    "fraction-and-exponent": ("field-not-integer", b"^2.94e4"),
    "exponent-huge": ("field-not-integer", b"^1e400"),
    "many-digits-and-point": ("field-not-integer", b"^" + b"9" * 5000 + b".0"),
    "leading-zero": ("json-syntax", b"0^1"), "minus-leading-zero": ("json-syntax", b"-0^0"),
    "plus": ("json-syntax", b"^+1"), "point-last": ("json-syntax", b"1.^"),
    "point-first": ("json-syntax", b"^.1"), "minus-alone": ("json-syntax", b"-^"), "nan": ("json-syntax", b"^NaN"),
    "infinity": ("json-syntax", b"^Infinity"),
    "minus-infinity": ("json-syntax", b"-^Infinity"), "hex": ("json-syntax", b"0^x1"),
    "underscore": ("json-syntax", b"1^_0"),
    "many-digits": ("field-range", b"^" + b"1" * 5000), "many-digits-minus": ("field-range", b"^-" + b"1" * 5000),
    "21-digits": ("field-range", b"^100000000000000000000"),
    "2-to-64": ("field-range", b"^18446744073709551616"),
}  # fmt: skip
_NOT_BASE64: Final = {
    "padding-missing": b'^"AA"', "padding-half": b'^"AA="', "padding-too-long": b'^"AA==="', "padding-alone": b'^"="',
    "padding-two-alone": b'^"=="', "padding-four": b'^"===="',
    "padding-one-letter": b'^"A==="', "one-letter": b'^"A"', "five-letters": b'^"AAAAA"',
    "padding-on-full-group": b'^"AAAA="', "padding-group": b'^"AAAA===="',
    "stray-bits-1": b'^"AB=="', "stray-bits-4": b'^"AP=="', "stray-bits-2-bytes": b'^"AAB="',
    "stray-bits-late": b'^"AAAAAAAAAAD="', "stray-bits-escaped": b'^"A\\u0042=="',
    "stray-bits-solidus": b'^"A\\/=="', "padding-in-the-middle": b'^"AA==AAAA"', "padding-then-letter": b'^"AA=A"',
    "padding-first": b'^"=AAA"',
    "url-safe-minus": b'^"AA-A"', "url-safe-underscore": b'^"AA_A"', "space": b'^"AA AA=="', "space-last": b'^"AAAA "',
    "space-first": b'^" AAAA"', "escaped-newline": b'^"AAAA\\nAAAA"',
    "escaped-newline-last": b'^"AAAA\\n"', "crlf": b'^"AAAA\\r\\n"', "escaped-tab": b'^"AA\\t=="', "star": b'^"AA*A"',
    "dot": b'^"AAA."', "nul": b'^"AAA\\u0000"', "non-ascii": b'^"AAA\xc3\xa9"',
    "non-ascii-escaped": b'^"AAA\\u00e9"', "fullwidth-letter": b'^"AAA\xef\xbc\xa1"', "hex": b'^"0x0"',
    "data-url": b'^"data:;base64,AA=="', "four-bad": b'^"!!!!"', "backslash": b'^"AA\\\\A"', "quote": b'^"AA\\"A"',
}  # fmt: skip
_WRONG_LENGTH: Final = {
    "bytes32": {
        "empty": b'^""', "1": b'^"AA=="', "31": b'^"' + b"A" * 42 + b'=="', "33": b'^"' + b"A" * 44 + b'"',
        "30": b'^"' + b"A" * 40 + b'"', "64": b'^"' + b"A" * 86 + b'=="',
    },
    "bytes64": {
        "empty": b'^""', "1": b'^"AA=="', "63": b'^"' + b"A" * 84 + b'"', "65": b'^"' + b"A" * 87 + b'="',
        "32": b'^"' + b"A" * 43 + b'="', "2048": b'^"' + b"A" * 2731 + b'="',
    },
}  # fmt: skip
_OUT_OF_RANGE: Final = {
    "u16": {"minus-1": b"^-1", "65536": b"^65536", "99999": b"^99999", "i64-max": b"^9223372036854775807",
    "minus-65535": b"^-65535"},
    "i64": {"over-max": b"^9223372036854775808", "under-min": b"^-9223372036854775809",
    "u64-max": b"^18446744073709551615"},
}  # fmt: skip
_NO_PRESSURE: Final = {
    "empty": b'^""', "capital": b'^"Normal"', "all-capitals": b'^"NORMAL"', "other": b'^"low"', "space": b'^"normal "',
    "python-name": b'^"MemoryPressure.NORMAL"', "prefix": b'^"norma"',
    "nul": b'^"normal\\u0000"', "look-alike": b'^"n\xd0\xberm\xd0\xb0l"', "long": b'^"' + b"x" * 10000 + b'"',
}  # fmt: skip
_NO_STATE: Final = {
    "empty": b'^""', "capital": b'^"Ready"', "other": b'^"running"', "space": b'^" ready"', "prefix": b'^"read"',
    "python-name": b'^"OutcomeState.READY"', "nul": b'^"ready\\u0000"',
}  # fmt: skip
_NO_PROGRAM: Final = {
    "empty": b'^""', "capital": b'^"Hold"', "all-capitals": b'^"MODULE"', "other": b'^"script"', "space": b'^"hold "',
    "prefix": b'^"comman"', "underscore": b'^"dry_run"', "no-hyphen": b'^"dryrun"', "dry": b'^"dry"',
    "python-name": b'^"Program.HOLD"', "nul": b'^"hold\\u0000"', "look-alike": b'^"h\xd0\xbeld"',
    "other-hyphen": b'^"dry\xe2\x80\x90run"', "none": b'^"none"',
}  # fmt: skip
_TOO_LONG: Final = {
    "1025": b'^"' + b"a" * 1025 + b'"', "1025-wide": b'^"' + b"\xf0\x9f\x98\x80" * 1025 + b'"',
    "1025-escaped": b'^"' + b"\\u00e9" * 1025 + b'"', "many": b'^"' + b"a" * 60_000 + b'"',
}  # fmt: skip
_NO_DIGEST: Final = {
    "63": b'^"' + b"a" * 63 + b'"', "65": b'^"' + b"a" * 65 + b'"', "one": b'^"0"', "128": b'^"' + b"0" * 128 + b'"',
    "capital": b'^"' + b"a" * 63 + b'A"', "letter-g": b'^"' + b"a" * 63 + b'g"', "space": b'^" "',
    "newline": b'^"\\n"', "newline-last": b'^"' + b"a" * 64 + b'\\n"', "non-ascii": b'^"' + b"0" * 63 + b'\xd9\xa1"',
}  # fmt: skip
_NO_NAME: Final = {
    "empty": b'^""', "no-version": b'^"outcome"', "version-empty": b'^"outcome/"', "name-empty": b'^"/1"',
    "version-0": b'^"outcome/0"', "version-01": b'^"outcome/01"', "version-10000": b'^"outcome/10000"',
    "version-minus": b'^"outcome/-1"', "version-letter": b'^"outcome/a"', "version-point": b'^"outcome/1.0"',
    "version-other-digit": b'^"outcome/\xd9\xa1"', "two-slashes": b'^"out/come/1"', "slash-last": b'^"outcome/1/"',
    "capital": b'^"Outcome/1"', "capital-inside": b'^"outCome/1"', "underscore": b'^"out_come/1"',
    "hyphen-first": b'^"-outcome/1"', "digit-first": b'^"1outcome/1"', "point": b'^"out.come/1"',
    "space-first": b'^" outcome/1"', "space-last": b'^"outcome/1 "', "newline-last": b'^"outcome/1\\n"',
    "nul-last": b'^"outcome/1\\u0000"', "non-ascii": b'^"outc\xc3\xb6me/1"', "backslash": b'^"outcome\\\\1"',
}  # fmt: skip


def _faults(kind: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, code, marked value) for each fault of a kind of value."""
    if kind in ("str", "pressure", "state", "short", "digest", "program") or kind.startswith("bytes"):
        yield from ((name, code, text) for name, (code, text) in _NOT_A_STRING.items())
    if kind == "bool":
        yield from ((name, code, text) for name, (code, text) in _NOT_A_BOOL.items())
    if kind in ("u16", "i64"):
        yield from ((name, code, text) for name, (code, text) in _NOT_AN_INTEGER.items())
        yield from ((name, "field-range", text) for name, text in _OUT_OF_RANGE[kind].items())
    if kind == "pressure":
        yield from ((name, "field-enum", text) for name, text in _NO_PRESSURE.items())
    if kind == "state":
        yield from ((name, "field-enum", text) for name, text in _NO_STATE.items())
    if kind == "program":
        yield from ((name, "field-enum", text) for name, text in _NO_PROGRAM.items())
    if kind == "short":
        yield from ((f"length-{name}", "field-length", text) for name, text in _TOO_LONG.items())
    if kind == "digest":
        yield from ((f"digest-{name}", "field-pattern", text) for name, text in _NO_DIGEST.items())
    if kind.startswith("bytes"):
        yield from ((f"base64-{name}", "field-base64", text) for name, text in _NOT_BASE64.items())
        yield from ((f"length-{name}", "field-length", text) for name, text in _WRONG_LENGTH.get(kind, {}).items())
    if kind in ("i64s", "names"):
        for name in ("null", "true", "string", "object"):
            yield name, *_NOT_AN_INTEGER[name]
        yield "number", "field-type", b"^1"


def _field_rejects() -> Iterator[Reject]:
    for cls, fields in JSON_FIELDS.items():
        kinds = dict(fields.values())
        for wrong, kind in kinds.items():
            name = f"{cls.__name__}-{wrong}"
            rest = [
                b'"%s":%s' % (key.encode(), _GOOD[other])
                for key, other in kinds.items()
                if key != wrong and key not in OPTIONAL
            ]
            head = bytes([TYPE_BYTE[cls]])
            if wrong not in OPTIONAL:
                yield Reject(f"{name}-missing", "field-missing", head + b"{" + b",".join(rest) + b"^}", wrong)
                other_case = b'"%s":%s' % (wrong.swapcase().encode(), _GOOD[kind])
                yield Reject(
                    f"{name}-missing-other-case",
                    "field-missing",
                    head + b"{" + b",".join([other_case, *rest]) + b" ^}",
                    wrong,
                )
            for fault, code, text in _faults(kind):
                members = b",".join([b'"%s":%s' % (wrong.encode(), text), *rest])
                yield Reject(f"{name}-{fault}", code, head + b"{" + members + b"}", _path(wrong, code))


def _path(field: str, code: str) -> str | None:
    """Faults of the JSON text have no field."""
    return field if code.startswith("field-") else None


def _prompt(tokens: bytes) -> bytes:
    return b'\x08{"uid":"u","tokens":' + tokens + b',"maxTokens":1}'


def _names(array: bytes) -> bytes:
    return b'\x07{"port":1,"sessionID":"","extensions":' + array + b"}"


def _versions(more: bytes) -> bytes:
    return b'\x43{"package":"","mlx":"","backend":"","devices":""' + more + b"}"


def _numbered_names(count: int) -> bytes:
    return b",".join(b'"x/%d"' % number for number in range(1, count + 1))


_EXTENSIONS: Final = [
    *(
        Reject(f"names-{name}", "field-pattern", _names(b'["a/1",' + text + b"]"), "extensions[1]")
        for name, text in _NO_NAME.items()
    ),
    *(
        Reject(f"names-element-{name}", code, _names(b'["a/1",' + text + b"]"), _path("extensions[1]", code))
        for name, (code, text) in _NOT_A_STRING.items()
    ),
    Reject("names-65-characters", "field-length", _names(b'[^"' + b"a" * 63 + b'/1"]'), "extensions[0]"),
    Reject("names-65-with-long-version", "field-length", _names(b'[^"' + b"a" * 60 + b'/1000"]'), "extensions[0]"),
    Reject("names-33", "field-length", _names(b"^[" + _numbered_names(33) + b"]"), "extensions"),
    Reject("names-33-behind-space", "field-length", _names(b" \n^[ " + _numbered_names(33) + b"]"), "extensions"),
    Reject("names-100", "field-length", _names(b"^[" + _numbered_names(100) + b"]"), "extensions"),
    Reject("names-twice", "field-duplicate", _names(b'["a/1",^"a/1"]'), "extensions[1]"),
    Reject("names-twice-apart", "field-duplicate", _names(b'["a/1","b/1","a/2", ^"a/1"]'), "extensions[3]"),
    Reject("names-twice-escaped", "field-duplicate", _names(b'["a/1",^"\\u0061\\/1"]'), "extensions[1]"),
    Reject("names-key-twice", "json-duplicate-key", _names(b'["a/1"],^"extensions":["a/1"]')),
    Reject("names-key-twice-empty", "json-duplicate-key", _names(b'[],^"extensions":[]')),
    Reject("names-comma-last", "json-syntax", _names(b'["a/1",^]')),
    Reject("names-nested", "field-type", _names(b'[^["a/1"]]'), "extensions[0]"),
    Reject("names-cut", "truncated", b'\x07{"port":1,"sessionID":"","extensions":["a/1"^'),
    Reject(
        "names-twice-in-a-pong",
        "field-duplicate",
        b'\x04{"extensions":["a/1",^"a/1"],"modelLoaded":true,"inferenceInFlight":true,"memoryPressure":"normal"}',
        "extensions[1]",
    ),
    Reject("names-in-v1", "field-pattern", _names(b'[^"a"]'), "extensions[0]", V1),
    Reject("program-twice", "json-duplicate-key", _versions(b',"program":"hold",^"program":"hold"')),
    Reject("program-twice-escaped", "json-duplicate-key", _versions(b',"program":"hold",^"pro\\u0067ram":"module"')),
    Reject("program-first-of-two-wrong", "field-enum", _versions(b',"program":^"x","program":"hold"'), "program"),
    Reject("program-behind-space", "field-enum", _versions(b',"program" :\n ^"Hold"'), "program"),
    Reject("program-escaped-wrong", "field-enum", _versions(b',"program":^"\\u0048old"'), "program"),
    Reject("program-alone", "field-missing", b'\x43{"program":"hold"^}', "package"),
    Reject("program-without-a-value", "json-syntax", b'\x43{"program":^}'),
    Reject("program-cut", "truncated", b'\x43{"program":"hol^'),
    Reject("program-cut-behind-a-wrong-one", "field-enum", b'\x43{"program":^"hol"', "program"),
    Reject("part-without-number", "truncated", b"\x40^"),
    Reject("part-number-cut", "truncated", b"\x40\x01\0\0^"),
    Reject("whole-number-cut", "truncated", b"\x41\0^"),
    *(
        Reject(f"{cls.__name__}-in-v1", "type-unknown", b"^" + bytes([TYPE_BYTE[cls]]) + b"\0\0\0\0", "type", V1)
        for cls in EXTENSION_OF
    ),
]


REJECTED_FIELDS: Final = [
    *_EXTENSIONS,
    *_field_rejects(),
    *(
        Reject(f"tokens-element-{name}", code, _prompt(b"[7," + text + b",9]"), _path("tokens[1]", code))
        for name, (code, text) in (
            _NOT_AN_INTEGER | {name: ("field-range", text) for name, text in _OUT_OF_RANGE["i64"].items()}
        ).items()
    ),
    Reject("tokens-first-element", "field-type", _prompt(b'[^"1",2]'), "tokens[0]"),
    Reject("tokens-element-12", "field-range", _prompt(b"[" + b"1," * 12 + b"^9223372036854775808]"), "tokens[12]"),
    Reject("tokens-nested", "field-type", _prompt(b"[^[1]]"), "tokens[0]"),
    Reject("tokens-comma-last", "json-syntax", _prompt(b"[1,^]")),
    Reject("tokens-comma-first", "json-syntax", _prompt(b"[^,1]")),
    Reject("tokens-comma-missing", "json-syntax", _prompt(b"[1 ^2]")),
    Reject("tokens-closed-by-brace", "json-syntax", _prompt(b"[1^}")),
    Reject("tokens-cut", "truncated", b'\x08{"tokens":[1,2^'),
    Reject("hello-all-missing", "field-missing", b"\x01{^}", "sePubKeyRaw"),
    Reject("ack-all-missing", "field-missing", b'\x02{"x":{"nonce":1}^}', "sePubKeyRaw"),
    Reject("pong-all-missing", "field-missing", b"\x04{^}", "modelLoaded"),
    Reject("bootstrap-both-missing", "field-missing", b"\x07{^}", "port"),
    Reject("prompt-two-missing", "field-missing", b'\x08{"maxTokens":1^}', "uid"),
    Reject("field-only-nested", "field-missing", b'\x0a{"x":{"uid":"u"}^}', "uid"),
    Reject("first-fault-wins-type", "field-type", b'\x07{"sessionID":^1,"port":70000}', "sessionID"),
    Reject("first-fault-wins-range", "field-range", b'\x07{"port":^70000,"sessionID":1}', "port"),
    Reject("fault-before-duplicate", "field-range", b'\x07{"port":^70000,"port":1,"sessionID":""}', "port"),
    Reject("fault-before-truncation", "field-range", b'\x07{"port":^70000,', "port"),
    Reject("fault-before-trailing-data", "field-missing", b'\x07{"port":1^}}', "sessionID"),
    Reject(
        "fault-behind-escapes", "field-range", b'\x07{"\\u00e9\xc3\xa9":"\xf0\x9f\x98\x80","port":^65536}', "port"
    ),
    # Canonical base64 elsewhere in the text does not make a field's base64 valid.
    *(
        Reject(f"stray-bits-{name}", "field-base64", text, path)
        for name, path, text in (
            ("with-space", "sealedToken", b'\x0c{"uid":"xxAA==","sealedToken": ^"AB=="}'),
            ("key-escaped", "sealedToken", b'\x0c{"uid":"xxAA==","se\\u0061ledToken":^"AB=="}'),
            ("uid-like-field", "sealedToken", b'\x0c{"uid":"\\"sealedToken\\":\\"AA==","sealedToken":^"AB=="}'),
            ("in-second-field", "nonce", b'\x01{"seSignature":"AA==","nonce":^"' + b"A" * 42 + b'B="}'),
        )
    ),
    # White space before a value is not its first byte.
    *(
        Reject(f"behind-space-{name}", code, text, path)
        for name, code, path, text in (
            ("range", "field-range", "port", b'\x07{"port": ^65536,"sessionID":""}'),
            ("range-many", "field-range", "port", b'\x07{"port":\r\n\t  ^-1,"sessionID":""}'),
            ("fraction", "field-not-integer", "port", b'\x07{"port" : ^1.5,"sessionID":""}'),
            ("type", "field-type", "port", b'\x07{"port":\n ^null,"sessionID":""}'),
            ("i64-range", "field-range", "token", b'\x09{"uid":"u","token":  ^9223372036854775808}'),
            ("enum", "field-enum", "memoryPressure", b'\x04{ "memoryPressure" : ^"low" }'),
            ("base64", "field-base64", "sealedToken", b'\x0c{"uid":"u","sealedToken":\n^"A"}'),
            ("length", "field-length", "nonce", b'\x01{"nonce":\t^"AAAA"}'),
            ("bool", "field-type", "modelLoaded", b'\x04{"modelLoaded": ^1}'),
            ("string", "field-type", "uid", b'\x0a{"uid": ^1}'),
            ("array", "field-type", "tokens", _prompt(b" ^{}")),
            ("first-element-range", "field-range", "tokens[0]", _prompt(b" [ ^9223372036854775808]")),
            ("element-range", "field-range", "tokens[1]", _prompt(b"[1 , ^-9223372036854775809]")),
            ("element-fraction", "field-not-integer", "tokens[1]", _prompt(b"[1,\n^2.0]")),
            ("element-type", "field-type", "tokens[1]", _prompt(b'[1, ^"2"]')),
            ("duplicate", "json-duplicate-key", None, b'\x0a{"uid":"u" ,\n ^"uid" :"u"}'),
            ("missing", "field-missing", "uid", b'\x0a{"x" : 1 \n ^}'),
            ("trailing", "trailing-data", None, b'\x0a {"uid":"u"} \n ^{'),
        )
    ),
    Reject("bootstrap-v1-port-range", "field-range", b'\x07{"port":^65536,"sessionID":""}', "port", V1),
    Reject("hello-v1-nonce-null", "field-type", b'\x01{"nonce":^null}', "nonce", V1),
]  # fmt: skip
