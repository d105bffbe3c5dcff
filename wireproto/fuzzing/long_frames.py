"""Long frames, valid and not: with them a slow or greedy parser shows."""

from collections.abc import Callable
from random import Random
from typing import Final

from wireproto.messages import ClusterMsgType

_SIZE: Final = 200_000


def _prompt(members: bytes, uid: bytes = b"a") -> bytes:
    """A promptTokens frame: its only limit is that of the link."""
    return bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"' + uid + b'","tokens":[1],"maxTokens":1' + members + b"}"


def _unknown_keys(random: Random) -> bytes:
    return _prompt(b"," + b",".join(b'"%x":0' % number for number in range(_SIZE // 10)))


def _one_nested_object(random: Random) -> bytes:
    return _prompt(b',"x":{' + b",".join(b'"%x":0' % number for number in range(_SIZE // 10)) + b"}")


def _escapes(random: Random) -> bytes:
    return _prompt(b"", uid=rb"\u0041" * (_SIZE // 6))


def _tokens(random: Random) -> bytes:
    return (
        bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"a","tokens":[' + b"1," * (_SIZE // 2) + b'1],"maxTokens":1}'
    )


def _base64(random: Random) -> bytes:
    return (
        bytes([ClusterMsgType.PP_ACTIVATION])
        + b'{"uid":"a","seqLen":1,"sealedActivation":"'
        + b"AAAA" * (_SIZE // 4)
        + b'"}'
    )


def _digits(random: Random) -> bytes:
    return _prompt(b',"x":' + b"1" * _SIZE)


def _deep(random: Random) -> bytes:
    return _prompt(b',"x":' + b"[" * _SIZE)


def _spaces(random: Random) -> bytes:
    return _prompt(b',"x":' + b" " * _SIZE + b"0")


def _open_string(random: Random) -> bytes:
    return bytes([ClusterMsgType.PROMPT_TOKENS]) + b'{"uid":"' + b"a\\\\" * (_SIZE // 3)


def _opaque(random: Random) -> bytes:
    return bytes([ClusterMsgType.INFERENCE_STEP]) + random.randbytes(_SIZE)


def _over_limit(random: Random) -> bytes:
    return bytes([ClusterMsgType.SESSION_STOP]) + b'{"uid":"a","x":' + b" " * _SIZE + b"0}"


_KINDS: Final[tuple[Callable[[Random], bytes], ...]] = (
    _unknown_keys, _one_nested_object, _escapes, _tokens, _base64, _digits, _deep, _spaces, _open_string, _opaque,
    _over_limit,
)  # fmt: skip


def long_frame(random: Random) -> bytes:
    """One of about 200,000 bytes."""
    return random.choice(_KINDS)(random)
