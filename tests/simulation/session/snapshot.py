"""Copies of a simulation: bytes from which it continues as if never copied.

Equal snapshots have equal futures, since they hold all that a step reads: both sessions with their keys, nonces, unread
bytes and random sources, the frames on their way, and what the attacker has recorded. So `explore` visits each once.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from struct import Struct
from typing import Any, ClassVar
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.simulation.session.attacker import earlier
from tests.simulation.session.world import Recording
from wireproto.codec.link import HEADER, LinkDecoder
from wireproto.session import seal
from wireproto.testing.fixed_keys import KnownSide

_keys: dict[int, bytes] = {}  # of the ciphers, by their id
_signers: dict[bytes, KnownSide] = {}


@cache
def _cipher(key: bytes) -> AESGCM:
    cipher = AESGCM(key)
    _keys[id(cipher)] = key
    return cipher


@cache
def _private(raw: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(raw)


@contextmanager
def copyable() -> Iterator[None]:
    """Makes sessions copyable: a cipher does not reveal its key, so each key has one that is known here.

    Nonces are drawn four at a time, since those in stock are most of a snapshot.
    """
    with patch.object(seal, "AESGCM", _cipher), patch.object(seal, "_DRAWN", Struct("12s" * 4)):
        yield


def _decoder(max_length: int, passed: int, held: bytes, error: Any, drained: bool) -> LinkDecoder:
    decoder = LinkDecoder(max_length)
    if held:
        list(decoder.feed(held))
    decoder._passed, decoder._error, decoder._drained = passed, error, drained
    return decoder


def _reduce_decoder(decoder: LinkDecoder) -> tuple[Any, ...]:
    long = decoder._long
    if decoder._error is not None or not decoder._drained:
        held = b""  # it takes no more
    elif long is None:
        held = decoder._rest
    else:
        held = HEADER.pack(long.length) + bytes(long._view[: long.filled])
    return _decoder, (decoder.max_length, decoder._passed, held, decoder._error, decoder._drained)


def _signer(scalar: bytes) -> KnownSide:
    return _signers[scalar]


def _reduce_signer(signer: KnownSide) -> tuple[Any, ...]:
    _signers[signer.scalar] = signer
    return _signer, (signer.scalar,)


class _Pickler(pickle.Pickler):
    dispatch_table: ClassVar[dict[type, Callable[[Any], tuple[Any, ...]]]] = {
        AESGCM: lambda cipher: (_cipher, (_keys[id(cipher)],)),
        type(_private(bytes(32))): lambda key: (_private, (key.private_bytes_raw(),)),
        LinkDecoder: _reduce_decoder,
        KnownSide: _reduce_signer,
        Recording: lambda recording: (earlier, (recording.setting,)),
        memoryview: lambda view: (memoryview, (bytes(view) if view.readonly else bytearray(view),)),
    }


def save(state: object) -> bytes:
    """Return a snapshot of an object that has taken all its events."""
    out = io.BytesIO()
    _Pickler(out, 5).dump(state)
    return out.getvalue()


def load(snapshot: bytes) -> Any:
    """Return a copy from a snapshot."""
    return pickle.loads(snapshot)  # noqa: S301 - bytes of this process
