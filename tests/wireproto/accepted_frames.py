"""Encodings that must be accepted: a peer may write them, although this codec writes others."""

from typing import Any, Final, NamedTuple

from wireproto import (
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Outcome,
    OutcomeState,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SessionStopPayload,
    StepTokenPayload,
    Versions,
)

V1, V2 = Revision.V1, Revision.V2


class Accept(NamedTuple):
    id: str
    frame: bytes
    message: Message
    revision: Revision = V2


_STOP = SessionStopPayload("u")
_KEYS: Final[tuple[Any, ...]] = (b"\xff" * 64, bytes(32), bytes(range(32)), b"\xff\xfe")
_KEYS_JSON: Final = (
    b'{"seSignature":"\\/\\u002f4=","nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","sePubKeyRaw":"'
    + b"\\/" * 85 + b'w==","ephemeralX25519PubKey":"' + b"\\u0041" * 43 + b'\\u003d"}'
)  # fmt: skip

ACCEPTED: Final = [
    Accept("spaces", b' \x0a{ "uid" : "u" } '[1:], _STOP),
    Accept("every-white-space", b'\x0a \t\r\n{\t"uid"\r:\n"u" } \t\r\n', _STOP),
    Accept("key-escaped", b'\x0a{"\\u0075\\u0069\\u0064":"u"}', _STOP),
    Accept("value-escaped", b'\x0a{"uid":"\\u0075"}', _STOP),
    Accept("solidus-escaped", b'\x0a{"uid":"a\\/b/c"}', SessionStopPayload("a/b/c")),
    Accept("every-short-escape", b'\x0a{"uid":"\\"\\\\\\/\\b\\f\\n\\r\\t"}', SessionStopPayload('"\\/\b\f\n\r\t')),
    Accept("escaped-nul", b'\x0a{"uid":"\\u0000"}', SessionStopPayload("\0")),
    Accept("delete-raw", b'\x0a{"uid":"\x7f"}', SessionStopPayload("\x7f")),
    Accept("c1-control-raw", b'\x0a{"uid":"\xc2\x85"}', SessionStopPayload("\x85")),
    Accept("line-separator-raw", b'\x0a{"uid":"\xe2\x80\xa8"}', SessionStopPayload("\u2028")),
    Accept("bom-in-string", b'\x0a{"uid":"\xef\xbb\xbf"}', SessionStopPayload("\ufeff")),
    Accept("noncharacter", b'\x0a{"uid":"\xef\xbf\xbf\\uffff"}', SessionStopPayload("\uffff\uffff")),
    Accept("pair-escaped", b'\x0a{"uid":"\\ud83d\\uDE00"}', SessionStopPayload("😀")),
    Accept("pair-least", b'\x0a{"uid":"\\ud800\\udc00"}', SessionStopPayload("\U00010000")),
    Accept("pair-greatest", b'\x0a{"uid":"\\udbff\\udfff"}', SessionStopPayload("\U0010ffff")),
    Accept("utf8-ends",
           b'\x0a{"uid":"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"}',
           SessionStopPayload("\x80\u07ff\u0800\ud7ff\ue000\U00010000\U0010ffff")),
    Accept("escaped-backslash-then-u", b'\x0a{"uid":"\\\\ud800"}', SessionStopPayload("\\ud800")),
    Accept("unknown-first", b'\x0a{"x":1,"uid":"u"}', _STOP),
    Accept("unknown-last", b'\x0a{"uid":"u","x":null}', _STOP),
    Accept("unknown-empty-key", b'\x0a{"uid":"u","":false}', _STOP),
    Accept("unknown-null-key", b'\x0a{"uid":"u","\\u0000":0}', _STOP),
    Accept("unknown-other-case", b'\x0a{"UID":1,"uid":"u","Uid":2}', _STOP),
    Accept("unknown-python-name", b'\x07{"session_id":1,"sessionID":"u","port":2}', JacclBootstrapPayload(2, "u")),
    Accept("unknown-not-normalised", b'\x0a{"\xc3\xa9":1,"e\xcc\x81":2,"uid":"u"}', _STOP),
    Accept("unknown-numbers", b'\x0a{"x":[-0,0.0,-1.5E+300,1e-400,1E999,' + b"9" * 5000 + b'],"uid":"u"}', _STOP),
    Accept("unknown-nested", b'\x0a{"x":{"uid":[{"uid":{}},[],[[]],"",null,true]},"uid":"u"}', _STOP),
    Accept("unknown-same-key-in-siblings", b'\x0a{"x":[{"y":1},{"y":2}],"y":{"y":{"y":3}},"uid":"u"}', _STOP),
    Accept("unknown-many", b'\x0a{' + b"".join(b'"%d":%d,' % (i, i) for i in range(2000)) + b'"uid":"u"}', _STOP),
    Accept("unknown-long-string", b'\x0a{"x":"' + b"\\n" * 30_000 + b'","uid":"u"}', _STOP),
    Accept("unknown-up-to-the-limit", b'\x0a{"uid":"u","x":"' + b"x" * (65_536 - 19) + b'"}', _STOP),
    Accept("unknown-wide-array", b'\x0a{"x":[' + b"[]," * 2000 + b'[]],"uid":"u"}', _STOP),
    Accept("nesting-512-arrays", b'\x0a{"x":' + b"[" * 511 + b"]" * 511 + b',"uid":"u"}', _STOP),
    Accept("nesting-512-objects", b'\x0a{"x":' + b'{"":' * 510 + b"{}" + b"}" * 510 + b',"uid":"u"}', _STOP),
    Accept("nesting-512-scalar", b'\x0a{"x":' + b"[" * 511 + b"1" + b"]" * 511 + b',"uid":"u"}', _STOP),
    Accept("nesting-512-twice",
           b'\x0a{"x":' + b"[" * 511 + b"]" * 511 + b',"y":' + b"[" * 511 + b"]" * 511 + b',"uid":"u"}', _STOP),
    Accept("order-turned", b'\x07{"sessionID":"s","port":29400}', JacclBootstrapPayload(29400, "s"), V1),
    Accept("minus-zero", b'\x07{"port":-0,"sessionID":""}', JacclBootstrapPayload(0, "")),
    Accept("minus-zero-i64", b'\x09{"token":-0,"uid":""}', StepTokenPayload("", 0)),
    Accept("port-greatest", b'\x07{ "port":65535 ,"sessionID":""}', JacclBootstrapPayload(65535, "")),
    Accept("i64-ends",
           b'\x08{"tokens":[ -9223372036854775808 , 9223372036854775807 ],"maxTokens":-9223372036854775808,"uid":""}',
           PromptTokensPayload("", (-(2**63), 2**63 - 1), -(2**63))),
    Accept("tokens-empty-with-space", b'\x08{"tokens":[ \n],"maxTokens":1,"uid":""}', PromptTokensPayload("", (), 1)),
    Accept("enum-escaped", b'\x04{"memoryPressure":"\\u0063ritical","modelLoaded":false,"inferenceInFlight":true}',
           PongPayload(model_loaded=False, inference_in_flight=True, memory_pressure=MemoryPressure.CRITICAL)),
    Accept(
        "base64-solidus-escaped", b'\x0c{"sealedToken":"\\/\\/\\/\\/","uid":"u"}', PPTokenPayload("u", b"\xff\xff\xff")
    ),
    Accept("base64-padding-escaped", b'\x0c{"sealedToken":"AA\\u003d\\u003d","uid":"u"}', PPTokenPayload("u", b"\0")),
    Accept("base64-letter-escaped", b'\x0c{"sealedToken":"\\u0041Q==","uid":"u"}', PPTokenPayload("u", b"\1")),
    Accept("base64-key-escaped", b'\x0b{"\\u0073ealedActivation":"AAE=","seqLen":-1,"uid":""}',
           PPActivationPayload("", -1, b"\0\1")),
    Accept("base64-key-in-value", b'\x0c{"uid":"\\"sealedToken\\":\\"","sealedToken":"AAE="}',
           PPTokenPayload('"sealedToken":"', b"\0\1")),
    Accept("base64-key-nested", b'\x0c{"x":{"sealedToken":"AB=="},"uid":"u","sealedToken":"AAE="}',
           PPTokenPayload("u", b"\0\1")),
    Accept("base64-empty", b'\x0c{"uid":"u","sealedToken" : ""}', PPTokenPayload("u", b"")),
    Accept("extensions-empty", b'\x07{"extensions":[],"port":1,"sessionID":"s"}', JacclBootstrapPayload(1, "s")),
    Accept("extensions-empty-with-space", b'\x07{"port":1,"sessionID":"s","extensions":[ ]}',
           JacclBootstrapPayload(1, "s"), V1),
    Accept("extensions-first-and-escaped", b'\x07{"ext\\u0065nsions":[ "a\\/1" ],"port":1,"sessionID":"s"}',
           JacclBootstrapPayload(1, "s", ("a/1",))),
    Accept("extensions-other-case", b'\x07{"Extensions":[1],"port":1,"sessionID":"s"}', JacclBootstrapPayload(1, "s")),
    Accept("extensions-nobody-knows",
           b'\x04{"modelLoaded":true,"inferenceInFlight":true,"memoryPressure":"normal","extensions":["z-9/9999","a/1"]}',
           PongPayload(True, True, MemoryPressure.NORMAL, ("z-9/9999", "a/1"))),
    Accept("outcome-turned", b'\x42{"message":"m","code":"c","stage":"s","state":"ready","rank":-0,"x":[]}',
           Outcome(0, OutcomeState.READY, "s", "c", "m")),
    Accept("outcome-1024-characters-escaped",
           b'\x42{"rank":1,"state":"failed","stage":"","code":"","message":"' + b"\\ud83d\\ude00" * 1024 + b'"}',
           Outcome(1, OutcomeState.FAILED, "", "", "😀" * 1024)),
    Accept("versions-digest-escaped",
           b'\x43{"package":"","mlx":"","backend":"","devices":"' + b"\\u0061" * 64 + b'"}',
           Versions("", "", "", "a" * 64)),
    Accept("versions-program-first-and-escaped",
           b'\x43{"pro\\u0067ram" : "\\u0064ry-run" ,"devices":"","backend":"","mlx":"","package":""}',
           Versions("", "", "", "", Program.DRY_RUN)),
    Accept("versions-program-other-case", b'\x43{"Program":null,"package":"","mlx":"","backend":"","devices":""}',
           Versions("", "", "", "")),
    Accept("versions-program-nested", b'\x43{"x":{"program":1},"package":"","mlx":"","backend":"","devices":""}',
           Versions("", "", "", "")),
    Accept("hello-swift-style", b"\x01" + _KEYS_JSON, HandshakeHello(*_KEYS), V1),
    Accept("hello-longest", b"\x01".ljust(4096 - len(_KEYS_JSON)) + _KEYS_JSON, HandshakeHello(*_KEYS), V1),
    Accept("ack-swift-style", b"\x02" + _KEYS_JSON, HandshakeAck(*_KEYS), V1),
    Accept("pp-session-end-with-extra", b'\x0d{"reason":"done","uid":"u"}', PPSessionEndPayload("u")),
]  # fmt: skip
