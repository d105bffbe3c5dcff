"""Long frames, valid and invalid, that expose slow or memory-hungry parsers."""

from collections.abc import Callable
from typing import Final

from wireproto.messages import ClusterMsgType


def _prompt(members: bytes, uid: bytes = b"a") -> bytes:
    """Return a promptTokens frame, whose only limit is that of the link."""
    return bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"' + uid + b'","tokens":[1],"maxTokens":1' + members + b"}"


def _unknown_keys(size: int) -> bytes:
    return _prompt(b"," + b",".join(b'"%x":0' % number for number in range(size // 10)))


def _one_nested_object(size: int) -> bytes:
    return _prompt(b',"x":{' + b",".join(b'"%x":0' % number for number in range(size // 10)) + b"}")


def _escapes(size: int) -> bytes:
    return _prompt(b"", uid=rb"\u0041" * (size // 6))


def _tokens(size: int) -> bytes:
    return bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"a","tokens":[' + b"1," * (size // 2) + b'1],"maxTokens":1}'


def _base64(size: int) -> bytes:
    return (
        bytes([ClusterMsgType.PP_ACTIVATION])
        + b'{"uid":"a","seqLen":1,"sealedActivation":"'
        + b"AAAA" * (size // 4)
        + b'"}'
    )


def _digits(size: int) -> bytes:
    return _prompt(b',"x":' + b"1" * size)


def _deep(size: int) -> bytes:
    return _prompt(b',"x":' + b"[" * size)


def _spaces(size: int) -> bytes:
    return _prompt(b',"x":' + b" " * size + b"0")


def _open_string(size: int) -> bytes:
    return bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"' + b"a\\\\" * (size // 3)


def _opaque(size: int) -> bytes:
    return bytes([ClusterMsgType.INFERENCE_STEP]) + bytes(at * 7 & 0xFF for at in range(size))


def _over_limit(size: int) -> bytes:
    return bytes([ClusterMsgType.SESSION_STOP]) + b'{"uid":"a","x":' + b" " * size + b"0}"


def _small_arrays(size: int) -> bytes:
    return _prompt(b',"x":[' + b"[]," * (size // 3) + b"0]")


def _small_objects(size: int) -> bytes:
    return _prompt(b',"x":[' + b'{"a":0},' * (size // 8) + b"0]")


def _strings(size: int) -> bytes:
    return _prompt(b',"x":[' + b'"a",' * (size // 4) + b"0]")


def _two_bytes(size: int) -> bytes:
    return _prompt(b"", uid="é".encode() * (size // 2))


KINDS: Final[dict[str, Callable[[int], bytes]]] = {
    "keys": _unknown_keys,
    "nested-keys": _one_nested_object,
    "escapes": _escapes,
    "numbers": _tokens,
    "base64": _base64,
    "digits": _digits,
    "depth": _deep,
    "spaces": _spaces,
    "open-string": _open_string,
    "opaque": _opaque,
    "over-limit": _over_limit,
    "arrays": _small_arrays,
    "objects": _small_objects,
    "strings": _strings,
    "two-byte-characters": _two_bytes,
}
"""Functions that make a frame of about the given number of bytes."""
