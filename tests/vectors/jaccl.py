"""Vectors of JACCL's side channel: records, exchanges, and the gathers that form a group."""

from collections.abc import Callable, Iterator
from struct import pack
from typing import Any, Final

from tests.vectors.writing import BEYOND_LAYOUT, fault, file
from wireproto.testing.vectors import (
    Destination,
    Fault,
    Group,
    Hex,
    JacclExchangeTest,
    JacclGather,
    JacclInitTest,
    JacclRecordTest,
    JacclStep,
    VectorFile,
)

_OWN: Final = pack("<i", -1) + bytes(28)


def _gid(*address: int) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(address)


def _destination(local_id: int, number: int, gid: bytes = _gid(169, 254, 1, 1), *, sequence: int = 7) -> bytes:
    return pack("<iii4x", local_id, number, sequence) + gid


# -- records ----------------------------------------------------------------------------------------------------------

_RECORDS: Final = (
    "A HELLO gives `rank`. A Destination gives `destination`, or is a rank's own entry, whose other bytes have no "
    "meaning. The offset counts in `data`."
)


def _hello(name: str, comment: str, data: bytes, outcome: int | Fault) -> JacclRecordTest:
    bad = outcome if isinstance(outcome, Fault) else None
    return JacclRecordTest(
        id=name,
        comment=comment,
        requirements=("JACCL-HELLO",),
        result="valid" if bad is None else "invalid",
        error=bad,
        holds="hello",
        data=Hex(data),
        rank=None if isinstance(outcome, Fault) else outcome,
    )


def _hellos() -> Iterator[JacclRecordTest]:
    for rank in (1, 2, 7, 9, 63):
        yield _hello(f"rank-{rank}", f"Rank {rank}", pack("<i", rank), rank)
    for name, comment, rank in (
        ("rank-0", "Rank 0 is the root, and says no HELLO", 0),
        ("rank-64", "A rank more than there can be", 64),
        ("rank-minus-1", "A negative rank: a native root crashes", -1),
        ("rank-least", "-2^31", -(2**31)),
        ("rank-greatest", "2^31 - 1", 2**31 - 1),
        ("big-endian", "Rank 1 in the wrong byte order", 1 << 24),
        ("http", "Another program's first bytes: `GET `", int.from_bytes(b"GET ", "little")),
    ):
        yield _hello(name, comment, pack("<i", rank), fault("jaccl-rank", 0, "rank"))
    for size in (0, 1, 3):
        yield _hello(f"hello-cut-{size}", f"{size} bytes", b"\1\0\0\0"[:size], fault("truncated", size))
    yield _hello("hello-behind", "A fifth byte", b"\1\0\0\0\0", fault("trailing-data", 4))


def _record(
    name: str, comment: str, data: bytes, error: Fault | None = None, *, values: tuple[int, int] | None = None
) -> JacclRecordTest:
    return JacclRecordTest(
        id=name,
        comment=comment,
        requirements=("JACCL-DESTINATION",),
        result="valid" if error is None else "invalid",
        error=error,
        holds="destination",
        data=Hex(data),
        destination=None
        if values is None
        else Destination(local_id=values[0], queue_pair_number=values[1], packet_sequence_number=7, gid=Hex(data[16:])),
        own_entry=error is None and values is None,
    )


def _destinations() -> Iterator[JacclRecordTest]:
    yield _record("destination", "A peer's", _destination(1, 299), values=(1, 299))
    yield _record("destination-zeros", "The least values", _destination(0, 0, bytes(16)), values=(0, 0))
    top = 2**31 - 1
    yield _record(
        "destination-greatest", "The greatest values", _destination(top, top, b"\xff" * 16), values=(top, top)
    )
    padded = bytearray(_destination(1, 2))
    padded[12:16] = b"\xde\xad\xbe\xef"
    yield _record("destination-padding", "The 4 bytes of padding are anything", bytes(padded), values=(1, 2))
    yield _record("own-zeros", "An own entry, as it is best written", _OWN)
    yield _record("own-garbage", "An own entry, as native JACCL writes it: uninitialised memory",
                  pack("<i", -1) + bytes(range(0x80, 0x9C)))  # fmt: skip
    for name, comment, data, code, at, path in (
        ("local-id-minus-2", "A negative local_id", _destination(-2, 1), "jaccl-local-id", 0, "local_id"),
        ("local-id-least", "-2^31", _destination(-(2**31), 1), "jaccl-local-id", 0, "local_id"),
        ("number-minus-1", "A negative queue pair", _destination(1, -1), "jaccl-queue-pair", 4, "queue_pair_number"),
        ("sequence-0", "Another sequence number", _destination(1, 1, sequence=0), "jaccl-sequence-number", 8,
         "packet_sequence_number"),
        ("sequence-8", "Another sequence number", _destination(1, 1, sequence=8), "jaccl-sequence-number", 8,
         "packet_sequence_number"),
        ("sequence-big-endian", "7 in the wrong byte order", _destination(1, 1, sequence=7 << 24),
         "jaccl-sequence-number", 8, "packet_sequence_number"),
    ):  # fmt: skip
        yield _record(f"destination-{name}", comment, data, fault(code, at, path))
    for size in (0, 3, 4, 12, 16, 31):
        yield _record(f"destination-cut-{size}", f"{size} of 32 bytes", _destination(1, 1)[:size],
                      fault("truncated", size))  # fmt: skip
    yield _record("own-cut", "An own entry has 32 bytes, too", _OWN[:31], fault("truncated", 31))
    yield _record("destination-behind", "A byte after it", _destination(1, 1) + b"\0", fault("trailing-data", 32))


def make_records() -> VectorFile[Any]:
    return file(
        JacclRecordTest,
        _RECORDS,
        (
            Group(name="HELLO", about="A worker's first message.", tests=tuple(_hellos())),
            Group(name="Destination", about="Where a queue pair is reached.", tests=tuple(_destinations())),
        ),
    )


# -- exchanges --------------------------------------------------------------------------------------------------------

_EXCHANGES: Final = (
    "One side of the side channel, which goes through `steps` in order. A worker sends `bytes` at `start` and at "
    "`gather`; the root sends the `bytes` of `result` to every worker. Bytes may arrive in chunks of any size. A "
    "step with an `error` ends the connection that it came on. If that is the connection of a worker or of the "
    "root, the side channel ends with it. The `error` of the test is the first one. Offsets count from the first "
    "byte of the connection."
)


class _Script:
    def __init__(self, role: Any, rank: int, size: int) -> None:
        self.role, self.rank, self.size = role, rank, size
        self.steps: list[JacclStep] = []

    def __call__(
        self, do: Any, data: bytes | None = None, *, at: int | None = None, error: Fault | None = None
    ) -> "_Script":
        self.steps.append(JacclStep(do=do, bytes=None if data is None else Hex(data), connection=at, error=error))
        return self

    def test(self, name: str, comment: str, rule: str, *, flags: tuple[str, ...] = ()) -> JacclExchangeTest:
        error = next((step.error for step in self.steps if step.error is not None), None)
        return JacclExchangeTest(
            id=name,
            comment=comment,
            requirements=(rule,),
            flags=(*((BEYOND_LAYOUT,) if error is not None else ()), *flags),
            result="valid" if error is None else "invalid",
            error=error,
            role=self.role,
            rank=self.rank,
            size=self.size,
            steps=tuple(self.steps),
        )


def _root(size: int = 2) -> _Script:
    return _Script("root", 0, size)


def _worker(rank: int = 1, size: int = 2) -> _Script:
    return _Script("worker", rank, size)("start", pack("<i", rank))


def _exchanges() -> Iterator[JacclExchangeTest]:
    yield _worker()("gather", b"abcd")("receive", b"ABCDabcd").test("worker", "A gather of 4 bytes", "JACCL-GATHER")
    yield (
        _worker(2, 3)("gather", b"cc")("receive", b"aab")("receive", b"bcc")("gather", b"")("gather", b"f")
        ("receive", b"def")("end")
        .test("worker-of-3", "Three gathers, one of no bytes; results come in pieces", "JACCL-GATHER")
    )  # fmt: skip
    one = _root()("connect", at=0)("receive", pack("<i", 1), at=0)("gather", b"ABCD")("receive", b"abcd", at=0)
    yield one("result", b"ABCDabcd").test("root", "A gather of 4 bytes", "JACCL-GATHER")
    one = _root(3)("connect", at=0)("connect", at=1)("receive", pack("<i", 2) + b"cc", at=0)("gather", b"aa")
    yield one("receive", pack("<i", 1), at=1)("receive", b"b", at=1)("receive", b"b", at=1)("result", b"aabbcc").test(
        "root-of-3", "Workers in another order, ahead with their contributions, in pieces", "JACCL-GATHER"
    )
    one = _root()("connect", at=0)("receive", pack("<i", 1), at=0)("gather", b"")
    yield one("result", b"").test("root-empty", "A gather of no bytes", "JACCL-GATHER")
    one = _root()("connect", at=0)("receive", b"\1", at=0)("receive", b"\0\0", at=0)("receive", b"\0", at=0)
    yield one("gather", b"A")("receive", b"a", at=0)("result", b"Aa").test(
        "root-hello-in-pieces", "The HELLO comes byte by byte", "JACCL-HELLO"
    )


def _strangers() -> Iterator[JacclExchangeTest]:
    def after(one: _Script, at: int) -> _Script:
        """The true worker connects after another client."""
        one("connect", at=at)("receive", pack("<i", 1), at=at)
        return one("gather", b"A")("receive", b"a", at=at)("result", b"Aa")

    for name, comment, data in (
        ("rank-0", "Rank 0 is the root's", pack("<i", 0)),
        ("rank-2", "A rank that is not in the group", pack("<i", 2)),
        ("rank-63", "A rank of a larger group", pack("<i", 63)),
        ("rank-minus-1", "A negative rank", pack("<i", -1)),
        ("http", "An HTTP client", b"GET / HTTP/1.1\r\n\r\n"),
    ):
        one = _root()("connect", at=0)("receive", data, at=0, error=fault("jaccl-rank", 0, "rank"))
        yield after(one, 1).test(f"root-{name}", f"{comment}; the true worker comes later", "JACCL-HELLO")
    one = _root()("connect", at=0)("receive", b"\1\0", at=0)("end", at=0, error=fault("truncated", 2))
    yield after(one, 1).test("root-hello-cut", "A HELLO that is cut, and the true worker later", "JACCL-HELLO")
    one = _root(3)("connect", at=0)("receive", pack("<i", 1), at=0)("connect", at=1)
    one("receive", pack("<i", 1), at=1, error=fault("jaccl-rank-taken", 0, "rank"))("connect", at=2)
    one("receive", pack("<i", 2), at=2)("gather", b"A")("receive", b"b", at=0)("receive", b"c", at=2)("result", b"Abc")
    yield one.test("root-rank-taken", "A rank that is there already; the first one stays", "JACCL-HELLO")


def _exchange_faults() -> Iterator[JacclExchangeTest]:
    yield _worker()("gather", b"abcd")("receive", b"ABCDabce", error=fault("jaccl-own-changed", 7)).test(
        "worker-changed", "Its own contribution comes back changed", "JACCL-OWN-PLACE"
    )
    yield _worker()("gather", b"abcd")("receive", b"abcdABCD", error=fault("jaccl-own-changed", 4)).test(
        "worker-turned", "The contributions come in the wrong order", "JACCL-OWN-PLACE"
    )
    yield _worker()("gather", b"ab")("receive", b"ABabx", error=fault("jaccl-early", 4)).test(
        "worker-behind", "A byte after the result", "JACCL-GATHER"
    )
    yield _worker()("receive", b"x", error=fault("jaccl-early", 0)).test(
        "worker-early", "A byte before the first gather", "JACCL-GATHER"
    )
    yield _worker()("gather", b"ab")("receive", b"AB")("end", error=fault("truncated", 2)).test(
        "worker-left", "The root leaves in the middle of a gather", "JACCL-GATHER"
    )
    yield _worker()("gather", b"a")("receive", b"Aa")("end")("gather", b"b", error=fault("truncated", 2)).test(
        "worker-gather-late", "The root has left before the next gather", "JACCL-GATHER"
    )
    one = _root()("connect", at=0)("receive", pack("<i", 1), at=0)("gather", b"AB")
    yield one("receive", b"abc", at=0, error=fault("jaccl-early", 6)).test(
        "root-too-many", "A worker sends more than its contribution", "JACCL-GATHER"
    )
    one = _root()("connect", at=0)("receive", pack("<i", 1) + b"abc", at=0)
    yield one("gather", b"AB", error=fault("jaccl-early", 6)).test(
        "root-too-many-ahead", "The same, before the gather begins", "JACCL-GATHER"
    )
    one = _root()("connect", at=0)("receive", pack("<i", 1), at=0)("gather", b"AB")("receive", b"a", at=0)
    yield one("end", at=0, error=fault("truncated", 5)).test(
        "root-left", "A worker leaves in the middle of a gather", "JACCL-GATHER"
    )
    one = _root()("connect", at=0)("receive", pack("<i", 1), at=0)("end", at=0)
    yield one("gather", b"A", error=fault("truncated", 4)).test(
        "root-gather-late", "A worker has left before the next gather", "JACCL-GATHER"
    )


def make_exchanges() -> VectorFile[Any]:
    return file(
        JacclExchangeTest,
        _EXCHANGES,
        (
            Group(name="exchanges", about="Gathers without an error.", tests=tuple(_exchanges())),
            Group(name="strangers", about="A connection that is not a worker's ends alone.",
                  tests=tuple(_strangers())),
            Group(name="faults", about="Faults that end the side channel.", tests=tuple(_exchange_faults())),
        ),
    )  # fmt: skip


# -- the gathers that form a group ------------------------------------------------------------------------------------

_INITS: Final = (
    "The gathers that form a group, seen by rank `rank` of `size`. It contributes `own`, and gets `result`, the "
    "contributions of all ranks in order. `error` is found in the last result. The offset counts from its start."
)
_ZERO: Final = bytes(4)


def _mesh_list(rank: int, size: int, wires: int = 1) -> bytes:
    return b"".join(
        _OWN if entry % size == rank else _destination(rank, 100 * rank + entry, _gid(169, 254, rank, entry))
        for entry in range(size * wires)
    )


def _gather(rank: int, parts: list[bytes]) -> JacclGather:
    return JacclGather(own=Hex(parts[rank]), result=Hex(b"".join(parts)))


def _mesh(rank: int, size: int, wires: int = 1) -> list[list[bytes]]:
    """The contributions of all ranks, gather by gather."""
    return [
        [pack("<i", size * wires)] * size,
        [_mesh_list(each, size, wires) for each in range(size)],
        [_ZERO] * size,
        [_ZERO] * size,
    ]


def _ring(rank: int, size: int, wires: int = 1) -> list[list[bytes]]:
    def lists(side: int) -> list[bytes]:
        return [
            b"".join(_destination(each, 1000 * side + wire, _gid(10, side, each, wire)) for wire in range(wires))
            for each in range(size)
        ]

    count = [pack("<i", wires)] * size
    return [count, lists(1), count, lists(2), [_ZERO] * size, [_ZERO] * size]


def _init(
    name: str,
    comment: str,
    form: Any,
    rank: int,
    size: int,
    gathers: list[list[bytes]],
    error: Fault | None = None,
) -> JacclInitTest:
    return JacclInitTest(
        id=name,
        comment=comment,
        requirements=(
            "JACCL-COUNT" if error is not None and error.code == "jaccl-count" else f"JACCL-{form.upper()}-INIT",
        ),
        flags=() if error is None else (BEYOND_LAYOUT,),
        result="valid" if error is None else "invalid",
        error=error,
        form=form,
        rank=rank,
        size=size,
        gathers=tuple(_gather(rank, parts) for parts in gathers),
    )


def _inits() -> Iterator[JacclInitTest]:
    for rank in (0, 1):
        yield _init(f"mesh-of-2-rank-{rank}", "Two ranks", "mesh", rank, 2, _mesh(rank, 2))
    yield _init("mesh-of-3", "Three ranks", "mesh", 1, 3, _mesh(1, 3))
    yield _init("mesh-of-8", "As many ranks as JACCL's mesh may have", "mesh", 7, 8, _mesh(7, 8))
    yield _init("mesh-5-wires", "Five connections between two ranks: a mesh has no limit", "mesh", 1, 2, _mesh(1, 2, 5))
    yield _init("mesh-of-3-wires-2", "Two connections between each two of three ranks", "mesh", 2, 3, _mesh(2, 3, 2))
    yield _init("mesh-4-wires", "Four connections between two ranks", "mesh", 0, 2, _mesh(0, 2, 4))
    garbage = _mesh(0, 2)
    garbage[1] = [part.replace(_OWN, _OWN[:4] + bytes(range(0x60, 0x7C))) for part in garbage[1]]
    garbage[1][0] = _mesh_list(0, 2)
    yield _init("mesh-own-garbage", "A peer's own entry has uninitialised memory in it", "mesh", 0, 2, garbage)
    for rank in (0, 1):
        yield _init(
            f"ring-of-2-rank-{rank}", "Two ranks: both neighbours are one rank", "ring", rank, 2, _ring(rank, 2)
        )
    yield _init("ring-4-wires", "As many connections to a neighbour as a ring may have", "ring", 0, 2, _ring(0, 2, 4))
    yield _init("ring-of-9", "Nine ranks: more than a mesh may have", "ring", 8, 9, _ring(8, 9))
    yield _init("ring-of-3", "Three ranks, two connections each way", "ring", 2, 3, _ring(2, 3, 2))


def _init_faults() -> Iterator[JacclInitTest]:
    def mesh(name: str, comment: str, upto: int, change: Callable[[list[bytes]], None], error: Fault) -> JacclInitTest:
        gathers = _mesh(0, 2)[: upto + 1]
        change(gathers[upto])
        return _init(f"mesh-{name}", comment, "mesh", 0, 2, gathers, error)

    def setter(rank: int, part: bytes) -> Callable[[list[bytes]], None]:
        return lambda parts: parts.__setitem__(rank, part)

    yield mesh("count-3", "A peer has another number of Destinations", 0, setter(1, pack("<i", 3)),
               fault("jaccl-count", 4, "mesh[1].count"))  # fmt: skip
    yield mesh("count-of-older-mlx", "A peer with MLX before 0.32.4 uses one connection of two", 0,
               setter(0, pack("<i", 4)), fault("jaccl-count", 4, "mesh[1].count"))  # fmt: skip
    yield mesh("count-huge", "A peer has 2^31 - 1 Destinations: nothing may be made ready for them", 0,
               setter(1, pack("<i", 2**31 - 1)), fault("jaccl-count", 4, "mesh[1].count"))  # fmt: skip
    yield mesh("count-negative", "A negative number", 0, setter(1, pack("<i", -2)),
               fault("jaccl-count", 4, "mesh[1].count"))  # fmt: skip
    peer = _mesh_list(1, 2)
    yield mesh("no-own-entry", "A peer's own entry is a peer's", 1, setter(1, peer[:32] + _destination(1, 1)),
               fault("jaccl-own-entry", 96, "mesh[1][1].local_id"))  # fmt: skip
    yield mesh("own-entry-misplaced", "An own entry where a peer's belongs", 1, setter(1, _OWN + _OWN),
               fault("jaccl-own-entry", 64, "mesh[1][0].local_id"))  # fmt: skip
    yield mesh("sequence", "A peer's sequence number is another", 1, setter(1, _destination(1, 1, sequence=6) + _OWN),
               fault("jaccl-sequence-number", 72, "mesh[1][0].packet_sequence_number"))  # fmt: skip
    yield mesh("number", "A peer's queue pair is negative", 1, setter(1, _destination(1, -5) + _OWN),
               fault("jaccl-queue-pair", 68, "mesh[1][0].queue_pair_number"))  # fmt: skip
    yield mesh("barrier-1", "A peer is not at the barrier", 2, setter(1, b"\1\0\0\0"),
               fault("jaccl-barrier", 4, "barrier[1]"))  # fmt: skip
    yield mesh("barrier-2", "A peer is not at the second barrier", 3, setter(1, b"\0\0\0\1"),
               fault("jaccl-barrier", 4, "barrier[1]"))  # fmt: skip
    gathers = _ring(0, 2)
    gathers[2] = [gathers[2][0], pack("<i", 2)]
    yield _init("ring-count-right", "A peer has another number to the right", "ring", 0, 2, gathers[:3],
                fault("jaccl-count", 4, "right[1].count"))  # fmt: skip
    gathers = _ring(0, 2)
    gathers[1] = [gathers[1][0], _OWN]
    yield _init("ring-own-entry", "A ring has no own entries", "ring", 0, 2, gathers[:2],
                fault("jaccl-own-entry", 32, "left[1][0].local_id"))  # fmt: skip


def make_inits() -> VectorFile[Any]:
    return file(
        JacclInitTest,
        _INITS,
        (
            Group(name="groups", about="Groups that form.", tests=tuple(_inits())),
            Group(name="faults", about="Contributions that a rank must refuse.", tests=tuple(_init_faults())),
        ),
    )
