"""The files that say where the ranks of a group are: device matrix, rank entries, ring hostfile. [TOPOLOGY-*]

    device matrix   [[null,"rdma_en5"],["rdma_en4",null]]             what JACCL is pointed at
    rank entries    [{"interface":"bridge100","ip":"…","rank":0},…]   what the reference peer writes
    ring hostfile   [["169.254.1.1:29400"],["169.254.1.2:29401"]]     what MLX's ring is pointed at

JACCL's own parser lets files through that crash it later, or that form another group than the one meant, so a device
matrix is held to more here. What is written is held to the same rules as what is read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final, NamedTuple, NoReturn, cast

from wireproto.codec.json_scanner import Scanner
from wireproto.errors import LimitError, MalformedError, WireError
from wireproto.jaccl import MAX_SIZE, MAX_WIRES, MIN_SIZE

MAX_FILE: Final = 64 * 1024
"""Bytes of a file: eight ranks with four devices a link need less than 16 KiB. [TOPOLOGY-FILE]"""

DeviceEntry = None | str | tuple[str, ...]
"""The devices towards one rank: none, one, or several side by side."""

DeviceMatrix = tuple[tuple[DeviceEntry, ...], ...]
"""One row a rank, one entry a rank: None for itself. [TOPOLOGY-MATRIX]"""

RingHosts = tuple[tuple[tuple[str, int], ...], ...]
"""One row a rank: its addresses, each an IP and a port. [TOPOLOGY-RING]"""

_NAME: Final = re.compile(r"[!-~]{1,63}")
_ENTRY_KEYS: Final = frozenset({"interface", "ip", "rank"})
_EXAMPLE: Final = '[[null,"rdma_en5"],["rdma_en4",null]]'


class DeviceVerdict(NamedTuple):
    """What JACCL can make of a device matrix."""

    matrix: DeviceMatrix | None
    """None where there is a fault."""
    mesh: bool
    """Every rank has a device towards every other."""
    ring: bool
    """Every rank has devices towards its two neighbours, equally many everywhere."""
    faults: tuple[WireError, ...]
    """What is wrong, in the order of the file: none with a mesh or a ring, and at least one without."""


class RankEntry(NamedTuple):
    """One rank of the reference peer's file. [TOPOLOGY-RANK-ENTRIES]"""

    interface: str
    ip: str
    rank: int


# -- device matrix -----------------------------------------------------------------------------------------------------


def check_device_file(data: bytes, *, rank: int | None = None) -> DeviceVerdict:
    """The verdict on a device file; with `rank`, it has to be one of the file's. [TOPOLOGY-MATRIX, TOPOLOGY-FILE]

    Faults have a path such as `[0][1]`, and an offset from the start of `data`.
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
    """The same of a matrix made in Python, in tuples or lists: its faults have a path, and no offset."""
    return _matrix_verdict(_Document(matrix, {}))


def parse_device_file(data: bytes) -> DeviceMatrix:
    """The device matrix that a file holds. Raises the first fault that `check_device_file` finds."""
    return _matrix(check_device_file(data))


def format_device_file(matrix: DeviceMatrix) -> bytes:
    """The file of a device matrix, without white space. Raises the first fault that `check_device_matrix` finds."""
    return _compact(_matrix(check_device_matrix(matrix)))


def devices_of(matrix: DeviceMatrix, rank: int) -> dict[int, tuple[str, ...]]:
    """The devices that a rank uses, by the rank that they lead to: its own row, the only one that it uses."""
    return {peer: _names(entry) for peer, entry in enumerate(matrix[rank]) if entry is not None}


def _matrix(verdict: DeviceVerdict) -> DeviceMatrix:
    if verdict.matrix is None:
        raise verdict.faults[0]
    return verdict.matrix


def _matrix_verdict(document: "_Document") -> DeviceVerdict:
    for find in (_shape_faults, _entry_faults, _link_faults):  # each stands on what the one before has checked
        if faults := find(document):
            return DeviceVerdict(None, False, False, tuple(faults))
    rows = cast("Sequence[Sequence[DeviceEntry | list[str]]]", document.value)
    matrix = tuple(tuple(tuple(entry) if isinstance(entry, list) else entry for entry in row) for row in rows)
    counts = [[len(_names(entry)) for entry in row] for row in matrix]
    mesh_gap, ring_gap = _mesh_gap(counts), _ring_gap(counts)
    if mesh_gap is None or ring_gap is None:
        return DeviceVerdict(matrix, mesh_gap is None, ring_gap is None, ())
    (a, b), (r, c) = mesh_gap, ring_gap
    uneven = f"[{r}][{c}] has another number of devices than [0][1]" if counts[r][c] else f"[{r}][{c}] is null"
    detail = (
        f"no mesh, since [{a}][{b}] is null, and no ring, since {uneven}: name the devices between all ranks, or "
        "equally many between all neighbours"
    )
    return DeviceVerdict(None, False, False, (document.fault("topology-incomplete", f"[{r}][{c}]", detail),))


def _mesh_gap(counts: list[list[int]]) -> tuple[int, int] | None:
    """The first place where a mesh needs a device, and there is none."""
    size = len(counts)
    return next(((r, c) for r in range(size) for c in range(size) if r != c and not counts[r][c]), None)


def _ring_gap(counts: list[list[int]]) -> tuple[int, int] | None:
    """The first place between two neighbours without a device, or with another number than the first one."""
    neighbours = [(r, (r + 1) % len(counts)) for r in range(len(counts))]
    return next(((r, c) for r, c in neighbours if not counts[r][c] or counts[r][c] != counts[0][1]), None)


def _shape_faults(document: "_Document") -> list[WireError]:
    """The file is an array of 2 to 8 rows, each with an entry a rank."""
    matrix = document.value
    if not isinstance(matrix, tuple | list):
        return [document.fault("topology-not-array", "", f"expected an array with a row a rank, not {_kind(matrix)}")]
    if matrix and isinstance(matrix[0], dict) and matrix[0].keys() >= _ENTRY_KEYS:
        detail = (
            "these are rank entries, the reference peer's format, which JACCL does not take: write a row a rank, such "
            f"as {_EXAMPLE}, with the names that `ibv_devices` lists on that rank's host"
        )
        return [document.fault("topology-rank-entries", "[0]", detail)]
    size = len(matrix)
    if not MIN_SIZE <= size <= MAX_SIZE:
        detail = f"{size} rows are for as many ranks: use {MIN_SIZE} to {MAX_SIZE}"
        return [document.fault("topology-size", "", detail)]
    faults: list[WireError] = []
    for r, row in enumerate(matrix):
        if not isinstance(row, tuple | list):
            detail = f"expected an array with an entry a rank, not {_kind(row)}"
            faults.append(document.fault("topology-not-array", f"[{r}]", detail))
        elif len(row) != size:
            detail = f"a row of {len(row)} entries, where {size} rows need {size}"
            faults.append(document.fault("topology-row", f"[{r}]", detail))
    return faults


def _entry_faults(document: "_Document") -> list[WireError]:
    """Each entry is null on the diagonal, elsewhere null, a name or an array of names; no name is twice in a row."""
    faults: list[WireError] = []
    for r, row in enumerate(cast("Sequence[Sequence[object]]", document.value)):
        places: dict[str, str] = {}  # the path of each name
        for c, entry in enumerate(row):
            path = f"[{r}][{c}]"
            if r != c and entry is not None:
                faults += _device_faults(document, path, entry, places)
            elif entry is not None:
                detail = f"expected null, since rank {r} has no device towards itself, not {_kind(entry)}"
                faults.append(document.fault("topology-diagonal", path, detail))
    return faults


def _device_faults(document: "_Document", path: str, entry: object, places: dict[str, str]) -> Iterator[WireError]:
    """Those of an entry; `places` are the paths of the names that were in its row before, and are added to."""
    names: Mapping[str, object] = {path: entry}
    if isinstance(entry, tuple | list):
        if not 1 <= len(entry) <= MAX_WIRES:
            detail = f"an array of {len(entry)} devices: name 1 to {MAX_WIRES}, or write null for no link"
            yield document.fault("topology-names", path, detail)
            return
        names = {f"{path}[{index}]": name for index, name in enumerate(entry)}
    for place, name in names.items():
        if not isinstance(name, str):
            yield document.fault("topology-entry", place, f"expected a device name such as rdma_en5, not {_kind(name)}")
        elif not _NAME.fullmatch(name):
            detail = f"{_short(name)} is no device name: use one that `ibv_devices` lists, such as rdma_en5"
            yield document.fault("topology-name", place, detail)
        elif (first := places.setdefault(name, place)) != place:
            detail = f"{name} is at {first} already, and one port leads to one rank: name another device"
            yield document.fault("topology-duplicate", place, detail)


def _link_faults(document: "_Document") -> list[WireError]:
    """The two ends of a link name equally many devices."""
    faults: list[WireError] = []
    matrix = cast(DeviceMatrix, document.value)
    for r, row in enumerate(matrix):
        for c in range(r):
            here, there = len(_names(row[c])), len(_names(matrix[c][r]))
            if here != there:
                poorer, richer = (f"[{r}][{c}]", f"[{c}][{r}]")[:: 1 if here < there else -1]
                detail = (
                    f"{min(here, there)} devices, and {max(here, there)} at {richer}, the other end of the link: name "
                    "equally many at both"
                )
                faults.append(document.fault("topology-one-sided", poorer, detail))
    return sorted(faults, key=lambda fault: fault.offset or 0)


def _names(entry: DeviceEntry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


# -- rank entries ------------------------------------------------------------------------------------------------------


def parse_rank_entries(data: bytes) -> tuple[RankEntry, ...]:
    """The rank entries that a file holds, in rank order. Raises `WireError`. [TOPOLOGY-RANK-ENTRIES, TOPOLOGY-FILE]"""
    return _rank_entries(_Document.read(data))


def format_rank_entries(entries: Sequence[RankEntry]) -> bytes:
    """The file of rank entries, byte for byte as the reference peer writes it. Raises `WireError`."""
    values = [entry._asdict() for entry in entries]
    _rank_entries(_Document(values, {}))
    # The reference peer's encoder escapes the slash.
    return json.dumps(values, indent=2, separators=(",", " : "), sort_keys=True).replace("/", "\\/").encode()


def _rank_entries(document: "_Document") -> tuple[RankEntry, ...]:
    values = document.array("", document.value)
    if not MIN_SIZE <= len(values) <= MAX_SIZE:
        document.fail("topology-size", "", f"{len(values)} entries are for as many ranks: use {MIN_SIZE} to {MAX_SIZE}")
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
        document.fail("topology-name", f"{path}.interface", f"{_short(entry.interface)} is no interface name")
    if not _is_host(entry.ip):
        document.fail("topology-address", f"{path}.ip", f"{_short(entry.ip)} is not the IPv4 address of a host")
    if entry.rank != rank:
        document.fail("topology-rank", f"{path}.rank", f"expected {rank}, the entry's place, not {entry.rank}")
    return entry


# -- ring hostfile -----------------------------------------------------------------------------------------------------


def parse_ring_hostfile(data: bytes) -> RingHosts:
    """The addresses that a ring hostfile holds, by rank. Raises `WireError`. [TOPOLOGY-RING, TOPOLOGY-FILE]"""
    return _ring_hosts(_Document.read(data))


def format_ring_hostfile(hosts: RingHosts) -> bytes:
    """The ring hostfile of these addresses, without white space. Raises `WireError`."""
    rows = [[f"{ip}:{port}" for ip, port in row] for row in hosts]
    _ring_hosts(_Document(rows, {}))
    return _compact(rows)


def _ring_hosts(document: "_Document") -> RingHosts:
    rows = document.array("", document.value)
    if len(rows) < MIN_SIZE:
        document.fail("topology-size", "", f"{len(rows)} rows are for as many ranks: use at least {MIN_SIZE}")
    places: dict[str, str] = {}  # the path of each address
    hosts = []
    for r, row in enumerate(rows):
        addresses = []
        for index, text in enumerate(document.array(f"[{r}]", row)):
            place = f"[{r}][{index}]"
            addresses.append(_address(document, place, text))
            if (first := places.setdefault(cast(str, text), place)) != place:
                document.fail("topology-duplicate", place, f"{text} is at {first} already: use another port")
        if not addresses:
            document.fail("topology-row", f"[{r}]", f"rank {r} has no address: name at least one")
        hosts.append(tuple(addresses))
    return tuple(hosts)


def _address(document: "_Document", path: str, text: object) -> tuple[str, int]:
    if not isinstance(text, str):
        document.fail("topology-entry", path, f"expected an address such as 169.254.1.1:29400, not {_kind(text)}")
    ip, _, port = text.partition(":")
    if not _is_host(ip) or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        detail = f"{_short(text)} is not ip:port, such as 169.254.1.1:29400, with a port from 1 to 65535"
        document.fail("topology-address", path, detail)
    return ip, int(port)


# -- parts -------------------------------------------------------------------------------------------------------------


class _Document(NamedTuple):
    """JSON as Python values, arrays as tuples; and where in the file a value starts, by its path."""

    value: object
    offsets: Mapping[str, int]

    @classmethod
    def read(cls, data: bytes) -> "_Document":
        """Reads all of a file: four levels of it, as deep as one of these files can go."""
        if len(data) > MAX_FILE:
            raise LimitError("topology-limit", f"the file has more than {MAX_FILE} bytes", offset=MAX_FILE)
        scanner = Scanner(data)
        offsets: dict[str, int] = {}
        value = _value(scanner, "", 1, offsets)
        scanner.end()
        return cls(value, offsets)

    def array(self, path: str, value: object) -> Sequence[object]:
        """The value at `path`, which has to be an array."""
        if not isinstance(value, tuple | list):
            self.fail("topology-not-array", path, f"expected an array, not {_kind(value)}")
        return value

    def fault(self, code: str, path: str, detail: str) -> MalformedError:
        return MalformedError(code, detail, offset=self.offsets.get(path), path=path or None)

    def fail(self, code: str, path: str, detail: str) -> NoReturn:
        raise self.fault(code, path, detail)


@dataclass(frozen=True)
class _Other:
    """A value that has no place in any of these files."""

    kind: str


_LEVELS: Final = 4


def _value(scanner: Scanner, path: str, level: int, offsets: dict[str, int]) -> object:
    """The value at the cursor, which is that at `path`, `level` deep."""
    kind = scanner.kind()
    offsets[path] = scanner.pos
    if kind == "a string":
        return scanner.string()
    if kind in ("a boolean", "null"):
        return scanner.literal()
    if kind == "a number":
        whole, fraction_or_exponent = scanner.number()
        # More digits than any number here has: int() takes quadratic time.
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
    """What a value is in JSON, or its type where it is nothing there."""
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


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
