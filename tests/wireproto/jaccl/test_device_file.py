"""Topology files: contents, refusals, and round trips."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.verdicts import Accepted, expected, rejected, verdict
from wireproto import WireError
from wireproto.jaccl.topology import (
    MAX_FILE,
    DeviceMatrix,
    RankEntry,
    RingHosts,
    check_device_file,
    check_device_matrix,
    devices_of,
    format_device_file,
    format_rank_entries,
    format_ring_hostfile,
    parse_device_file,
    parse_rank_entries,
    parse_ring_hostfile,
)

TWO: DeviceMatrix = ((None, "rdma_en5"), ("rdma_en4", None))
PARSERS: list[Callable[[bytes], Any]] = [parse_device_file, parse_rank_entries, parse_ring_hostfile]
EVERY_PARSER = pytest.mark.parametrize("parse", PARSERS)


def mesh(size: int) -> DeviceMatrix:
    return tuple(tuple(None if r == c else f"rdma_en{c}" for c in range(size)) for r in range(size))


def ring(size: int, wires: int = 1) -> DeviceMatrix:
    def entry(r: int, c: int) -> tuple[str, ...] | None:
        return tuple(f"rdma_en{c}_{wire}" for wire in range(wires)) if (r - c) % size in (1, size - 1) else None

    return tuple(tuple(entry(r, c) for c in range(size)) for r in range(size))


# -- device matrix -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "is_mesh", "is_ring"),
    [
        (TWO, True, True),
        (((None, "a"), ("a", None)), True, True),
        (((None, ("a", "b")), (("c", "d"), None)), True, True),
        (((None, ("a",)), ("a", None)), True, True),
        *((mesh(size), True, True) for size in range(2, 9)),
        *((ring(size, 4), size < 4, True) for size in (*range(2, 9), 64)),
        # MLX forms no mesh of 9 ranks, and a ring of any number
        *((mesh(size), False, True) for size in (9, 16, 32)),
        # any number of devices makes a mesh, and 1 to 4 a ring; a mesh uses the smallest number of all pairs
        *((ring(size, wires), True, False) for size in (2, 3) for wires in (5, 6, 64)),
        (((None, ("a", "b")), ("a", None)), True, False),
        (((None, "a"), (("a", "b", "c", "d", "e"), None)), True, False),
        (((None, ("a", "b"), "c"), ("a", None, ("b", "c")), (("a", "b"), "c", None)), True, False),
        # a link with more devices than the others
        (((None, ("a", "b"), "c"), (("a", "b"), None, "c"), ("a", "b", None)), True, False),
        # not a ring without the link between 0 and 3, even if all others have one
        (((None, "a", "b"), ("a", None, "b"), ("a", "b", None)), True, True),
        (((None, "~!#$%&'()*+,-./:;<=>?@[\\]^_`{|}"), ("a" * 63, None)), True, True),
    ],
)
def test_matrix(matrix: DeviceMatrix, is_mesh: bool, is_ring: bool) -> None:
    """[TOPOLOGY-MATRIX]"""
    data = format_device_file(matrix)
    assert json.loads(data) == json.loads(json.dumps(matrix))
    for found in (check_device_file(data), check_device_matrix(matrix)):
        assert found == (matrix, is_mesh, is_ring, ())
    assert parse_device_file(data) == matrix


def test_matrix_bytes() -> None:
    assert format_device_file(TWO) == b'[[null,"rdma_en5"],["rdma_en4",null]]'
    assert format_device_file(((None, ("a", "b")), (("c", "d"), None))) == b'[[null,["a","b"]],[["c","d"],null]]'


@pytest.mark.parametrize(
    "data",
    [
        b' [ [ null , "rdma_en5" ]\n,\t[ "rdma_en4" , null ] ]\r\n',
        b'[[null,"rdma\\u005fen5"],["\\u0072dma_en4",null]]',
        b'\xef\xbb\xbf[[null,"rdma_en5"],["rdma_en4",null]]',
        b'\xef\xbb\xbf\r\n [[null,"rdma_en5"],["rdma_en4",null]]\n',
    ],
)
def test_matrix_in_other_spellings(data: bytes) -> None:
    assert parse_device_file(data) == TWO


def test_lists_become_tuples() -> None:
    lists: Any = [[None, ["a", "b"]], [["c", "d"], None]]
    assert check_device_matrix(lists).matrix == ((None, ("a", "b")), (("c", "d"), None))
    assert format_device_file(lists) == b'[[null,["a","b"]],[["c","d"],null]]'


def test_own_row() -> None:
    matrix: DeviceMatrix = ((None, "a", ("b", "c")), ("d", None, None), (("e", "f"), None, None))
    assert [devices_of(matrix, rank) for rank in range(3)] == [
        {1: ("a",), 2: ("b", "c")},
        {0: ("d",)},
        {0: ("e", "f")},
    ]


MATRIX_FAULTS: list[tuple[str, str, list[tuple[str, str | None, str | None]]]] = [
    # the path, and the text that the fault starts at
    ("not-array", '{"hosts":[]}', [("topology-not-array", None, "{")]),
    ("null", "null", [("topology-not-array", None, "null")]),
    ("text", ' "rdma_en5"', [("topology-not-array", None, '"')]),
    ("number", "7", [("topology-not-array", None, "7")]),
    ("number-and-space", "7 ", [("topology-not-array", None, "7")]),
    ("half-a-number", "-", [("topology-not-array", None, "-")]),
    ("half-a-literal", "\n nul", [("topology-not-array", None, "nul")]),
    ("half-a-string", '"rdma', [("topology-not-array", None, '"')]),
    ("object-over-the-limit", '\t{"hosts":[' + " " * MAX_FILE, [("topology-not-array", None, "{")]),
    ("text-over-the-limit", '"' + "x" * MAX_FILE, [("topology-not-array", None, '"')]),
    ("no-row", "[]", [("topology-size", None, "[")]),
    ("one-row", "[[null]]", [("topology-size", None, "[")]),
    ("sixty-five-rows", json.dumps(ring(65)), [("topology-size", None, "[")]),
    (
        "nine-ranks-uneven",
        json.dumps(mesh(9)).replace('"rdma_en1"', '["a", "b"]', 1).replace('null, "rdma_en2"', 'null, "x"'),
        [("topology-incomplete", "[1][2]", '"x"')],
    ),
    ("rows-of-objects", "[{},{}]", [("topology-not-array", "[0]", "{},"), ("topology-not-array", "[1]", "{}]")]),
    ("row-null", '[[null,"a"],null]', [("topology-not-array", "[1]", "null]")]),
    (
        "rank-entries",
        '[{"interface":"en5","ip":"169.254.1.1","rank":0},{"interface":"en5","ip":"169.254.1.2","rank":1}]',
        [("topology-rank-entries", "[0]", "{")],
    ),
    ("ragged", '[[null,"a"],["a"]]', [("topology-row", "[1]", '["a"]')]),
    ("too-wide", '[[null,"a","b"],["a",null]]', [("topology-row", "[0]", "[null")]),
    ("empty-rows", "[[],[]]", [("topology-row", "[0]", "[],"), ("topology-row", "[1]", "[]]")]),
    ("diagonal-name", '[["x","a"],["a",null]]', [("topology-diagonal", "[0][0]", '"x"')]),
    ("diagonal-array", '[[null,"a"],["a",[]]]', [("topology-diagonal", "[1][1]", "[]]")]),
    ("number-as-name", '[[null,5],["a",null]]', [("topology-entry", "[0][1]", "5")]),
    ("fraction", '[[null,5.5],["a",null]]', [("topology-entry", "[0][1]", "5.5")]),
    ("bool", '[[null,"a"],[true,null]]', [("topology-entry", "[1][0]", "true")]),
    ("object", '[[null,{"a":[{}]}],["a",null]]', [("topology-entry", "[0][1]", "{")]),
    ("null-in-array", '[[null,["b",null]],["a",null]]', [("topology-entry", "[0][1][1]", "null]],")]),
    ("array-in-array", '[[null,[["b"]]],["a",null]]', [("topology-entry", "[0][1][0]", '["b"]')]),
    ("empty-array", '[[null,[]],["a",null]]', [("topology-names", "[0][1]", "[]")]),
    ("five-names-in-a-ring", json.dumps(ring(4, 5)), [("topology-incomplete", "[0][1]", '["rdma_en1_0"')]),
    ("empty-name", '[[null,""],["a",null]]', [("topology-name", "[0][1]", '""')]),
    ("blank-name", '[[null,"a"],[" ",null]]', [("topology-name", "[1][0]", '" "')]),
    ("space-in-name", '[[null,"a b"],["a",null]]', [("topology-name", "[0][1]", '"a b')]),
    ("newline", '[[null,"a\\n"],["a",null]]', [("topology-name", "[0][1]", '"a\\n')]),
    ("zero", '[[null,"a\\u0000"],["a",null]]', [("topology-name", "[0][1]", '"a\\u')]),
    ("not-ascii", '[[null,"é"],["a",null]]', [("topology-name", "[0][1]", '"é')]),
    ("long-name", f'[[null,"{"a" * 64}"],["a",null]]', [("topology-name", "[0][1]", '"aa')]),
    ("twice-in-entry", '[[null,["b","b"]],["a",null]]', [("topology-duplicate", "[0][1][1]", '"b"]')]),
    (
        "twice-in-row",
        '[[null,"a","b"],["a",null,"a"],["b","a",null]]',
        [("topology-duplicate", "[1][2]", '"a"],["b"')],
    ),
    (
        "one-sided",
        '[[null,"a"],[null,null]]',
        [("topology-one-sided", "[1][0]", "null,null")],
    ),
    (
        "one-sided-beyond-the-ring",
        '[[null,"a","x","b"],["a",null,"b",null],[null,"a",null,"b"],["a",null,"b",null]]',
        [("topology-one-sided", "[2][0]", 'null,"a",null,"b"]')],
    ),
    ("all-null", "[[null,null],[null,null]]", [("topology-incomplete", "[0][1]", "null],[")]),
    (
        "no-ring-of-three",
        '[[null,"a",null],["a",null,"b"],[null,"b",null]]',
        [("topology-incomplete", "[2][0]", 'null,"b",null]]')],
    ),
    (
        "uneven-ring-of-four",
        json.dumps(ring(4)).replace('["rdma_en0_0"]', '"x"').replace('"rdma_en1_0"', '"y","z"'),
        [("topology-incomplete", "[1][2]", '["rdma_en2_0"], null], [null')],
    ),
    (
        "uneven-links-of-a-ring",
        '[[null,["a","b"],null,"c"],[["a","b"],null,"c",null],[null,"a",null,"b"],["a",null,"b",null]]',
        [("topology-incomplete", "[1][2]", '"c",null],[null')],
    ),
    (
        "everything-at-once",
        '[[null,"a","a"],["a",null,5],[["x","x"],true,{}]]',
        [
            ("topology-duplicate", "[0][2]", '"a"],["a"'),
            ("topology-entry", "[1][2]", "5"),
            ("topology-duplicate", "[2][0][1]", '"x"],true'),
            ("topology-entry", "[2][1]", "true"),
            ("topology-diagonal", "[2][2]", "{"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "faults"), [row[1:] for row in MATRIX_FAULTS], ids=[row[0] for row in MATRIX_FAULTS])
def test_matrix_faults(text: str, faults: list[tuple[str, str | None, str | None]]) -> None:
    """[TOPOLOGY-MATRIX]"""

    def offset_of(part: str | None) -> int:
        return len(text.encode()) if part is None else len(text[: text.index(part)].encode())

    wrong = [expected(code, offset_of(part), path) for code, path, part in faults]
    found = check_device_file(text.encode())
    assert found[:3] == (None, False, False)
    assert [rejected(fault) for fault in found.faults] == wrong
    assert verdict(parse_device_file, text.encode()) == wrong[0]


@pytest.mark.parametrize(
    ("matrix", "code", "path"),
    [
        ((), "topology-size", None),
        (((None,),), "topology-size", None),
        (None, "topology-not-array", None),
        (((None, "a"), "ab"), "topology-not-array", "[1]"),
        (((None, "a", "a"), ("a", None)), "topology-row", "[0]"),
        (((None, None), (None, None)), "topology-incomplete", "[0][1]"),
        (((None, ""), ("a", None)), "topology-name", "[0][1]"),
        ((("a", "a"), ("a", None)), "topology-diagonal", "[0][0]"),
        (((None, 5), ("a", None)), "topology-entry", "[0][1]"),
        (((None, 5.5), ("a", None)), "topology-entry", "[0][1]"),
        (((None, b"a"), ("a", None)), "topology-entry", "[0][1]"),
        (((None, False), ("a", None)), "topology-entry", "[0][1]"),
        (((None, {}), ("a", None)), "topology-entry", "[0][1]"),
        (((None, "\ud800"), ("a", None)), "topology-name", "[0][1]"),
        (({"interface": "en5", "ip": "1.2.3.4", "rank": 0}, ()), "topology-rank-entries", "[0]"),
    ],
)
def test_python_matrix_not_written(matrix: Any, code: str, path: str | None) -> None:
    wrong = expected(code, None, path)
    assert verdict(format_device_file, matrix) == wrong
    assert rejected(check_device_matrix(matrix).faults[0]) == wrong


def test_rank_has_to_be_one_of_the_files() -> None:
    data = format_device_file(mesh(3))
    for rank in range(3):
        assert check_device_file(data, rank=rank).matrix == mesh(3)
    for rank in (-1, 3, 8):
        found = check_device_file(data, rank=rank)
        assert found[:3] == (None, False, False)
        assert [rejected(fault) for fault in found.faults] == [expected("topology-rank", None)]
    (fault,) = check_device_file(b"[]", rank=9).faults
    assert fault.code == "topology-size"


@pytest.mark.parametrize(
    ("text", "word"), [("[[null,1],[2,null]]", "ibv|name"), ('[[null,""],["",null]]', "ibv_devices")]
)
def test_message_says_what_to_do(text: str, word: str) -> None:
    for fault in check_device_file(text.encode()).faults:
        assert any(part in str(fault) for part in word.split("|"))


def test_rank_entries_are_recognised_with_what_to_write() -> None:
    entries = [RankEntry("bridge100", f"169.254.1.{rank + 1}", rank) for rank in range(2)]
    (fault,) = check_device_file(format_rank_entries(entries)).faults
    assert '[[null,"rdma_en5"],["rdma_en4",null]]' in fault.detail
    assert "ibv_devices" in fault.detail


# -- JSON, the same for each file --------------------------------------------------------------------------------------


@EVERY_PARSER
@pytest.mark.parametrize(
    ("data", "code", "offset"),
    [
        (b"", "truncated", 0),
        (b" \n", "truncated", 2),
        (b"[[", "truncated", 2),
        (b'[[null,"rdma', "truncated", 12),
        (b"\xef\xbb\xbf\xef\xbb\xbf[]", "json-bom", 3),
        (b"\xef\xbb\xbf", "truncated", 3),
        (b"\xef\xbb\xbf[[", "truncated", 5),
        (b"\xef\xbb[]", "json-syntax", 0),
        (b"\xef\xbb\xbf[] x", "trailing-data", 6),
        (b'[["\xff"]]', "json-utf8", 3),
        (b'[["\xc3', "truncated", 4),
        ("[]".encode("utf-16"), "json-syntax", 0),
        ("[]".encode("utf-16-le"), "json-syntax", 1),
        (b'[["\n"]]', "json-control-character", 3),
        (b'[["\\x"]]', "json-escape", 3),
        (b'[["\\ud800"]]', "json-surrogate", 3),
        (b"[[null,]]", "json-syntax", 7),
        (b"[[nul]]", "json-syntax", 5),
        (b"[[NaN]]", "json-syntax", 2),
        (b"[] []", "trailing-data", 3),
        (b"[],", "trailing-data", 2),
        (b'[{"a":1,"\\u0061":2}]', "json-duplicate-key", 8),
        (b"[" * 100_000, "topology-limit", MAX_FILE),
        (b"[" * 600, "json-nesting", 512),
        (b"[" + b'{"a":' * 600, "json-nesting", 1 + 5 * 511),
        (b" " * MAX_FILE + b"[]", "topology-limit", MAX_FILE),
        (b" " * MAX_FILE, "truncated", MAX_FILE),
    ],
)
def test_json(data: bytes, code: str, offset: int, parse: Callable[[bytes], Any]) -> None:
    """[TOPOLOGY-FILE]"""
    wrong = expected(code, offset)
    assert verdict(parse, data) == wrong
    if parse is parse_device_file:
        assert [rejected(fault) for fault in check_device_file(data).faults] == [wrong]


def test_a_file_of_just_the_limit() -> None:
    data = format_device_file(TWO)
    assert parse_device_file(data.ljust(MAX_FILE)) == TWO
    assert verdict(parse_device_file, data.ljust(MAX_FILE + 1)) == expected("topology-limit", MAX_FILE)


# -- rank entries ------------------------------------------------------------------------------------------------------

ENTRIES = (RankEntry("bridge100", "169.254.1.1", 0), RankEntry("bridge100", "169.254.1.2", 1))
ENTRIES_FILE = b"""[
  {
    "interface" : "bridge100",
    "ip" : "169.254.1.1",
    "rank" : 0
  },
  {
    "interface" : "bridge100",
    "ip" : "169.254.1.2",
    "rank" : 1
  }
]"""


def test_rank_entries_are_the_reference_peers_bytes() -> None:
    """[TOPOLOGY-RANK-ENTRIES]"""
    assert format_rank_entries(ENTRIES) == ENTRIES_FILE
    assert parse_rank_entries(ENTRIES_FILE) == ENTRIES


def test_slash_in_rank_entries() -> None:
    entries = [entry._replace(interface="a/b\\/") for entry in ENTRIES]
    data = format_rank_entries(entries)
    assert rb'"a\/b\\\/"' in data
    assert parse_rank_entries(data) == tuple(entries)


def test_rank_entries_in_other_spellings() -> None:
    data = b'[{"rank":0,"x":[{}],"ip":"10.0.0.1","interface":"en0"},{"ip":"10.0.0.1","interface":"en0","rank":1}] '
    assert parse_rank_entries(data) == (RankEntry("en0", "10.0.0.1", 0), RankEntry("en0", "10.0.0.1", 1))


UNSPECIFIED = "0.0.0.0"  # noqa: S104 - to be refused
FIRST = '{"interface":"b","ip":"10.0.0.1","rank":0}'


@pytest.mark.parametrize(
    ("text", "code", "path", "part"),
    [
        ("{}", "topology-not-array", None, "{"),
        ("[]", "topology-size", None, "["),
        (f"[{FIRST}]", "topology-size", None, "["),
        (f"[{','.join([FIRST] * 65)}]", "topology-size", None, "["),
        (f"[{FIRST},null]", "topology-entry", "[1]", "null"),
        ('[[null,"a"],["a",null]]', "topology-entry", "[0]", "[null"),
        (f'[{FIRST},{{"ip":"10.0.0.2","rank":1}}]', "field-missing", "[1]", '{"ip"'),
        (f"[{FIRST},{{}}]", "field-missing", "[1]", "{}"),
        (f'[{FIRST},{{"interface":1,"ip":"10.0.0.2","rank":1}}]', "field-type", "[1].interface", "1,"),
        (f'[{FIRST},{{"interface":"b","ip":null,"rank":1}}]', "field-type", "[1].ip", "null"),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":"1"}}]', "field-type", "[1].rank", '"1"'),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":true}}]', "field-type", "[1].rank", "true"),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":1.0}}]', "field-type", "[1].rank", "1.0"),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":{"1" * 99}}}]', "field-type", "[1].rank", "11"),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":2}}]', "topology-rank", "[1].rank", "2}"),
        (f"[{FIRST},{FIRST}]", "topology-rank", "[1].rank", "0}]"),
        (f'[{FIRST},{{"interface":"b","ip":"10.0.0.2","rank":-1}}]', "topology-rank", "[1].rank", "-1"),
        (f'[{FIRST},{{"interface":"","ip":"10.0.0.2","rank":1}}]', "topology-name", "[1].interface", '""'),
        (f'[{FIRST},{{"interface":"b b","ip":"10.0.0.2","rank":1}}]', "topology-name", "[1].interface", '"b b'),
        *(
            (f'[{FIRST},{{"interface":"b","ip":"{ip}","rank":1}}]', "topology-address", "[1].ip", f'"{ip}"')
            for ip in ("", "mac.local", "10.0.0", "10.0.0.256", "10.0.0.01", "224.0.0.1", "::1", " 10.0.0.1")
        ),
        (f'[{FIRST},{{"interface":"b","ip":"255.255.255.255","rank":1}}]', "topology-address", "[1].ip", '"255'),
        (f'[{FIRST},{{"interface":"b","ip":"{UNSPECIFIED}","rank":1}}]', "topology-address", "[1].ip", '"0'),
    ],
)
def test_rank_entries_refused(text: str, code: str, path: str | None, part: str) -> None:
    """[TOPOLOGY-RANK-ENTRIES]"""
    assert verdict(parse_rank_entries, text.encode()) == expected(code, text.index(part), path)


@pytest.mark.parametrize(
    ("entries", "code", "path"),
    [
        (ENTRIES[:1], "topology-size", None),
        (ENTRIES[::-1], "topology-rank", "[0].rank"),
        ((ENTRIES[0], RankEntry("b", "mac.local", 1)), "topology-address", "[1].ip"),
        ((ENTRIES[0], RankEntry("\n", "10.0.0.1", 1)), "topology-name", "[1].interface"),
        ((ENTRIES[0], RankEntry("b", "10.0.0.1", True)), "field-type", "[1].rank"),
    ],
)
def test_rank_entries_not_written(entries: tuple[RankEntry, ...], code: str, path: str | None) -> None:
    assert verdict(format_rank_entries, entries) == expected(code, None, path)


# -- ring hostfile -----------------------------------------------------------------------------------------------------

HOSTS: RingHosts = ((("169.254.1.1", 29400), ("169.254.2.1", 1)), (("169.254.1.2", 65535),))


def test_ring_hostfile() -> None:
    """[TOPOLOGY-RING]"""
    data = b'[["169.254.1.1:29400","169.254.2.1:1"],["169.254.1.2:65535"]]'
    assert format_ring_hostfile(HOSTS) == data
    assert parse_ring_hostfile(data) == HOSTS
    many: RingHosts = tuple((("127.0.0.1", 30000 + rank),) for rank in range(100))
    assert parse_ring_hostfile(format_ring_hostfile(many)) == many


def hosts_with(address: str) -> str:
    return f'[["10.0.0.1:7"],["{address}"]]'


@pytest.mark.parametrize(
    ("text", "code", "path", "part"),
    [
        ('{"hosts":[]}', "topology-not-array", None, "{"),
        ("[]", "topology-size", None, "["),
        ('[["10.0.0.1:7"]]', "topology-size", None, "["),
        ('["10.0.0.1:7","10.0.0.2:7"]', "topology-not-array", "[0]", '"'),
        ('[["10.0.0.1:7"],[]]', "topology-row", "[1]", "[]"),
        ('[["10.0.0.1:7"],[7]]', "topology-entry", "[1][0]", "7]]"),
        ('[["10.0.0.1:7",null],["10.0.0.2:7"]]', "topology-entry", "[0][1]", "null"),
        ('[["10.0.0.1:7"],[["10.0.0.2:7"]]]', "topology-entry", "[1][0]", '["10.0.0.2'),
        ('[["10.0.0.1:7","10.0.0.1:7"],["10.0.0.2:7"]]', "topology-duplicate", "[0][1]", '"10.0.0.1:7"],'),
        (hosts_with("10.0.0.1:7"), "topology-duplicate", "[1][0]", '"10.0.0.1:7"]]'),
        *(
            (hosts_with(address), "topology-address", "[1][0]", f'"{address}"')
            for address in (
                *("", ":", "10.0.0.2", "10.0.0.2:", ":7", "mac.local:7", "10.0.0:7", "[::1]:7", f"{UNSPECIFIED}:7"),
                *("10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2:07", "10.0.0.2:+7", "10.0.0.2:7 ", "10.0.0.2:99999"),
                *("10.0.0.2:7:7", "10.0.0.2:1e3", "10.0.0.2:100000", "10.0.0.02:7"),
            )
        ),
    ],
)
def test_ring_hostfile_refused(text: str, code: str, path: str | None, part: str) -> None:
    """[TOPOLOGY-RING]"""
    assert verdict(parse_ring_hostfile, text.encode()) == expected(code, text.index(part), path)


@pytest.mark.parametrize(
    ("hosts", "code", "path"),
    [
        (HOSTS[:1], "topology-size", None),
        ((*HOSTS, ()), "topology-row", "[2]"),
        ((*HOSTS, HOSTS[1]), "topology-duplicate", "[2][0]"),
        ((*HOSTS, (("10.0.0.1", 0),)), "topology-address", "[2][0]"),
        ((*HOSTS, (("10.0.0.1", True),)), "topology-address", "[2][0]"),
        ((*HOSTS, (("mac.local", 7),)), "topology-address", "[2][0]"),
    ],
)
def test_ring_hostfile_not_written(hosts: RingHosts, code: str, path: str | None) -> None:
    assert verdict(format_ring_hostfile, hosts) == expected(code, None, path)


# -- properties --------------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c", "rdma_en5", "", " "])
entries = st.one_of(st.none(), names, st.lists(names, max_size=3).map(tuple), st.integers(0, 2), st.booleans())
matrices = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(entries, min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(matrix=matrices)
def test_a_file_and_its_matrix_have_one_verdict(matrix: Any) -> None:
    of_file = check_device_file(json.dumps(matrix).encode())
    of_matrix = check_device_matrix(matrix)
    assert of_file[:3] == of_matrix[:3]
    assert [(fault.code, fault.path) for fault in of_file.faults] == [
        (fault.code, fault.path) for fault in of_matrix.faults
    ]


def is_mesh(matrix: Any) -> bool:
    return all((entry is None) == (r == c) for r, row in enumerate(matrix) for c, entry in enumerate(row))


def min_wires(matrix: Any) -> int:
    names = [entry for row in matrix for entry in row if entry is not None]
    return min(1 if isinstance(each, str) else len(each) for each in names)


@given(matrix=matrices)
def test_verdict_is_whole(matrix: Any) -> None:
    """Faults, or a mesh or a ring; a valid file survives a round trip."""
    found = check_device_matrix(matrix)
    assert bool(found.faults) != (found.mesh or found.ring)
    assert (found.matrix is None) == bool(found.faults)
    assert found.wires == (min_wires(matrix) if found.mesh else 0)
    if found.matrix is not None:
        assert found.mesh == is_mesh(matrix)
        assert parse_device_file(format_device_file(found.matrix)) == found.matrix


words = st.sampled_from(
    [b"[", b"]", b",", b"null", b'"a"', b'"10.0.0.1:7"', b"{", b"}", b'"rank":', b"1", b"true", b" "]
)


@EVERY_PARSER
@given(data=st.one_of(st.binary(max_size=30), st.lists(words, max_size=20).map(b"".join)))
def test_only_wire_errors_come_out(parse: Callable[[bytes], Any], data: bytes) -> None:
    outcome = verdict(parse, data)
    if not isinstance(outcome, Accepted):
        assert outcome.offset is not None
        assert 0 <= outcome.offset <= len(data)


@EVERY_PARSER
@pytest.mark.parametrize("name", ["matrix", "entries", "hosts"])
def test_every_truncation(parse: Callable[[bytes], Any], name: str) -> None:
    whole = {"matrix": format_device_file(mesh(3)), "entries": ENTRIES_FILE, "hosts": format_ring_hostfile(HOSTS)}[name]
    for length in range(len(whole)):
        assert verdict(parse, whole[:length]) == expected("truncated", length)
    with pytest.raises(WireError) as caught:
        parse(whole + b"x")
    assert (caught.value.code, caught.value.offset) == ("trailing-data", len(whole))
