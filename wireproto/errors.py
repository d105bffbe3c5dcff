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


def shown(number: int) -> str:
    """Return a number for a message. Python refuses to print one of more than 4300 digits."""
    return str(number) if number.bit_length() <= 64 else f"a number of {number.bit_length()} bits"


class WireError(ValueError):
    """Base class of all errors that bytes can cause. `str(error)` is one line: code, place and detail."""

    code: str
    """A stable key of `ERROR_CODES`."""
    detail: str
    """The fault in English; may change. Pass it through `printable` before showing it."""
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
    "truncated": (TruncatedError, "the data ends too early"),
    "trailing-data": (MalformedError, "bytes follow the end of what was decoded"),
    # link frame
    "link-length-zero": (MalformedError, "a link frame announces a length of 0"),
    "link-length-limit": (LimitError, "the length of a link frame is over the limit"),
    "link-not-drained": (StateError, "bytes were fed before all earlier frames were taken"),
    # cluster frame
    "type-unknown": (UnknownTypeError, "neither the revision nor an agreed extension defines the type"),
    "payload-limit": (LimitError, "a cluster frame is over the limit of its type"),
    "payload-not-empty": (MalformedError, "a type without a payload has one"),
    # JSON text
    "json-bom": (MalformedError, "the JSON text starts with a byte-order mark"),
    "json-utf8": (MalformedError, "a string is not UTF-8"),
    "json-control-character": (MalformedError, "a string contains an unescaped control character"),
    "json-escape": (MalformedError, "a string contains an escape that JSON does not define"),
    "json-surrogate": (MalformedError, "a string contains half a surrogate pair"),
    "json-syntax": (MalformedError, "a byte breaks the JSON grammar"),
    "json-duplicate-key": (MalformedError, "a key is repeated in one object"),
    "json-nesting": (LimitError, "arrays and objects are nested deeper than the limit"),
    # fields
    "payload-not-object": (MalformedError, "the JSON payload is not an object"),
    "field-missing": (MalformedError, "a required field is missing"),
    "field-type": (MalformedError, "a field has a value of the wrong JSON type"),
    "field-not-integer": (MalformedError, "a number is written with a fraction or an exponent"),
    "field-range": (MalformedError, "a number is outside its range"),
    "field-length": (MalformedError, "a field has too many or too few bytes, characters or elements"),
    "field-base64": (MalformedError, "a byte field is not standard, padded base64"),
    "field-enum": (MalformedError, "a string is not one of the field's values"),
    "field-pattern": (MalformedError, "a string does not have the form that the field requires"),
    "field-duplicate": (MalformedError, "a string is repeated in an array that allows each only once"),
    # tensors
    "activation-seq-len": (MalformedError, "an activation's seqLen is negative but not -1, the stop sentinel"),
    "activation-size": (MalformedError, "an activation's data is not seqLen × hiddenDim × 2 bytes"),
    "activation-dtype": (MalformedError, "an array is not bfloat16"),
    "activation-shape": (MalformedError, "an array is not of shape [1, seqLen, hiddenDim]"),
    # sealed boxes
    "seal-tag": (SealError, "a box does not open with the session's key"),
    "seal-replay": (SealError, "a box arrived a second time"),
    "seal-reflection": (SealError, "a box came back to the side that sealed it"),
    "seal-exhausted": (SealError, "the key has reached its message limit"),
    # handshake
    "handshake-malformed": (HandshakeError, "a handshake frame does not decode"),
    "handshake-length": (HandshakeError, "a key or a nonce has the wrong length"),
    "handshake-unexpected": (HandshakeError, "another message arrived instead of the handshake message"),
    "handshake-no-pin": (HandshakeError, "no identity key is pinned for the peer"),
    "handshake-wrong-pin": (HandshakeError, "the peer's identity key is not the pinned one"),
    "handshake-point": (HandshakeError, "the peer's identity key is not a point on P-256"),
    "handshake-signature": (HandshakeError, "the peer's signature over this handshake is wrong"),
    "handshake-shared-secret": (HandshakeError, "the peer's X25519 key gives an all-zero secret"),
    # session
    "session-state": (StateError, "a message or a call is not allowed in the session's state"),
    "extension-not-offered": (StateError, "a message names an extension that a side does not support or offer"),
    # JACCL's side channel
    "jaccl-rank": (MalformedError, "a HELLO's rank is not a worker's"),
    "jaccl-rank-taken": (MalformedError, "a HELLO's rank is already connected"),
    "jaccl-local-id": (MalformedError, "a Destination's local_id is negative but not -1, a rank's own entry"),
    "jaccl-queue-pair": (MalformedError, "a Destination's queue_pair_number is negative"),
    "jaccl-sequence-number": (MalformedError, "a Destination's packet_sequence_number is not 7"),
    "jaccl-state": (StateError, "a call is not allowed in the side channel's state"),
    "jaccl-early": (StateError, "bytes arrived before their gather"),
    "jaccl-gather-limit": (LimitError, "a contribution to a gather is over the limit"),
    "jaccl-result": (MalformedError, "the result of a gather is not size × n bytes"),
    "jaccl-own-changed": (MalformedError, "the result has a changed copy of this rank's contribution"),
    "jaccl-count": (MalformedError, "a rank's list has the wrong number of Destinations"),
    "jaccl-own-entry": (MalformedError, "a rank's own entry is at a peer's place, or a peer's entry at its own"),
    "jaccl-barrier": (MalformedError, "a rank's contribution to the barrier is not zero"),
    # topology files
    "topology-limit": (LimitError, "the file is larger than the limit"),
    "topology-not-array": (MalformedError, "the file, or one of its rows, is not an array"),
    "topology-rank-entries": (MalformedError, "the file has rank entries instead of a device matrix"),
    "topology-size": (MalformedError, "the file has too few or too many ranks"),
    "topology-row": (MalformedError, "a row has the wrong number of entries"),
    "topology-diagonal": (MalformedError, "a rank's entry for itself is not null"),
    "topology-entry": (MalformedError, "an entry is not one of the values allowed at its place"),
    "topology-names": (MalformedError, "an entry is an empty array"),
    "topology-name": (MalformedError, "the name of a device or an interface is not valid"),
    "topology-duplicate": (MalformedError, "a value that must be unique is repeated"),
    "topology-one-sided": (MalformedError, "only one end of a link names a device"),
    "topology-incomplete": (MalformedError, "the matrix is neither a mesh nor a ring"),
    "topology-rank": (MalformedError, "a rank is not in the file, or not at its place"),
    "topology-address": (MalformedError, "an address is not a host's, or its port is missing or not valid"),
}
"""The class and the meaning of each error code."""
