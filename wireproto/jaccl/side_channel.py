"""The two ends of JACCL's side channel: rank 0, the root, and the other ranks, the workers.

    worker → root     HELLO: i32 rank, once
    worker → root     GATHER(n): n bytes, its contribution
    root → workers    size × n bytes, the contributions of ranks 0, 1, … in a row

Integers are little-endian. The length of a contribution is not on the wire: both ends know it from the gather at hand
(see `group_init`). Native JACCL does not check what it receives; this module does. Deadlines are left to the caller,
who does the I/O. [JACCL-HELLO, JACCL-GATHER]
"""

from typing import Final, NoReturn

from wireproto.codec.buffers import BytesLike, byte_view
from wireproto.errors import LimitError, MalformedError, StateError, TruncatedError, WireError
from wireproto.jaccl.records import I32
from wireproto.messages import MAX_SIZE, MIN_SIZE

MAX_MESH: Final = 8
"""Largest number of ranks in a JACCL mesh. [JACCL-MESH-INIT]"""

MAX_GATHER: Final = 1024 * 1024
"""Largest contribution, in bytes: a thousand times the longest list of Destinations. It limits the memory that a worker
can make the root use. [JACCL-GATHER]"""


class Worker:
    """The side of a rank from 1 to size − 1. Send the bytes of `start`, then make gathers, one at a time.

    For a gather, send the bytes that `gather(own)` returns, and pass received bytes to `receive` until it returns the
    result. After an error, every call raises the same error.
    """

    def __init__(self, rank: int, size: int) -> None:
        check_size(size)
        if type(rank) is not int:
            raise TypeError(f"rank must be an int, not {type(rank).__name__}")
        if not 1 <= rank < size:
            raise ValueError(f"rank {rank} is not a worker: use 1 to {size - 1}")
        self.rank = rank
        self.size = size
        self._own: bytes | None = None  # while a gather is under way
        self._buffer = bytearray()
        self._passed = 0  # bytes of the stream that belonged to earlier gathers
        self._ended = False
        self._fault: WireError | None = None

    def start(self) -> bytes:
        """Return the HELLO, i32 little-endian rank. Send it once, first. [JACCL-HELLO]"""
        return I32.pack(self.rank)

    def gather(self, own: BytesLike) -> bytes:
        """Start the next gather with this rank's contribution, and return the bytes to send. [JACCL-GATHER]

        Raise `LimitError` for more than `MAX_GATHER` bytes, `StateError` during a gather, and `TruncatedError` if the
        root's stream has ended.
        """
        self._check()
        if self._own is not None:
            raise StateError("jaccl-state", "the previous gather is not complete")
        _check_length(own)
        if self._ended:
            self._fail(TruncatedError("truncated", "the root has left", offset=self._passed))
        self._own = bytes(own)
        return self._own

    def receive(self, data: BytesLike) -> bytes | None:
        """Take bytes from the root. Return the result, size × n bytes, once it is complete, else None.

        A gather of no bytes is complete at once: `receive(b"")` returns its result. Raise `MalformedError` if this
        rank's contribution came back changed, and `StateError` for bytes that arrive before the next gather.
        """
        self._check()
        self._buffer += byte_view(data)
        wanted = 0 if self._own is None else self.size * len(self._own)
        if self._own is not None and len(self._buffer) >= wanted:
            try:
                check_own_place(self._buffer, self._own, self.rank, self._passed)
            except WireError as error:
                self._fail(error)
        if len(self._buffer) > wanted:
            detail = "the root sent bytes before the next gather"
            self._fail(StateError("jaccl-early", detail, offset=self._passed + wanted))
        if self._own is None or len(self._buffer) < wanted:
            return None
        result = bytes(self._buffer)
        self._own = None
        self._passed += wanted
        self._buffer.clear()
        return result

    def receive_eof(self) -> None:
        """Take the end of the stream. Raise `TruncatedError` during a gather."""
        self._check()
        if self._own is not None:
            offset = self._passed + len(self._buffer)
            self._fail(TruncatedError("truncated", "the root left in the middle of a gather", offset=offset))
        self._ended = True

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault.copy()

    def _fail(self, error: WireError) -> NoReturn:
        self._fault = error
        self._buffer.clear()
        raise error


class Root:
    """The side of rank 0. Call `connect` for each TCP connection, then make gathers, one at a time.

    For a gather, call `gather(own)`, then `result()` after each received chunk, until it returns the bytes to send to
    every worker. An error before a valid HELLO ends only that connection. An error of a worker ends the root and all
    connections: every later call raises the same error, and `blamed` is that worker's connection.
    """

    workers: dict[int, "Connection"]
    """Connections with a valid HELLO, by rank."""
    blamed: "Connection | None"
    """The worker whose error ended the root; None without one."""

    def __init__(self, size: int) -> None:
        check_size(size)
        self.size = size
        self.workers = {}
        self.blamed = None
        self._own: bytes | None = None  # while a gather is under way
        self._fault: WireError | None = None

    def connect(self) -> "Connection":
        """Return the state of a new TCP connection."""
        self._check()
        return Connection(self)

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks without a HELLO or, during a gather, without a complete contribution."""
        length = 0 if self._own is None else len(self._own)
        return tuple(
            rank for rank in range(1, self.size) if rank not in self.workers or self.workers[rank].waiting < length
        )

    def gather(self, own: BytesLike) -> None:
        """Start the next gather with rank 0's contribution. Raise the errors of `Worker.gather`. [JACCL-GATHER]

        A worker may have sent its contribution already. If it has sent more than that, its error is raised here.
        """
        self._check()
        if self._own is not None:
            raise StateError("jaccl-state", "the result of the previous gather was not taken")
        _check_length(own)
        self._own = bytes(own)
        for worker in self.workers.values():
            worker._check_gather()

    def result(self) -> bytes | None:
        """Return the result, the contributions of all ranks in rank order, and end the gather. Send it to each worker.

        Return None while a contribution is missing. Raise `StateError` without a gather.
        """
        self._check()
        if self._own is None:
            raise StateError("jaccl-state", "no gather is under way")
        if self.missing:
            return None
        own, self._own = self._own, None
        return own + b"".join(self.workers[rank]._take(len(own)) for rank in range(1, self.size))

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault.copy()


class Connection:
    """One TCP connection to the root, made by `Root.connect`. Pass received bytes to `receive`.

    The methods raise `MalformedError` for a bad HELLO, `StateError` or `LimitError` for more bytes than the gather
    takes, and `TruncatedError` for an early end of the stream. Offsets count from the first byte of the connection.
    """

    rank: int | None
    """The rank in the HELLO; None before it."""

    def __init__(self, root: Root) -> None:
        self.rank = None
        self._root = root
        self._buffer = bytearray()
        self._passed = 0
        self._ended = False
        self._fault: WireError | None = None

    @property
    def waiting(self) -> int:
        """Number of received bytes that are not part of a result yet."""
        return len(self._buffer)

    def receive(self, data: BytesLike) -> None:
        """Take any number of bytes. `Root.result` may have a result afterwards."""
        self._check()
        self._buffer += byte_view(data)
        if self.rank is None and self.waiting >= I32.size:
            self._admit()
        if self.rank is not None:
            self._check_gather()

    def receive_eof(self) -> None:
        """Take the end of the stream. Raise `TruncatedError` before the HELLO and during a gather."""
        self._check()
        if self.rank is None or self._buffer or self._root._own is not None:
            where = "before its HELLO" if self.rank is None else "in the middle of a gather"
            offset = self._passed + self.waiting
            self._fail(TruncatedError("truncated", f"the connection ended {where}", offset=offset))
        self._ended = True

    def _admit(self) -> None:
        """Read the HELLO. [JACCL-HELLO]"""
        (rank,) = I32.unpack_from(self._buffer)
        last = self._root.size - 1
        if not 1 <= rank <= last:
            self._fail(MalformedError("jaccl-rank", f"{rank} is not from 1 to {last}", offset=0, path="rank"))
        if rank in self._root.workers:
            self._fail(MalformedError("jaccl-rank-taken", f"rank {rank} is already connected", offset=0, path="rank"))
        self.rank = rank
        self._root.workers[rank] = self
        self._take(I32.size)

    def _check_gather(self) -> None:
        """Refuse more than one contribution: the next one depends on a result that was not sent yet."""
        own = self._root._own
        if own is not None and self._ended:
            self._fail(TruncatedError("truncated", f"rank {self.rank} has left", offset=self._passed))
        limit = MAX_GATHER if own is None else len(own)
        if self.waiting > limit:
            offset = self._passed + limit
            if own is None:
                detail = f"rank {self.rank} contributes more than the limit of {MAX_GATHER} bytes"
                self._fail(LimitError("jaccl-gather-limit", detail, offset=offset))
            detail = f"rank {self.rank} sent more than the {limit} bytes of this gather"
            self._fail(StateError("jaccl-early", detail, offset=offset))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._passed += count
        return taken

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault.copy()
        self._root._check()

    def _fail(self, error: WireError) -> NoReturn:
        self._fault = error
        self._buffer.clear()
        if self.rank is not None:
            self._root.blamed = self
            self._root._fault = error
        raise error


def check_own_place(result: BytesLike, own: bytes, rank: int, offset: int) -> None:
    """Raise `MalformedError` unless `result`, at `offset` of its stream, has `own` at the place of `rank`."""
    start = rank * len(own)
    came_back = bytes(result[start : start + len(own)])
    if came_back != own:
        first = next(at for at, (came, sent) in enumerate(zip(came_back, own, strict=True)) if came != sent)
        detail = f"rank {rank}'s contribution came back changed"
        raise MalformedError("jaccl-own-changed", detail, offset=offset + start + first)


def _check_length(own: BytesLike) -> None:
    length = memoryview(own).nbytes
    if length > MAX_GATHER:
        raise LimitError("jaccl-gather-limit", f"{length} bytes are more than the limit of {MAX_GATHER}")


def check_size(size: int) -> None:
    """Raise ValueError unless a group can have `size` ranks."""
    if type(size) is not int:
        raise TypeError(f"size must be an int, not {type(size).__name__}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"{size} ranks cannot form a group, use {MIN_SIZE} to {MAX_SIZE}")
