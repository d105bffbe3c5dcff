"""Vectors of topology files."""

from collections.abc import Iterator
from typing import Any, Final

from tests.vectors.writing import BEYOND_LAYOUT, fault, file, marked
from wireproto.testing.vectors import DeviceFileTest, Group, Hex, VectorFile

_ABOUT = (
    "One topology file. A reader must accept it, and say of a device matrix whether it is a mesh, a ring or both, "
    "or must refuse it with `error`: the first fault in the file, with an offset from its start."
)
_LIMIT: Final = 65_536


def _valid(name: str, comment: str, form: Any, data: bytes, mesh: bool | None, ring: bool | None) -> DeviceFileTest:
    return DeviceFileTest(
        id=name,
        comment=comment,
        requirements=(_RULES[form],),
        result="valid",
        form=form,
        file=Hex(data),
        mesh=mesh,
        ring=ring,
    )


def _invalid(name: str, comment: str, form: Any, code: str, data: bytes, path: str | None = None) -> DeviceFileTest:
    clean, offset = marked(data)
    rule = "TOPOLOGY-FILE" if code.startswith(("json", "truncated", "trailing", "topology-limit")) else _RULES[form]
    return DeviceFileTest(
        id=name,
        comment=comment,
        requirements=(rule,),
        flags=(BEYOND_LAYOUT,),
        result="invalid",
        error=fault(code, offset, path),
        form=form,
        file=clean,
    )


_RULES: Final = {
    "device matrix": "TOPOLOGY-MATRIX",
    "rank entries": "TOPOLOGY-RANK-ENTRIES",
    "ring hostfile": "TOPOLOGY-RING",
}

# -- device matrix ----------------------------------------------------------------------------------------------------


def _mesh(size: int) -> bytes:
    """One device for each pair, named after the other rank."""
    rows = [[b"null" if r == c else b'"%d"' % c for c in range(size)] for r in range(size)]
    return b"[" + b",".join(b"[" + b",".join(row) + b"]" for row in rows) + b"]"


def _matrices() -> Iterator[DeviceFileTest]:
    for name, comment, data, mesh, ring in (
        ("two-ranks", "Two ranks, one cable", b'[[null,"rdma_en5"],["rdma_en4",null]]', True, True),
        ("same-name", "Names are per host: the same one may stand in two rows",
         b'[[null,"rdma_en5"],["rdma_en5",null]]', True, True),
        ("white-space", "JSON's white space", b'[ [ null , "a" ] ,\n\t[ "b" , null ] ]\r\n', True, True),
        ("two-cables", "Two devices for one pair", b'[[null,["a","b"]],[["c","d"],null]]', True, True),
        ("array-of-one", "One name, once in an array", b'[[null,["a"]],["b",null]]', True, True),
        ("four-cables", "As many devices as a ring may have",
         b'[[null,["a","b","c","d"]],[["a","b","c","d"],null]]', True, True),
        ("five-cables", "More devices than a ring may have: a mesh",
         b'[[null,["a","b","c","d","e"]],[["a","b","c","d","e"],null]]', True, False),
        ("uneven-ends", "Two devices at one end, one at the other: a mesh of one connection",
         b'[[null,["a","b"]],["a",null]]', True, False),
        ("bom-skipped", "A byte-order mark, which JACCL skips", b'\xef\xbb\xbf[[null,"a"],["b",null]]', True, True),
        ("mesh-of-9", "Every device of nine ranks: more than a mesh may have, and a ring", _mesh(9), False, True),
        ("mesh-of-3", "Three ranks, each with each: a ring, too",
         b'[[null,"a","b"],["a",null,"b"],["a","b",null]]', True, True),
        ("ring-of-4", "Four ranks in a ring", b'[[null,"a",null,"b"],["a",null,"b",null],'
         b'[null,"a",null,"b"],["a",null,"b",null]]', False, True),
        ("mesh-not-ring", "More devices between two ranks than between others",
         b'[[null,["a","c"],"b"],[["a","c"],null,"b"],["a","b",null]]', True, False),
        ("escapes", "A name in escapes", b'[[null,"\\u0072dma_en5"],["a\\/b",null]]', True, True),
        ("longest-name", "A name of 63 characters", b'[[null,"' + b"a" * 63 + b'"],["b",null]]', True, True),
    ):  # fmt: skip
        yield _valid(name, comment, "device matrix", data, mesh, ring)
    for name, comment, code, data, path in (
        ("empty", "An empty file", "truncated", b"^", None),
        ("cut", "Cut short", "truncated", b'[[null,"a"],["b",null]^', None),
        ("path-not-file", "A path, not JSON", "json-syntax", b"^/tmp/devices.json", None),
        ("two-boms", "Two byte-order marks", "json-bom", b'\xef\xbb\xbf^\xef\xbb\xbf[[null,"a"],["b",null]]', None),
        ("behind", "A second text after it", "trailing-data", b'[[null,"a"],["b",null]]^[]', None),
        ("comma-last", "A comma at the end", "json-syntax", b'[[null,"a"],["b",null],^]', None),
        ("object", "An object", "topology-not-array", b"^{}", None),
        ("string", "A string", "topology-not-array", b'^"rdma_en5"', None),
        ("number-file", "A number: the first byte tells that it is no array", "topology-not-array", b"^7", None),
        ("object-cut", "An object that is cut short", "topology-not-array", b' ^{"hosts":[', None),
        ("rank-entries", "The reference peer's file, which JACCL does not take", "topology-rank-entries",
         b'[^{"interface":"bridge100","ip":"169.254.1.1","rank":0},'
         b'{"interface":"bridge100","ip":"169.254.1.2","rank":1}]', "[0]"),
        ("no-rows", "No rows", "topology-size", b"^[]", None),
        ("one-rank", "One rank", "topology-size", b"^[[null]]", None),
        ("nine-ranks-uneven", "Nine ranks, no ring: JACCL forms no mesh of more than eight", "topology-incomplete",
         _mesh(9).replace(b'"1"', b'["x","y"]', 1).replace(b'["0",null,"2"', b'["0",null,^"2"'), "[1][2]"),
        ("sixty-five-ranks", "More ranks than a group may have", "topology-size", b"^[" + _mesh(65)[1:], None),
        ("row-object", "A row that is an object", "topology-not-array", b'[[null,"a"],^{"b":null}]', "[1]"),
        ("row-short", "A row that is too short", "topology-row", b'[[null,"a"],^["b"]]', "[1]"),
        ("row-long", "A row that is too long", "topology-row", b'[^[null,"a","c"],["b",null]]', "[0]"),
        ("diagonal", "A device towards itself", "topology-diagonal", b'[[^"x","a"],["b",null]]', "[0][0]"),
        ("number", "A number", "topology-entry", b'[[null,^5],["b",null]]', "[0][1]"),
        ("boolean", "A boolean", "topology-entry", b'[[null,"a"],[^true,null]]', "[1][0]"),
        ("entry-object", "An object", "topology-entry", b'[[null,^{"name":"a"}],["b",null]]', "[0][1]"),
        ("no-names", "An empty array", "topology-names", b'[[null,^[]],["b",null]]', "[0][1]"),
        ("five-names-in-ring", "Five devices for each neighbour in a ring of four", "topology-incomplete",
         b"[[null,^A,null,B],[A,null,B,null],[null,A,null,B],[A,null,B,null]]"
         .replace(b"A", b'["a","b","c","d","e"]').replace(b"B", b'["f","g","h","i","j"]'), "[0][1]"),
        ("null-in-array", "null among the names", "topology-entry",
         b'[[null,["a",^null]],[["b","c"],null]]', "[0][1][1]"),
        ("empty-name", "An empty name: native JACCL takes it, and crashes", "topology-name",
         b'[[null,^""],["b",null]]', "[0][1]"),
        ("space-in-name", "A space in a name", "topology-name", b'[[null,^"rdma en5"],["b",null]]', "[0][1]"),
        ("long-name", "A name of 64 characters", "topology-name",
         b'[[null,^"' + b"a" * 64 + b'"],["b",null]]', "[0][1]"),
        ("non-ascii-name", "A name that is not ASCII", "topology-name",
         b'[[null,^"rdm\xc3\xa4"],["b",null]]', "[0][1]"),
        ("name-twice", "One port towards two ranks", "topology-duplicate",
         b'[[null,"a",^"a"],["a",null,"b"],["a","b",null]]', "[0][2]"),
        ("name-twice-in-array", "One port twice towards one rank", "topology-duplicate",
         b'[[null,["a",^"a"]],[["b","c"],null]]', "[0][1][1]"),
        ("one-sided", "A link with one end", "topology-one-sided", b'[[null,"a"],[^null,null]]', "[1][0]"),
        ("uneven-ring", "Two devices between two ranks of a ring, one between the others", "topology-incomplete",
         b'[[null,["a","c"],null,"b"],[["a","c"],null,^"b",null],[null,"a",null,"b"],["a",null,"b",null]]', "[1][2]"),
        ("all-null", "Every entry null: native JACCL calls it a ring, and crashes", "topology-incomplete",
         b"[[null,^null],[null,null]]", "[0][1]"),
        ("chain", "Three ranks in a row: neither mesh nor ring", "topology-incomplete",
         b'[[null,"a",null],["a",null,"b"],[^null,"b",null]]', "[2][0]"),
        ("nested", "An array in the array of names", "topology-entry", b'[[null,[^["a"]]],["b",null]]', "[0][1][0]"),
        ("nesting-513", "One level too deep", "json-nesting", b"[" * 512 + b"^[" + b"]" * 513, None),
        ("too-long", "A byte more than a file may have", "topology-limit",
         b'[[null,"a"],["b",null]]'.ljust(_LIMIT) + b"^ ", None),
    ):  # fmt: skip
        yield _invalid(name, comment, "device matrix", code, data, path)


# -- rank entries, ring hostfile --------------------------------------------------------------------------------------

_PRETTY: Final = b"""[
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


def _entries(second: bytes) -> bytes:
    return b'[{"interface":"bridge100","ip":"169.254.1.1","rank":0},' + second + b"]"


def _rank_entries() -> Iterator[DeviceFileTest]:
    form = "rank entries"
    yield _valid("entries", "Byte for byte as the reference peer writes it", form, _PRETTY, None, None)
    compact = _entries(b'{"rank":1,"ip":"10.0.0.2","interface":"en5"}')
    yield _valid("entries-compact", "Keys in another order, no white space", form, compact, None, None)
    more = _entries(b'{"rank":1,"ip":"10.0.0.2","interface":"en5","note":[1]}')
    yield _valid("entries-unknown-key", "An unknown key", form, more, None, None)
    for name, comment, code, second, path in (
        ("no-ip", "No address", "field-missing", b'^{"interface":"en5","rank":1}', "[1]"),
        (
            "rank-string",
            "A rank in quotes",
            "field-type",
            b'{"interface":"en5","ip":"10.0.0.2","rank":^"1"}',
            "[1].rank",
        ),
        ("rank-twice", "Rank 0 twice", "topology-rank", b'{"interface":"en5","ip":"10.0.0.2","rank":^0}', "[1].rank"),
        ("ip-name", "A host name", "topology-address", b'{"interface":"en5","ip":^"mac-2.local","rank":1}', "[1].ip"),
        (
            "ip-any",
            "The address 0.0.0.0",
            "topology-address",
            b'{"interface":"en5","ip":^"0.0.0.0","rank":1}',
            "[1].ip",
        ),
        ("ip-v6", "IPv6", "topology-address", b'{"interface":"en5","ip":^"fe80::1","rank":1}', "[1].ip"),
        (
            "key-twice",
            "A key twice",
            "json-duplicate-key",
            b'{"interface":"en5","ip":"10.0.0.2",^"ip":"10.0.0.3"}',
            None,
        ),
        ("not-object", "A string", "topology-entry", b'^"169.254.1.2"', "[1]"),
    ):
        yield _invalid(f"entries-{name}", comment, form, code, _entries(second), path)


def _hostfiles() -> Iterator[DeviceFileTest]:
    form = "ring hostfile"
    yield _valid("ring", "Two ranks", form, b'[["169.254.1.1:29400"],["169.254.1.2:29401"]]', None, None)
    several = b'[["10.0.0.1:1","10.0.0.1:2"],["10.0.0.2:65535"]]'
    yield _valid("ring-several", "Several addresses of a rank, and the greatest port", form, several, None, None)
    nine = b"[" + b",".join(b'["127.0.0.1:%d"]' % port for port in range(1, 10)) + b"]"
    yield _valid("ring-of-9", "A ring may have more ranks than JACCL", form, nine, None, None)
    for name, comment, code, data, path in (
        ("one-rank", "One rank", "topology-size", b'^[["10.0.0.1:1"]]', None),
        ("no-port", "No port: MLX calls it an error", "topology-address", b'[["10.0.0.1:1"],[^"10.0.0.2"]]', "[1][0]"),
        ("port-0", "Port 0", "topology-address", b'[["10.0.0.1:1"],[^"10.0.0.2:0"]]', "[1][0]"),
        ("port-65536", "A port that there is not: MLX takes it modulo 65536", "topology-address",
         b'[["10.0.0.1:1"],[^"10.0.0.2:65536"]]', "[1][0]"),
        ("port-zero-first", "A zero in front of the port", "topology-address",
         b'[["10.0.0.1:1"],[^"10.0.0.2:01"]]', "[1][0]"),
        ("ipv6", "IPv6", "topology-address", b'[["10.0.0.1:1"],[^"[::1]:29400"]]', "[1][0]"),
        ("name", "A host name", "topology-address", b'[["10.0.0.1:1"],[^"mac-2.local:29400"]]', "[1][0]"),
        ("twice", "One address for two ranks", "topology-duplicate", b'[["10.0.0.1:1"],[^"10.0.0.1:1"]]', "[1][0]"),
        ("no-address", "A rank without an address", "topology-row", b'[["10.0.0.1:1"],^[]]', "[1]"),
        ("flat", "Strings where rows belong", "topology-not-array", b'[^"10.0.0.1:1","10.0.0.2:1"]', "[0]"),
        ("number", "A number", "topology-entry", b'[["10.0.0.1:1"],[^29400]]', "[1][0]"),
    ):  # fmt: skip
        yield _invalid(f"ring-{name}", comment, form, code, data, path)


def make() -> VectorFile[Any]:
    return file(
        DeviceFileTest,
        _ABOUT,
        (
            Group(name="device matrix", about="The file that JACCL reads.", tests=tuple(_matrices())),
            Group(name="rank entries", about="The reference peer's file.", tests=tuple(_rank_entries())),
            Group(name="ring hostfile", about="The file that MLX's ring reads.", tests=tuple(_hostfiles())),
        ),
    )
