"""mlx.launch's hostfile: the used parts, and refusals."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import ConfigError, TopologyWriteError, hostfile
from bootstrap.hostfile import MAX_FILE, Hostfile, parse_hostfile, read_hostfile

A, B, C = "169.254.1.1", "169.254.1.2", "169.254.1.3"
TWO = [{"ssh": "a.local", "ips": [A]}, {"ssh": "b.local", "ips": [B]}]


NAMES = {"a.local": A, "b.local": B, "c_3": C, "localhost": "127.0.0.1", "self": "127.0.1.1"}


def resolve(name: str) -> str:
    if name not in NAMES:
        raise OSError("no such name")
    return NAMES[name]


def parse(content: Any) -> Hostfile:
    return parse_hostfile(json.dumps(content).encode(), resolve)


def hosts(*ips: list[str]) -> Hostfile:
    return parse([{"ips": each} for each in ips])


def refused(data: bytes) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_hostfile(data, resolve)
    return caught.value.code, str(caught.value)


# -- taken -------------------------------------------------------------------------------------------------------------


def test_the_bare_array_of_hosts() -> None:
    assert parse(TWO) == Hostfile(ips=(A, B), all_ips=((A,), (B,)), devices=None, backend="auto")


@pytest.mark.parametrize("backend", ["auto", "jaccl", "ring"])
def test_the_object_with_a_backend(backend: str) -> None:
    assert parse({"backend": backend, "hosts": TWO}).backend == backend


def test_what_mlx_launch_needs_besides_is_left_alone() -> None:
    more = {"cwd": "/tmp", "python": None, "x": {"y": [1e300, -0.5]}}
    found = parse({"backend": "jaccl", "hosts": [{**host, **more} for host in TWO], **more})
    assert found == parse({"backend": "jaccl", "hosts": TWO})


def test_the_first_address_is_the_one_of_the_link() -> None:
    found = hosts([A, "10.0.0.1"], [B])
    assert found.ips == (A, B)
    assert found.all_ips == ((A, "10.0.0.1"), (B,))


@pytest.mark.parametrize("without", [{}, {"ips": []}])
def test_ssh_is_the_address_where_it_is_one(without: dict[str, object]) -> None:
    assert parse([{"ssh": A, **without}, {"ssh": B, "ips": [C]}]).ips == (A, C)


def test_rdma_rows_are_the_device_matrix() -> None:
    rows = [[None, "rdma_en5"], ["rdma_en4", None]]
    found = parse([{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)])
    assert found.devices == ((None, "rdma_en5"), ("rdma_en4", None))


def test_several_devices_towards_one_rank() -> None:
    rows = [[None, ["rdma_en5", "rdma_en6"]], [["rdma_en4", "rdma_en3"], None]]
    found = parse([{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)])
    assert found.devices == ((None, ("rdma_en5", "rdma_en6")), (("rdma_en4", "rdma_en3"), None))


@pytest.mark.parametrize("count", [2, 8, 9, 64])
def test_as_many_hosts_as_can_form_a_group(count: int) -> None:
    ips = tuple(f"10.0.0.{last}" for last in range(1, count + 1))
    assert hosts(*([ip] for ip in ips)).ips == ips


def test_a_file_of_the_greatest_length() -> None:
    data = json.dumps(TWO).encode()
    assert parse_hostfile(data + b" " * (MAX_FILE - len(data))).ips == (A, B)


@pytest.mark.parametrize(
    "host",
    [{"ssh": "b.local"}, {"ssh": "me@b.local", "ips": []}, {"ssh": f"me@{B}", "ips": None}, {"ips": ["b.local"]}],
)
def test_a_name_is_resolved_where_there_is_no_address(host: dict[str, object]) -> None:
    assert parse([TWO[0], host]).ips == (A, B)


def test_a_name_with_an_address_is_not_looked_up() -> None:
    assert parse([{"ssh": "gone", "ips": [A]}, {"ssh": "me@gone", "ips": [B]}]).ips == (A, B)


@pytest.mark.parametrize("backend", ["", None])
def test_a_backend_that_is_not_set(backend: str | None) -> None:
    found = parse({"backend": backend, "hosts": TWO})
    assert (found.backend, found.backend_for("auto"), found.backend_for("jaccl")) == ("auto", "ring", "jaccl")


ROWS = [[None, "rdma_en5"], ["rdma_en4", None]]


@pytest.mark.parametrize(
    ("content", "ring"),
    [
        ({"backend": "jaccl-ring"}, True),
        ({"backend": "jaccl", "envs": ["MLX_JACCL_RING=1"]}, True),
        ({"backend": "jaccl", "envs": ["JACCL_RING=0"]}, True),  # JACCL checks only whether it is set
        ({"backend": "jaccl"}, False),
    ],
)
def test_jaccl_ring_is_jaccl_with_a_ring(content: dict[str, object], ring: bool) -> None:
    found = parse({**content, "hosts": [{**host, "rdma": row} for host, row in zip(TWO, ROWS, strict=True)]})
    assert (found.backend, found.jaccl_ring) == ("jaccl", ring)
    assert found.devices is not None


def test_jaccl_ring_with_unequal_devices_is_left_to_mlx_which_makes_a_mesh() -> None:
    rows: list[Any] = [[None, ["1", "2", "3", "4", "5"]], ["a", None]]
    hosts = [{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)]
    assert parse({"backend": "jaccl-ring", "hosts": hosts}).jaccl_ring


@pytest.mark.parametrize("rows", [[[], []], [None, []], [[], None], [None, None]])
def test_empty_rdma_rows_name_no_devices(rows: list[object]) -> None:
    assert parse([{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)]).devices is None


@pytest.mark.parametrize("rows", [[["x"], []], [[None, ""], None], [[5], {"a": 1}]])
def test_ring_reads_no_rdma_rows(rows: list[object]) -> None:
    hosts = [{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)]
    assert parse({"backend": "ring", "hosts": hosts}).devices is None


def test_envs_are_read_as_mlx_launch_reads_them() -> None:
    envs = ["A=1", "B", "C=", "D=x=y z", "A=2", "e-f=1", "=1", "9=9", "g h=1"]
    found = parse({"envs": envs, "hosts": TWO})
    assert found.envs == (("A", "2"), ("B", ""), ("C", ""), ("D", "x=y z"))
    assert found.ignored_envs == ("e-f=1", "=1", "9=9", "g h=1")


def test_what_is_ignored_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"envs": ["A-B=1"], "hosts": TWO}))
    read_hostfile(path)
    assert caplog.messages == [f"{path}: ignored 'A-B=1' in `envs`, which is not a variable"]


def test_names_on_loopback_alone_are_one_host() -> None:
    assert parse([{"ssh": "localhost"}, {"ssh": "self"}]).ips == ("127.0.0.1", "127.0.1.1")


def test_the_own_name_on_loopback_is_no_address() -> None:
    """On Debian a host's own name has 127.0.1.1, where no other host can connect."""
    with pytest.raises(ConfigError, match="'self' is the loopback address") as caught:
        parse([TWO[0], {"ssh": "self"}])
    assert caught.value.code == "bad-hostfile"


def test_a_name_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(hostfile, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [("", "", "", "", ("10.0.0.1",))] * hangs.wait())
    try:
        with pytest.raises(ConfigError, match=r"'slow' has no IPv4 address \(no answer within 0\.05 s\)"):
            parse_hostfile(json.dumps([TWO[0], {"ssh": "slow"}]).encode())
    finally:
        hangs.set()


def test_a_real_name() -> None:
    assert hostfile.resolve_name("localhost") == "127.0.0.1"
    with pytest.raises(OSError, match=r".+"):
        hostfile.resolve_name("no-such-name.invalid")


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it cannot be read: truncated at byte 0"),
        (b'[{"ips":["169.254.1.1"]}', "it cannot be read: truncated at byte 24"),
        (b"{ not json", "it cannot be read: json-syntax at byte 2"),
        (b"[] []", "it cannot be read: trailing-data at byte 3"),
        (b"\xef\xbb\xbf[]", "it cannot be read: json-bom at byte 0"),
        (json.dumps(TWO).encode("utf-16"), "it cannot be read: json-syntax at byte 0"),
        (b'["\xff"]', "it cannot be read: json-utf8 at byte 2"),
        (b'["\\ud800"]', "it cannot be read: json-surrogate at byte 2"),
        (b'{"backend":NaN}', "it cannot be read: json-syntax at byte 11"),
        (b'{"x":Infinity}', "it cannot be read: json-syntax at byte 5"),
        (b'{"x":' + b"9" * 5000 + b"}", "it cannot be read: Exceeds the limit"),
        (b"[" * 20_000, "it cannot be read: json-nesting at byte 512"),
        (b'{"hosts":[],"hosts":[]}', "it cannot be read: json-duplicate-key at byte 12"),
        (b'[{"ips":[],"ip\\u0073":[]}]', "it cannot be read: json-duplicate-key at byte 11"),
        (b" " * (MAX_FILE + 1), "it has more than 1048576 bytes"),
        (b"true", "the hosts must be an array"),
        (b"null", "the hosts must be an array"),
        (b"{}", "the hosts must be an array"),
        (b'{"hosts":{"0":{}}}', "the hosts must be an array"),
        (b'{"backend":7,"hosts":[]}', "`backend` must be a string"),
        (b'{"backend":["ring"],"hosts":[]}', "`backend` must be a string"),
        (b'["169.254.1.1","169.254.1.2"]', "host 0 must be an object"),
        (b'[{"ips":["169.254.1.1"]},null]', "host 1 must be an object"),
        (b'[{"ips":"169.254.1.1"},{}]', "`ips` of host 0 must be an array"),
        (b'[{"ips":{"a":1},"ssh":"169.254.1.1"},{}]', "`ips` of host 0 must be an array"),
        (b'[{"ips":["169.254.1.1"]},{"ips":[]}]', "host 1 has no `ips`"),
        (b'[{"ssh":"a.local"},{}]', "host 1 has no `ips`"),
        (b'[{"ssh":2851995905},{}]', "host 0 has no `ips`"),
        (b'[{"ssh":"user@"},{}]', "host 0 has no `ips`, and '' is not a host name"),
        (b'[{"ssh":"::1"},{}]', "host 0 has no `ips`, and '::1' is not a host name"),
        (b'[{"ssh":"169.254.1"},{}]', "host 0 has no `ips`, and '169.254.1' is not a host name"),
        (b'[{"ssh":"gone","ips":null},{"ips":["10.0.0.2"]}]', "host 0 has no `ips`, and the name 'gone' has no IPv4"),
        (b'{"envs":"A=1","hosts":[{"ips":["10.0.0.1"]},{"ips":["10.0.0.2"]}]}', "`envs` must be an array of strings"),
        (b'{"envs":[1],"hosts":[{"ips":["10.0.0.1"]},{"ips":["10.0.0.2"]}]}', "`envs` must be an array of strings"),
        (b'{"envs":["A=\\u0000"],"hosts":[{},{}]}', "`envs`: the value of A has a NUL"),
    ],
)  # fmt: skip
def test_what_is_no_hostfile(data: bytes, text: str) -> None:
    code, said = refused(data)
    assert code == "bad-hostfile"
    assert said.startswith(text)


@pytest.mark.parametrize("count", [0, 1, 65])
def test_too_few_or_too_many_hosts(count: int) -> None:
    code, _ = refused(json.dumps([{"ips": [f"10.0.0.{last}"]} for last in range(1, count + 1)]).encode())
    assert code == "bad-ranks"


@pytest.mark.parametrize("ip", ["gone.local", "::1", "0.0.0.0", "169.254.1", "169.254.1.1:80", "", None, 7, [A]])  # noqa: S104
@pytest.mark.parametrize("place", [0, 1])
def test_an_address_that_is_none(ip: object, place: int) -> None:
    ips: list[object] = [B]
    ips.insert(place, ip)
    assert refused(json.dumps([{"ips": [A]}, {"ips": ips}]).encode())[0] == "bad-ip"


def test_two_hosts_with_one_address() -> None:
    assert refused(json.dumps([{"ips": [A]}, {"ips": [A, B]}]).encode()) == (
        "bad-hostfile",
        "two hosts have the same address; give each its own",
    )


def test_a_backend_that_is_unknown() -> None:
    assert refused(json.dumps({"backend": "mpi", "hosts": TWO}).encode())[0] == "bad-backend"


@pytest.mark.parametrize(
    ("rows", "code", "text"),
    [
        ([[None, "rdma_en5"], None], "bad-hostfile", "`rdma` of host 1 must be an array, as on the other hosts"),
        ([None, ["rdma_en4", None]], "bad-hostfile", "`rdma` of host 0 must be an array"),
        ([[None, "rdma_en5"], "rdma_en4"], "bad-hostfile", "`rdma` of host 1 must be an array"),
        ([[None, "rdma_en5"], [None, None]], "bad-devices", "topology-one-sided"),
        ([[None, None], [None, None]], "bad-devices", "topology-incomplete"),
        ([[None, ""], ["rdma_en4", None]], "bad-devices", "topology-name in [0][1]"),
        ([[None, 5], ["rdma_en4", None]], "bad-devices", "topology-entry in [0][1]"),
        ([[None, [None]], ["rdma_en4", None]], "bad-devices", "[0][1]"),
        ([[None, {"en5": 1}], ["rdma_en4", None]], "bad-devices", "topology-entry in [0][1]"),
        ([[None, "rdma_en5"], ["rdma_en4"]], "bad-devices", "topology-row in [1]"),
        ([[None, "rdma_en5", "rdma_en6"]] * 2, "bad-devices", "topology-row in [0]"),
    ],
)
def test_rdma_rows_that_cannot_be(rows: list[object], code: str, text: str) -> None:
    data = json.dumps([{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)]).encode()
    found, said = refused(data)
    assert found == code
    assert text in said


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([A, B, "ring"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["hosts", "backend", "ssh", "ips", "rdma", "x"]), inner, max_size=4)
    ),
)


@given(VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64))
def test_whatever_is_in_it(data: bytes) -> None:
    code, size = "", 0
    try:
        size = len(set(parse_hostfile(data, resolve).ips))
    except ConfigError as error:
        code = error.code
    assert 2 <= size <= 64 or code in {"bad-hostfile", "bad-ranks", "bad-ip", "bad-backend", "bad-devices"}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(TWO))
    assert read_hostfile(path).ips == (A, B)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert read_hostfile(link).ips == (A, B)


def test_the_file_is_named_in_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text('{"backend":"mpi","hosts":[{"ips":["10.0.0.1"]},{"ips":["10.0.0.2"]}]}')
    with pytest.raises(ConfigError) as caught:
        read_hostfile(path)
    assert caught.value.code == "bad-backend"
    assert str(caught.value).startswith(f"{path}: backend 'mpi' is unknown")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than 1048576 bytes") as caught:
        read_hostfile(path)
    assert caught.value.code == "bad-hostfile"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),  # nobody has it open to write, and nobody waits for that
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
    ids=["directory", "pipe", "device", "loop", "nothing"],
)
def test_a_file_that_cannot_be_read(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    make(path)
    with pytest.raises(ConfigError) as caught:
        read_hostfile(path)
    assert (caught.value.code, str(caught.value)) == ("bad-hostfile", f"cannot read the hostfile {path}: {reason}")


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("hosts.json")
        with pytest.raises(ConfigError, match="cannot read the hostfile") as caught:
            read_hostfile(Path("hosts.json"))
    assert caught.value.code == "bad-hostfile"


# -- whose rank it is --------------------------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses of this host."""
    own: set[str] = set()
    monkeypatch.setattr(hostfile, "holds", own.__contains__)
    return own


@pytest.mark.parametrize("ip", [B, "10.0.0.2"])
def test_the_own_rank_is_that_of_an_own_address(own: set[str], ip: str) -> None:
    own.add(ip)
    assert hosts([A], [B, "10.0.0.2"], [C]).own_rank() == 1


def test_no_address_is_an_own_one(own: set[str]) -> None:
    with pytest.raises(ConfigError, match="no rank has an address of this host in the hostfile; give --rank") as caught:
        hosts([A], [B]).own_rank()
    assert caught.value.code == "bad-rank"


def test_several_ranks_are_this_host(own: set[str]) -> None:
    own.update((A, C))
    with pytest.raises(
        ConfigError, match="ranks 0, 2 all have this host's addresses in the hostfile; give --rank"
    ) as caught:
        hosts([A], [B], [C]).own_rank()
    assert caught.value.code == "bad-rank"


def test_the_own_rank_by_real_addresses() -> None:
    assert hosts(["192.0.2.1"], ["127.0.0.1"]).own_rank() == 1


# -- writing -----------------------------------------------------------------------------------------------------------

WRITTEN: list[object] = [
    TWO,
    [{"ssh": "me@mac-a", "ips": [A, "10.0.0.1"]}, {"ssh": "mac-b", "ips": [B, "10.0.0.2"]}],
    {"backend": "ring", "envs": ["A=1", "B="], "hosts": TWO},
    *(
        {
            "backend": backend,
            "envs": envs,
            "hosts": [{**host, "rdma": row} for host, row in zip(TWO, rows, strict=True)],
        }
        for backend, envs, rows in (
            ("jaccl", [], ROWS),
            ("jaccl-ring", [], ROWS),
            ("jaccl", ["MLX_JACCL_RING=1"], ROWS),
            ("", [], [[None, ["rdma_en5", "rdma_en6"]], [["rdma_en4", "rdma_en3"], None]]),
        )
    ),
]


@pytest.mark.parametrize("content", WRITTEN)
def test_what_is_written_is_read_back_equal(content: object, tmp_path: Path) -> None:
    hostfile = parse(content)
    hostfile.write(tmp_path / "hosts.json")
    found = read_hostfile(tmp_path / "hosts.json")
    assert (found, found.ssh) == (hostfile, hostfile.ssh)
    assert found.to_json() == hostfile.to_json()


def test_a_hostfile_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TopologyWriteError) as caught:
        parse(TWO).write(tmp_path / "missing" / "hosts.json")
    assert caught.value.code == "write-failed"
