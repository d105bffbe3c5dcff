"""The error tree, and the table of error codes.

Every byte string decodes to a message or raises a `WireError`; any other exception is a bug of this package. The same
errors report a message that cannot be encoded, with `offset` None.
"""

from functools import cache
from typing import Final, Self


def printable(text: str) -> str:
    """Escape control characters and characters that change the text direction, so that a terminal shows them.

    Text from a peer or a file must pass through this function before it is shown.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shorten(text: str) -> str:
    """Return the repr of a text from a peer, cut to 40 characters."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


class WireError(ValueError):
    """Base class of all errors that bytes can cause. `str(error)` is one line: code, place and detail."""

    code: str
    """A stable key of `ERROR_CODES`."""
    detail: str
    """What is wrong, in English; may change. Pass it through `printable` before showing it."""
    offset: int | None
    """Byte offset of the error in the input, or in the stream for a `LinkDecoder`; None if nothing was decoded."""
    path: str | None
    """Wire name of the field at fault, such as `sessionID` or `[0][1]`; None if no field is."""

    def __init__(self, code: str, detail: str, *, offset: int | None = None, path: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.offset = offset
        self.path = path

    def __str__(self) -> str:
        where = "" if self.path is None else f" in {self.path}"
        if self.offset is not None:
            where += f" at byte {self.offset}"
        return f"{self.code}{where}: {self.detail}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.detail, self.offset, self.path)

    def copy(self) -> Self:
        """Return the same error without its traceback, which grows each time the error is raised."""
        return type(self)(self.code, self.detail, offset=self.offset, path=self.path)


class TruncatedError(WireError):
    """The input ends too early. Everything before its end is valid, so more bytes may complete it."""


class MalformedError(WireError):
    """The input is invalid, whatever bytes may follow."""


class LimitError(WireError):
    """A length or a nesting depth exceeds its limit, which `detail` names."""


class UnknownTypeError(WireError):
    """The type byte does not exist in this revision with these extensions."""


class SealError(WireError):
    """A sealed box cannot be opened, or the key must not seal another one."""


class HandshakeError(WireError):
    """The handshake failed. The connection must be closed."""


class StateError(WireError):
    """A valid message or call came at the wrong time."""


class LocalError(WireError):
    """The caller of a session made a mistake. The session is unchanged."""


class RemoteError(WireError):
    """The peer of a session made a mistake. The session has failed, and the connection must be closed.

    `offset` counts from the start of the peer's cluster frame. For codes `link-…`, and for `truncated` at the end of
    the stream, it counts from the start of the stream.
    """


def blame(side: type[LocalError] | type[RemoteError], error: WireError, *more: type[WireError]) -> WireError:
    """Return a copy of `error` that is an instance of its own class, of `side`, and of `more`.

    So `except RemoteError`, `except HandshakeError` and `except SealError` all work around a session.
    """
    bases = tuple(dict.fromkeys((side, *more, type(error))))
    return _rebuild_blamed(bases, error.code, error.detail, error.offset, error.path)


@cache
def _blamed_class(bases: tuple[type[WireError], ...]) -> type[WireError]:
    def reduce(self: WireError) -> tuple[object, ...]:
        return _rebuild_blamed, (bases, self.code, self.detail, self.offset, self.path)

    name = "".join(base.__name__.removesuffix("Error") for base in bases) + "Error"
    return type(name, bases, {"__reduce__": reduce})


def _rebuild_blamed(
    bases: tuple[type[WireError], ...], code: str, detail: str, offset: int | None, path: str | None
) -> WireError:
    return _blamed_class(bases)(code, detail, offset=offset, path=path)


def _rebuild(cls: type[WireError], code: str, detail: str, offset: int | None, path: str | None) -> WireError:
    return cls(code, detail, offset=offset, path=path)


ERROR_CODES: Final[dict[str, tuple[type[WireError], str]]] = {
    "truncated": (TruncatedError, "the bytes end in the middle of something"),
    "trailing-data": (MalformedError, "bytes follow the end of what was decoded"),
    # link frame
    "link-length-zero": (MalformedError, "a link frame announces a length of 0"),
    "link-length-limit": (LimitError, "a link frame announces, or would need, more than the limit"),
    "link-not-drained": (StateError, "bytes were fed before the frames of the earlier ones were taken"),
    # cluster frame
    "type-unknown": (UnknownTypeError, "the type byte is not one of this revision's"),
    "payload-limit": (LimitError, "a cluster frame is over the limit of its type"),
    "payload-not-empty": (MalformedError, "a type without payload came with one"),
    # JSON text
    "json-bom": (MalformedError, "the JSON text starts with a byte-order mark"),
    "json-utf8": (MalformedError, "a string is not UTF-8"),
    "json-control-character": (MalformedError, "a string holds a control character that is not escaped"),
    "json-escape": (MalformedError, "a string holds an escape that JSON does not have"),
    "json-surrogate": (MalformedError, "a string holds half a surrogate pair"),
    "json-syntax": (MalformedError, "a byte cannot stand where it stands"),
    "json-duplicate-key": (MalformedError, "an object holds one key twice"),
    "json-nesting": (LimitError, "arrays and objects are nested deeper than the limit"),
    # fields
    "payload-not-object": (MalformedError, "the JSON payload is not an object"),
    "field-missing": (MalformedError, "a field that the payload needs is not there"),
    "field-type": (MalformedError, "a field has a value of the wrong JSON type"),
    "field-not-integer": (MalformedError, "a number is written with a fraction or an exponent"),
    "field-range": (MalformedError, "a number is outside its range"),
    "field-length": (MalformedError, "a field has too many or too few bytes, characters or elements"),
    "field-base64": (MalformedError, "a byte field is not standard, padded base64"),
    "field-enum": (MalformedError, "a string is none of the field's values"),
    "field-pattern": (MalformedError, "a string has not the form that the field wants"),
    "field-duplicate": (MalformedError, "a string stands twice in an array that holds each once"),
    # tensors
    "activation-seq-len": (MalformedError, "an activation's seqLen is negative, and not the -1 of the stop sentinel"),
    "activation-size": (MalformedError, "an activation's data is not seqLen × hiddenDim × 2 bytes"),
    "activation-dtype": (MalformedError, "an array is not bfloat16"),
    "activation-shape": (MalformedError, "an array is not of shape [1, seqLen, hiddenDim]"),
    # sealed boxes
    "seal-tag": (SealError, "a box does not open with the session's key"),
    "seal-replay": (SealError, "a box came a second time"),
    "seal-reflection": (SealError, "a box came back to the one that sealed it"),
    "seal-exhausted": (SealError, "the key has served for as many boxes as it may"),
    # handshake
    "handshake-malformed": (HandshakeError, "a frame of the handshake does not decode"),
    "handshake-length": (HandshakeError, "a key or a nonce has the wrong length"),
    "handshake-unexpected": (HandshakeError, "another message came where the handshake's belongs"),
    "handshake-no-pin": (HandshakeError, "no identity key is pinned for the peer"),
    "handshake-wrong-pin": (HandshakeError, "the peer's identity key is not the pinned one"),
    "handshake-point": (HandshakeError, "the peer's identity key is no point on P-256"),
    "handshake-signature": (HandshakeError, "the signature is not the peer's over this handshake"),
    "handshake-shared-secret": (HandshakeError, "the peer's X25519 key gives an all-zero secret"),
    # session
    "session-state": (StateError, "a message or a call does not belong to the session's state"),
    "extension-not-offered": (StateError, "an extension is named that one side does not support, or did not offer"),
    # JACCL's side channel
    "jaccl-rank": (MalformedError, "a HELLO names no rank that may connect"),
    "jaccl-rank-taken": (MalformedError, "a HELLO names a rank that is there already"),
    "jaccl-local-id": (MalformedError, "a Destination's local_id is negative, and not the -1 of an own entry"),
    "jaccl-queue-pair": (MalformedError, "a Destination's queue_pair_number is negative"),
    "jaccl-sequence-number": (MalformedError, "a Destination's packet_sequence_number is not 7"),
    "jaccl-state": (StateError, "a call does not belong to the side channel's state"),
    "jaccl-early": (StateError, "bytes came that belong to no gather yet"),
    "jaccl-gather-limit": (LimitError, "a contribution to a gather is over the limit"),
    "jaccl-result": (MalformedError, "the result of a gather is not size × n bytes"),
    "jaccl-own-changed": (MalformedError, "a contribution came back changed in the result"),
    "jaccl-count": (MalformedError, "a rank's list has another number of Destinations than it must have"),
    "jaccl-own-entry": (MalformedError, "an own entry stands at a peer's place, or a peer's at the own one"),
    "jaccl-barrier": (MalformedError, "a rank contributes something else than zero to the barrier"),
    # topology files
    "topology-limit": (LimitError, "the file is larger than the limit"),
    "topology-not-array": (MalformedError, "the file, or one of its rows, is not an array"),
    "topology-rank-entries": (MalformedError, "the file has rank entries, and no device matrix"),
    "topology-size": (MalformedError, "the file has fewer or more ranks than can form a group"),
    "topology-row": (MalformedError, "a row has another number of entries than it must have"),
    "topology-diagonal": (MalformedError, "a rank's entry for itself is not null"),
    "topology-entry": (MalformedError, "an entry is none of the values that may stand there"),
    "topology-names": (MalformedError, "an entry's array has no device"),
    "topology-name": (MalformedError, "a device or an interface cannot have this name"),
    "topology-duplicate": (MalformedError, "something that can be there once is there twice"),
    "topology-one-sided": (MalformedError, "only one end of a link names a device"),
    "topology-incomplete": (MalformedError, "the matrix is neither a mesh nor a ring"),
    "topology-rank": (MalformedError, "a rank is not one of the file's, or not at its place"),
    "topology-address": (MalformedError, "an address is not a host's, or has no port where it needs one"),
}
"""The class and the meaning of each error code."""
