"""Files with the devices or addresses of the ranks: device matrix, rank entries, ring hostfile. [TOPOLOGY-*]

    device matrix   [[null,"rdma_en5"],["rdma_en4",null]]             for JACCL
    rank entries    [{"interface":"bridge100","ip":"…","rank":0},…]   written by the reference peer
    ring hostfile   [["169.254.1.1:29400"],["169.254.1.2:29401"]]     for MLX's ring

JACCL accepts device files that crash it later or form another group than intended, so the rules here are stricter.
Reading and writing apply the same rules.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final, NamedTuple, NoReturn, cast

from wireproto.codec.json_scanner import Scanner
from wireproto.errors import LimitError, MalformedError, WireError, shorten
from wireproto.jaccl import MAX_MESH, MAX_SIZE, MAX_WIRES, MIN_SIZE

MAX_FILE: Final = 64 * 1024
"""Largest file in bytes: 64 KiB. A ring of 64 ranks with four devices per neighbour needs 31 KiB. [TOPOLOGY-FILE]"""

DeviceEntry = None | str | tuple[str, ...]
"""The devices of a rank that connect to one other rank: none, one, or several in parallel."""

DeviceMatrix = tuple[tuple[DeviceEntry, ...], ...]
"""One row per rank, with one entry per rank: None for itself. [TOPOLOGY-MATRIX]"""

RingHosts = tuple[tuple[tuple[str, int], ...], ...]
"""One row per rank: its addresses, each an IP and a port. [TOPOLOGY-RING]"""

_NAME: Final = re.compile(r"[!-~]{1,63}")
_ENTRY_KEYS: Final = frozenset({"interface", "ip", "rank"})
_EXAMPLE: Final = '[[null,"rdma_en5"],["rdma_en4",null]]'


class DeviceVerdict(NamedTuple):
    """The groups that JACCL can form from a device matrix, or the faults of the matrix."""

    matrix: DeviceMatrix | None
    """None if the matrix has a fault."""
    mesh: bool
    """Every rank has a device for every other rank, and there are at most 8 ranks."""
    ring: bool
    """Every rank has 1 to 4 devices for each of its two neighbours, the same number everywhere."""
    faults: tuple[WireError, ...]
    """The faults in file order; none if the matrix is a mesh or a ring."""

    @property
    def wires(self) -> int:
        """Number of connections between two ranks of a mesh: the smallest number of devices of any pair.

        0 if the matrix is not a mesh. MLX before 0.32.4 always uses one. [JACCL-MESH-INIT]
        """
        if self.matrix is None or not self.mesh:
            return 0
        return min(len(_names(entry)) for r, row in enumerate(self.matrix) for c, entry in enumerate(row) if r != c)


class RankEntry(NamedTuple):
    """One rank in the reference peer's file. [TOPOLOGY-RANK-ENTRIES]"""

    interface: str
    """Name of the network interface."""
    ip: str
    """IPv4 address."""
    rank: int
    """Its position in the file, from 0."""


# -- device matrix -----------------------------------------------------------------------------------------------------


def check_device_file(data: bytes, *, rank: int | None = None) -> DeviceVerdict:
    """Return the verdict on a device file. [TOPOLOGY-MATRIX, TOPOLOGY-FILE]

    A fault has a path such as `[0][1]` and an offset from the start of `data`. A `rank` that the file does not have is
    a fault too.
    """
    try:
        verdict = _matrix_verdict(_Document.read(data))
    except WireError as error:
        return DeviceVerdict(None, False, False, (error,))
    if rank is not None and verdict.matrix is not None and not 0 <= rank < len(verdict.matrix):
        detail = f"there is no rank {rank} in a file for ranks 0 to {len(verdict.matrix) - 1}"
        return DeviceVerdict(None, False, False, (MalformedError("topology-rank", detail),))
    return verdict


def check_device_matrix(matrix: DeviceMatrix) -> DeviceVerdict:
    """Return the verdict on a matrix of tuples or lists. Faults have a path and no offset. [TOPOLOGY-MATRIX]"""
    return _matrix_verdict(_Document(matrix, {}))


def parse_device_file(data: bytes) -> DeviceMatrix:
    """Return the device matrix in a file. Raise the first fault that `check_device_file` finds."""
    return _matrix(check_device_file(data))


def format_device_file(matrix: DeviceMatrix) -> bytes:
    """Return the file for a device matrix, without white space. Raise the first fault of `check_device_matrix`."""
    return _compact(_matrix(check_device_matrix(matrix)))


def devices_of(matrix: DeviceMatrix, rank: int) -> dict[int, tuple[str, ...]]:
    """Return the devices in a rank's row, the only row that the rank uses, by the rank that they connect to."""
    return {peer: _names(entry) for peer, entry in enumerate(matrix[rank]) if entry is not None}


def _matrix(verdict: DeviceVerdict) -> DeviceMatrix:
    if verdict.matrix is None:
        raise verdict.faults[0]
    return verdict.matrix


def _matrix_verdict(document: "_Document") -> DeviceVerdict:
    for find in (_shape_faults, _entry_faults, _link_faults):  # each relies on the checks of the previous one
        if faults := find(document):
            return DeviceVerdict(None, False, False, tuple(faults))
    rows = cast("Sequence[Sequence[DeviceEntry | list[str]]]", document.value)
    matrix = tuple(tuple(tuple(entry) if isinstance(entry, list) else entry for entry in row) for row in rows)
    counts = [[len(_names(entry)) for entry in row] for row in matrix]
    no_mesh, no_ring = _no_mesh(counts), _no_ring(counts)
    if no_mesh is None or no_ring is None:
        return DeviceVerdict(matrix, no_mesh is None, no_ring is None, ())
    path, reason = no_ring
    detail = (
        f"not a mesh: {no_mesh}; not a ring: {reason}; name devices for all pairs of at most {MAX_MESH} "
        f"ranks, or the same number, at most {MAX_WIRES}, for all neighbours"
    )
    return DeviceVerdict(None, False, False, (document.fault("topology-incomplete", path, detail),))


def _no_mesh(counts: list[list[int]]) -> str | None:
    """Return why these numbers of devices make no mesh, or None if they make one."""
    size = len(counts)
    if size > MAX_MESH:
        return f"a mesh has at most {MAX_MESH} ranks, not {size}"
    return next((f"[{r}][{c}] is null" for r in range(size) for c in range(size) if r != c and not counts[r][c]), None)


def _no_ring(counts: list[list[int]]) -> tuple[str, str] | None:
    """Return the path of the first entry that prevents a ring, and why; None if there is a ring."""
    size, wanted = len(counts), counts[0][1]
    for r, c in [(r, (r + step) % size) for step in (1, -1) for r in range(size)]:
        path = f"[{r}][{c}]"
        if not counts[r][c]:
            return path, f"{path} is null"
        if counts[r][c] > MAX_WIRES:
            return path, f"{path} has {counts[r][c]} devices, more than {MAX_WIRES}"
        if counts[r][c] != wanted:
            return path, f"{path} has {counts[r][c]} devices, and [0][1] has {wanted}"
    return None


def _shape_faults(document: "_Document") -> list[WireError]:
    """Check for an array of 2 to 64 rows, each with one entry per rank."""
    matrix = document.value
    if not isinstance(matrix, tuple | list):
        return [document.fault("topology-not-array", "", f"expected an array with a row per rank, not {_kind(matrix)}")]
    if matrix and isinstance(matrix[0], dict) and matrix[0].keys() >= _ENTRY_KEYS:
        detail = (
            "these are rank entries, the reference peer's format, which JACCL does not read: write a row per rank, "
            f"such as {_EXAMPLE}, with the names that `ibv_devices` lists on that rank's host"
        )
        return [document.fault("topology-rank-entries", "[0]", detail)]
    size = len(matrix)
    if not MIN_SIZE <= size <= MAX_SIZE:
        detail = f"a row per rank makes {size} ranks: use {MIN_SIZE} to {MAX_SIZE}"
        return [document.fault("topology-size", "", detail)]
    faults: list[WireError] = []
    for r, row in enumerate(matrix):
        if not isinstance(row, tuple | list):
            detail = f"expected an array with an entry per rank, not {_kind(row)}"
            faults.append(document.fault("topology-not-array", f"[{r}]", detail))
        elif len(row) != size:
            detail = f"this row has {len(row)} entries, and the file has {size} rows: both are one per rank"
            faults.append(document.fault("topology-row", f"[{r}]", detail))
    return faults


def _entry_faults(document: "_Document") -> list[WireError]:
    """Check that each entry is null, or off the diagonal a name or an array of names, and no name repeats in a row."""
    faults: list[WireError] = []
    for r, row in enumerate(cast("Sequence[Sequence[object]]", document.value)):
        places: dict[str, str] = {}  # the path of each name
        for c, entry in enumerate(row):
            path = f"[{r}][{c}]"
            if r != c and entry is not None:
                faults += _device_faults(document, path, entry, places)
            elif entry is not None:
                detail = f"expected null, since rank {r} has no device for itself, not {_kind(entry)}"
                faults.append(document.fault("topology-diagonal", path, detail))
    return faults


def _device_faults(document: "_Document", path: str, entry: object, places: dict[str, str]) -> Iterator[WireError]:
    """Check one entry. `places` maps the names earlier in its row to their paths, and grows."""
    names: Mapping[str, object] = {path: entry}
    if isinstance(entry, tuple | list):
        if not entry:
            yield document.fault("topology-names", path, "an array of no devices: name one, or write null for no link")
            return
        names = {f"{path}[{index}]": name for index, name in enumerate(entry)}
    for place, name in names.items():
        if not isinstance(name, str):
            yield document.fault("topology-entry", place, f"expected a device name such as rdma_en5, not {_kind(name)}")
        elif not _NAME.fullmatch(name):
            detail = f"{shorten(name)} is not a device name: use one that `ibv_devices` lists, such as rdma_en5"
            yield document.fault("topology-name", place, detail)
        elif (first := places.setdefault(name, place)) != place:
            detail = f"{name} is already at {first}, and a port connects to one rank: name another device"
            yield document.fault("topology-duplicate", place, detail)


def _link_faults(document: "_Document") -> list[WireError]:
    """Check that both ends of a link name devices. They may name different numbers of them."""
    faults: list[WireError] = []
    matrix = cast(DeviceMatrix, document.value)
    for r, row in enumerate(matrix):
        for c in range(r):
            if (row[c] is None) != (matrix[c][r] is None):
                empty, other = (f"[{r}][{c}]", f"[{c}][{r}]")[:: 1 if row[c] is None else -1]
                detail = f"null, and {other}, the link's other end, names a device: name one at both, or at neither"
                faults.append(document.fault("topology-one-sided", empty, detail))
    return sorted(faults, key=lambda fault: fault.offset or 0)


def _names(entry: DeviceEntry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


# -- rank entries ------------------------------------------------------------------------------------------------------


def parse_rank_entries(data: bytes) -> tuple[RankEntry, ...]:
    """Return the rank entries in a file, in rank order. Raise `WireError`. [TOPOLOGY-RANK-ENTRIES, TOPOLOGY-FILE]"""
    return _rank_entries(_Document.read(data))


def format_rank_entries(entries: Sequence[RankEntry]) -> bytes:
    """Return the file for rank entries, byte for byte as the reference peer writes it. Raise `WireError`."""
    values = [entry._asdict() for entry in entries]
    _rank_entries(_Document(values, {}))
    # The reference peer's encoder escapes the slash.
    return json.dumps(values, indent=2, separators=(",", " : "), sort_keys=True).replace("/", "\\/").encode()


def _rank_entries(document: "_Document") -> tuple[RankEntry, ...]:
    values = document.array("", document.value)
    if not MIN_SIZE <= len(values) <= MAX_SIZE:
        document.fail(
            "topology-size", "", f"one entry per rank makes {len(values)} ranks: use {MIN_SIZE} to {MAX_SIZE}"
        )
    return tuple(_rank_entry(document, rank, value) for rank, value in enumerate(values))


def _rank_entry(document: "_Document", rank: int, value: object) -> RankEntry:
    path = f"[{rank}]"
    if not isinstance(value, dict):
        document.fail("topology-entry", path, f"expected an object, not {_kind(value)}")
    for key, kind, words in (("interface", str, "a string"), ("ip", str, "a string"), ("rank", int, "an integer")):
        if key not in value:
            document.fail("field-missing", path, f"the object has no {key}")
        if type(value[key]) is not kind:
            document.fail("field-type", f"{path}.{key}", f"expected {words}, not {_kind(value[key])}")
    entry = RankEntry(value["interface"], value["ip"], value["rank"])
    if not _NAME.fullmatch(entry.interface):
        document.fail("topology-name", f"{path}.interface", f"{shorten(entry.interface)} is not an interface name")
    if not _is_host(entry.ip):
        document.fail("topology-address", f"{path}.ip", f"{shorten(entry.ip)} is not the IPv4 address of a host")
    if entry.rank != rank:
        document.fail("topology-rank", f"{path}.rank", f"expected {rank}, the entry's position, not {entry.rank}")
    return entry


# -- ring hostfile -----------------------------------------------------------------------------------------------------


def parse_ring_hostfile(data: bytes) -> RingHosts:
    """Return the addresses in a ring hostfile, by rank. Raise `WireError`. [TOPOLOGY-RING, TOPOLOGY-FILE]"""
    return _ring_hosts(_Document.read(data))


def format_ring_hostfile(hosts: RingHosts) -> bytes:
    """Return the ring hostfile for these addresses, without white space. Raise `WireError`."""
    rows = [[f"{ip}:{port}" for ip, port in row] for row in hosts]
    _ring_hosts(_Document(rows, {}))
    return _compact(rows)


def _ring_hosts(document: "_Document") -> RingHosts:
    rows = document.array("", document.value)
    if len(rows) < MIN_SIZE:
        document.fail("topology-size", "", f"a row per rank makes {len(rows)} ranks: use at least {MIN_SIZE}")
    places: dict[str, str] = {}  # the path of each address
    hosts = []
    for r, row in enumerate(rows):
        addresses = []
        for index, text in enumerate(document.array(f"[{r}]", row)):
            place = f"[{r}][{index}]"
            addresses.append(_address(document, place, text))
            if (first := places.setdefault(cast(str, text), place)) != place:
                document.fail("topology-duplicate", place, f"{text} is already at {first}: use another port")
        if not addresses:
            document.fail("topology-row", f"[{r}]", f"rank {r} has no address: name at least one")
        hosts.append(tuple(addresses))
    return tuple(hosts)


def _address(document: "_Document", path: str, text: object) -> tuple[str, int]:
    if not isinstance(text, str):
        document.fail("topology-entry", path, f"expected an address such as 169.254.1.1:29400, not {_kind(text)}")
    ip, _, port = text.partition(":")
    if not _is_host(ip) or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        detail = f"{shorten(text)} is not ip:port, such as 169.254.1.1:29400, with a port from 1 to 65535"
        document.fail("topology-address", path, detail)
    return ip, int(port)


# -- parts -------------------------------------------------------------------------------------------------------------


class _Document(NamedTuple):
    """JSON as Python values, with arrays as tuples, and the file offset of each value by its path."""

    value: object
    offsets: Mapping[str, int]

    @classmethod
    def read(cls, data: bytes) -> "_Document":
        """Read a whole file, with values up to four levels deep: no valid file has more.

        JACCL skips a byte-order mark, so this does too. A file that does not start with an array is rejected at once.
        """
        start = len(_BOM) if data.startswith(_BOM) else 0
        first = _NO_ARRAY.match(data, start)
        if first is not None:
            detail = f"expected an array with a row per rank, not {_KINDS[first[1][:1]]}"
            raise MalformedError("topology-not-array", detail, offset=first.start(1))
        if len(data) > MAX_FILE:
            raise LimitError("topology-limit", f"the file has more than {MAX_FILE} bytes", offset=MAX_FILE)
        scanner = Scanner(data, start)
        offsets: dict[str, int] = {}
        value = _value(scanner, "", 1, offsets)
        scanner.end()
        return cls(value, offsets)

    def array(self, path: str, value: object) -> Sequence[object]:
        """Return the value at `path` if it is an array; fail otherwise."""
        if not isinstance(value, tuple | list):
            self.fail("topology-not-array", path, f"expected an array, not {_kind(value)}")
        return value

    def fault(self, code: str, path: str, detail: str) -> MalformedError:
        return MalformedError(code, detail, offset=self.offsets.get(path), path=path or None)

    def fail(self, code: str, path: str, detail: str) -> NoReturn:
        raise self.fault(code, path, detail)


@dataclass(frozen=True)
class _Other:
    """A value that no valid file contains."""

    kind: str


_LEVELS: Final = 4
_BOM: Final = b"\xef\xbb\xbf"
_KINDS: Final = {
    b"{": "an object",
    b'"': "a string",
    b"n": "null",
    **dict.fromkeys((b"t", b"f"), "a boolean"),
    **{byte.encode(): "a number" for byte in "-0123456789"},
}
_NO_ARRAY: Final = re.compile(rb"[ \t\r\n]*([{\"tfn0-9-])")


def _value(scanner: Scanner, path: str, level: int, offsets: dict[str, int]) -> object:
    """Return the value at the cursor. Its place is `path`, `level` deep."""
    kind = scanner.kind()
    offsets[path] = scanner.pos
    if kind == "a string":
        return scanner.string()
    if kind in ("a boolean", "null"):
        return scanner.literal()
    if kind == "a number":
        whole, fraction_or_exponent = scanner.number()
        # int() takes quadratic time, and no valid number here has this many digits.
        return _Other(kind) if fraction_or_exponent or len(whole) > 20 else int(whole)
    if level >= _LEVELS:
        scanner.skip(level)
        return _Other(kind)
    if kind == "an array":
        items: list[object] = []
        scanner.elements(lambda index: items.append(_value(scanner, f"{path}[{index}]", level + 1, offsets)))
        return tuple(items)
    members: dict[str, object] = {}

    def member(key: str) -> None:
        members[key] = _value(scanner, f"{path}.{key}", level + 1, offsets)

    scanner.members(member)
    return members


def _kind(value: object) -> str:
    """Return the JSON kind of a value, or the name of its Python type."""
    match value:
        case _Other():
            return value.kind
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case tuple() | list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return type(value).__name__


def _is_host(ip: str) -> bool:
    try:
        address = IPv4Address(ip)
    except AddressValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
