from dataclasses import replace
from typing import Any

import pytest

from bootstrap import BootstrapConfig, BootstrapError, ConfigError, Plan
from bootstrap.plan import check_devices, check_session_id, elect, new_session_id
from wireproto import Revision

GOOD: dict[str, Any] = {"own_rank": 0, "own_ip": "10.0.0.1", "peer_ip": "10.0.0.2", "port": 29400, "session_id": "s"}
UNSAFE_SESSION_IDS = [
    "", ".", "..", ".hidden", "../x", "a/b", "/etc/x", "a\\b", "a\0b", "abc\n",
    "\nabc", "a b", "\u00e9", "\uff11", "a" * 129, None, 7, b"abc",
]  # fmt: skip
DEVICES = ((None, "rdma_en5"), ("rdma_en4", None))
THREE = ((None, "rdma_en5", "rdma_en6"), ("rdma_en4", None, ("rdma_en5",)), ("rdma_en4", "rdma_en3", None))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"own_rank": 2}, "bad-rank"),
        ({"own_rank": -1}, "bad-rank"),
        ({"own_rank": True}, "bad-rank"),
        ({"own_rank": "0"}, "bad-rank"),
        ({"own_rank": None}, "bad-rank"),
        ({"own_ip": "localhost"}, "bad-ip"),
        ({"own_ip": "10.0.0.256"}, "bad-ip"),
        ({"own_ip": "10.0.0.01"}, "bad-ip"),
        ({"own_ip": "10.0.1"}, "bad-ip"),
        ({"own_ip": "10.0.0.1:80"}, "bad-ip"),
        ({"own_ip": "10.0.0.1\n"}, "bad-ip"),
        ({"own_ip": "::1"}, "bad-ip"),
        ({"own_ip": "0.0.0.0"}, "bad-ip"),  # noqa: S104 - refused
        ({"own_ip": "224.0.0.1"}, "bad-ip"),
        ({"own_ip": "255.255.255.255"}, "bad-ip"),
        ({"own_ip": 167772161}, "bad-ip"),
        ({"peer_ip": ""}, "bad-ip"),
        ({"port": 0}, "bad-port"),
        ({"port": -1}, "bad-port"),
        ({"port": 65535}, "bad-port"),  # rank 1 would listen on 65536
        ({"port": True}, "bad-port"),
        ({"port": "29400"}, "bad-port"),
        ({"port": 29400.0}, "bad-port"),
        ({"backend": "any"}, "bad-backend"),
        ({"backend": "mpi"}, "bad-backend"),
        *[({"session_id": session_id}, "bad-session-id") for session_id in UNSAFE_SESSION_IDS],
    ],
)
def test_bad_config(change: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BootstrapConfig(**{**GOOD, **change})
    assert caught.value.code == code
    assert caught.value.stage == "config"
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, BootstrapError)
    assert ", use " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ips": None}, "bad-ip"),
        ({"all_ips": 1}, "bad-ip"),
        ({"link_ports": 7777}, "bad-port"),
        ({"link_ports": (7777.5,)}, "bad-port"),
        ({"timeout": "5"}, "bad-timeout"),
        ({"grace": "5"}, "bad-timeout"),
        ({"finish_timeout": True}, "bad-timeout"),
        ({"restarts": 1.5}, "bad-restart"),
        ({"revision": 3}, "bad-revision"),
        ({"revision": "2"}, "bad-revision"),
        ({"envs": {"AB": "1"}}, "bad-env"),
        ({"envs": (("A", 1),)}, "bad-env"),
        ({"envs": (("A", "a\0b"),)}, "bad-env"),
        ({"envs": (("A", "\ud800"),)}, "bad-env"),
        ({"envs": (("A", "\udcff"),), "command": ()}, "bad-env"),
        ({"cwd": 5}, "bad-cwd"),
        ({"directory": 5}, "bad-directory"),
        ({"directory": "a\0b"}, "bad-directory"),
        ({"command": "sh -c true"}, "bad-command"),
        ({"command": ("sh", 5)}, "bad-command"),
        ({"command": ("sh", "a\0b")}, "bad-command"),
        ({"command": ("sh", "\ud800")}, "bad-command"),
        ({"command": ("this", "\udcff"), "runs": "module"}, "bad-command"),
    ],
)
def test_plan_that_no_process_can_get(change: dict[str, Any], code: str) -> None:
    """It failed in the run, as a bug of this program, on both ranks; or a variable A had the value B."""
    with pytest.raises(ConfigError) as caught:
        Plan(**{"rank": 0, "ips": ("10.0.0.1", "10.0.0.2"), "command": ("sh",), **change})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("rank", "bad-rank"),
        ("ips", "bad-ip"),
        ("port", "bad-port"),
        ("relay_port", "bad-port"),
        ("link_ports", "bad-port"),
        ("session_id", "bad-session-id"),
        ("backend", "bad-backend"),
        ("timeout", "bad-timeout"),
        ("restarts", "bad-restart"),
        ("restart_on", "bad-restart"),
        ("runs", "bad-command"),
    ],
)
def test_number_that_python_does_not_print(field: str, code: str) -> None:
    """The message about a number of more than 4300 digits was a ValueError of its own."""
    huge: Any = -(10**5000)
    value = (huge,) if field in ("ips", "link_ports") else huge
    with pytest.raises(ConfigError) as caught:
        Plan(**{"rank": 0, "ips": ("10.0.0.1", "10.0.0.2"), "all_ips": (), "command": ("sh",), field: value})
    assert caught.value.code == code


def test_plan_of_lists_and_plain_numbers() -> None:
    """A plan is the same however its fields are written, and can be hashed. A byte in an argument need not be text."""
    given: dict[str, Any] = {"ips": ["10.0.0.1", "10.0.0.2"], "command": ["sh", "\udcff"], "revision": 1, "timeout": 5}
    plan = Plan(rank=0, session_id="s", **given)
    assert plan.revision is Revision.V1
    same: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    assert {plan} == {Plan(rank=0, session_id="s", **same)}


@pytest.mark.parametrize(
    ("devices", "fault"),
    [
        (THREE, "has 3 rows for 2 ranks, give one row per rank"),
        ((), "cannot be used: topology-size: "),
        (((None, None), ("rdma_en4", None)), "cannot be used: topology-one-sided in [0][1]"),
        (((None, None), (None, None)), "cannot be used: topology-incomplete"),  # JACCL: valid, the first sum crashes
        (((None, ""), ("rdma_en4", None)), "cannot be used: topology-name in [0][1]"),  # JACCL: valid, init crashes
        (((None, 5), ("rdma_en4", None)), "cannot be used: topology-entry in [0][1]"),
        ((("rdma_en5", "rdma_en5"), ("rdma_en4", None)), "cannot be used: topology-diagonal in [0][0]"),
        ("[[null]]", "cannot be used: topology-not-array"),
    ],
)
def test_devices_that_cannot_be(devices: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BootstrapConfig(**GOOD, devices=devices)
    assert caught.value.code == "bad-devices"
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    "devices",
    [
        (),
        ((None,),),
        ((None, "a"), ("a",)),
        ((None, "a", "a"), ("a", None, "a")),
        ((None, None), (None, None)),  # JACCL: "valid", the first all_sum crashes
        ((None, ""), ("a", None)),  # JACCL: "valid", init crashes
        (("a", "a"), ("a", None)),
        ((None, "a\n"), ("a", None)),
        ((None, " "), ("a", None)),
        ((None, 5), ("a", None)),
        ((None, ("a", "b")), (None, None)),  # one-sided
        tuple(tuple(None if r == c else "a" for c in range(9)) for r in range(9)),
    ],
)
def test_device_matrices_that_jaccl_must_not_see(devices: tuple[tuple[str | None, ...], ...]) -> None:
    with pytest.raises(ConfigError):
        check_devices(devices)


def test_devices_fit_the_ranks() -> None:
    assert Plan(rank=2, ips=("10.0.0.1", "10.0.0.2", "10.0.0.3"), devices=THREE).devices == THREE


@pytest.mark.parametrize("session_id", ["a", "A.b_c-9", "-x", "_", "a" * 128, "2D8E0D75-ECD6-4EC4-9AF1-D7C3BA8BADB5"])
def test_safe_session_ids(session_id: str) -> None:
    """[BOOT-SESSION-ID]"""
    check_session_id(session_id)


def test_a_long_session_id_does_not_fill_the_screen() -> None:
    with pytest.raises(ConfigError) as caught:
        check_session_id("x" * 100_000)
    assert len(str(caught.value)) < 200


def test_new_session_ids_are_upper_case_uuids_and_differ() -> None:
    """[BOOT-FRESH-ID]"""
    first, second = BootstrapConfig(own_rank=0, own_ip="10.0.0.1", peer_ip="10.0.0.2"), new_session_id()
    assert first.session_id != second
    assert first.session_id == first.session_id.upper()
    assert len(first.session_id) == 36


@pytest.mark.parametrize("size", [1, 65])
def test_a_group_has_2_to_64_ranks(size: int) -> None:
    with pytest.raises(ConfigError, match="use 2 to 64"):
        Plan(rank=0, ips=("10.0.0.1",) * size)


@pytest.mark.parametrize("size", range(2, 9))
def test_the_last_rank_has_the_last_port(size: int) -> None:
    last = 65536 - size
    assert Plan(rank=size - 1, ips=("10.0.0.1",) * size, port=last, link_ports=()).size == size
    with pytest.raises(ConfigError, match=f"use 1 to {last} with {size} ranks"):
        Plan(rank=0, ips=("10.0.0.1",) * size, port=last + 1, link_ports=())


@pytest.mark.parametrize("addresses", [1, 2, 4])
def test_each_connection_of_the_ring_needs_a_port(addresses: int) -> None:
    ips = tuple(tuple(f"10.0.{rank}.{index}" for index in range(1, addresses + 1)) for rank in range(3))
    plan = Plan(rank=0, ips=("10.0.0.1", "10.0.1.1", "10.0.2.1"), all_ips=ips, port=65536 - 3 * addresses)
    assert plan.connections == addresses
    with pytest.raises(ConfigError, match=f"use 1 to {plan.port} with"):
        replace(plan, port=plan.port + 1)


@pytest.mark.parametrize("all_ips", [(("10.0.0.1",),), (("10.0.0.1",), ()), (("10.0.0.2",), ("10.0.0.1",))])
def test_the_first_of_all_addresses_are_the_ranks(all_ips: Any) -> None:
    with pytest.raises(ConfigError, match="must start with its first one"):
        Plan(rank=0, ips=("10.0.0.1", "10.0.0.2"), all_ips=all_ips)


@pytest.mark.parametrize(("wires", "ring"), [(4, True), (5, False), (9, False)])
def test_a_jaccl_ring_has_at_most_4_connections(wires: int, ring: bool) -> None:
    """Native init refuses more, but late; a mesh may have any number."""
    names = tuple(f"rdma_en{n}" for n in range(wires))
    plan = Plan(rank=0, ips=("10.0.0.1", "10.0.0.2"), devices=((None, names), (names, None)))
    if ring:
        assert replace(plan, jaccl_ring=True).jaccl_ring
    else:
        with pytest.raises(
            ConfigError, match=r"jaccl-ring: \[0\]\[1\] has more than 4 devices; name fewer, or use jaccl"
        ):
            replace(plan, jaccl_ring=True)


def test_a_plan_has_the_ips_in_rank_order() -> None:
    """[BOOT-COORDINATOR]"""
    rank_0 = BootstrapConfig(**GOOD, devices=DEVICES, backend="jaccl", directory="/somewhere").plan()
    rank_1 = BootstrapConfig(**{**GOOD, "own_rank": 1, "own_ip": "10.0.0.2", "peer_ip": "10.0.0.1"}).plan()
    assert rank_0.ips == rank_1.ips == ("10.0.0.1", "10.0.0.2")
    assert rank_0.coordinator == rank_1.coordinator == "10.0.0.1:29400"
    assert (rank_0.devices, rank_0.backend, rank_0.directory) == (DEVICES, "jaccl", "/somewhere")


def test_config_is_frozen_and_by_keyword() -> None:
    config = BootstrapConfig(**GOOD)
    with pytest.raises(AttributeError):
        config.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        BootstrapConfig(0, "10.0.0.1", "10.0.0.2")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("lower", "higher"),
    [("169.254.1.1", "169.254.1.2"), ("169.254.9.1", "169.254.10.1"), ("9.0.0.0", "10.0.0.0"), ("2.0.0.9", "10.0.0.1")],
)
def test_the_lower_address_is_rank_0(lower: str, higher: str) -> None:
    """As a number, not as a text. [BOOT-ELECTION]"""
    assert (elect(lower, higher), elect(higher, lower)) == (0, 1)


def test_no_rank_is_elected_of_one_address() -> None:
    with pytest.raises(ConfigError, match="do not determine the ranks"):
        elect("10.0.0.1", "10.0.0.1")
