"""From hosts' reports to a hostfile: Macs in every arrangement, and hosts without Thunderbolt."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bootstrap.errors import ConfigError
from bootstrap.hostfile import parse_hostfile
from bootstrap.launch import cables
from bootstrap.launch.cables import Cabling, find
from bootstrap.launch.survey import HostReport, Interface, Link, Port, RdmaDevice
from bootstrap.plan import BackendChoice
from bootstrap.trust import encode_public_key
from tests.bootstrap.macs import INTERFACES, Cables, End, Macs, line, mesh, ring
from tests.examples import examples
from wireproto.session.handshake import KeySigner

NAMES = [f"mac-{letter}" for letter in "abcdefgh"]
KEYS = [encode_public_key(KeySigner.from_scalar(bytes(31) + bytes([number])).public_key) for number in range(1, 10)]


def unresolved(name: str) -> str:
    raise AssertionError(f"{name} is looked up")


def found(macs: Macs, home: Path, backend: BackendChoice = "auto") -> Cabling:
    """Find the cables of Macs, and compare the result with the real ones."""
    cabling = find(macs.reports(home), macs.names, backend, unresolved)
    hostfile = cabling.hostfile
    assert hostfile.ssh == tuple(macs.names[mac] for mac in cabling.order)
    assert parse_hostfile(hostfile.to_json()) == hostfile
    for rank, row in enumerate(hostfile.devices or ()):
        for peer, entry in enumerate(row):
            names, others = devices(entry), devices(hostfile.devices[peer][rank] if hostfile.devices else None)
            assert len(names) == len(others)
            for name, other in zip(names, others, strict=True):
                ends = [
                    End(cabling.order[which], INTERFACES.index(device.removeprefix("rdma_")))
                    for which, device in ((rank, name), (peer, other))
                ]
                assert macs.joined(*ends), ends
    return cabling


def devices(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def failure(macs: Macs, home: Path, backend: BackendChoice = "auto") -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        find(macs.reports(home), macs.names, backend, unresolved)
    return caught.value.code, str(caught.value)


# -- Macs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hubs", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_mesh(size: int, count: int, hubs: int, tmp_path: Path) -> None:
    cabling = found(Macs(NAMES[:size], mesh(size, count), hubs=hubs), tmp_path)
    assert (cabling.shape, cabling.hostfile.backend, cabling.order) == ("mesh", "jaccl", tuple(range(size)))
    assert cabling.hostfile.devices is not None
    assert len(devices(cabling.hostfile.devices[0][1])) == count
    assert cabling.remarks == ()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("size", "hubs"), [(4, 0), (4, 1), (5, 0)])
def test_a_ring(size: int, hubs: int, count: int, tmp_path: Path) -> None:
    cabling = found(Macs(NAMES[:size], ring(size, count), hubs=hubs), tmp_path)
    assert (cabling.shape, cabling.hostfile.jaccl_ring) == ("ring", True)
    assert cabling.order == tuple(range(size))
    assert json.loads(cabling.hostfile.to_json())["backend"] == "jaccl-ring"


def test_a_ring_in_another_order_than_that_of_the_names(tmp_path: Path) -> None:
    cabling = found(Macs(NAMES[:4], [(0, 2), (2, 1), (1, 3), (3, 0)]), tmp_path)
    assert (cabling.shape, cabling.order) == ("ring", (0, 2, 1, 3))
    assert cabling.hostfile.ips == ("10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.4")


def test_more_than_eight_macs_are_a_ring_though_all_are_joined(tmp_path: Path) -> None:
    macs = Macs([f"m{mac}" for mac in range(9)], mesh(9))
    assert found(macs, tmp_path).shape == "ring"


def test_no_more_cables_than_a_ring_can_use(tmp_path: Path) -> None:
    cabling = found(Macs(NAMES[:4], ring(4, 6)), tmp_path)
    assert cabling.hostfile.devices is not None
    assert len(devices(cabling.hostfile.devices[0][1])) == 4


@pytest.mark.parametrize(
    ("size", "joined", "named"),
    [
        (2, [], "mac-a and mac-b; connect them, or"),
        (3, line(3), "mac-a and mac-c; connect them for a ring, or each pair"),
        (4, line(4), "mac-a and mac-d;"),
        (4, [(1, 0), (0, 3), (3, 2)], "mac-b and mac-c;"),  # a line from b by a and d to c
        (4, [(0, 1), (0, 2), (0, 3)], "mac-b and mac-c;"),
        (4, [(0, 1), (2, 3)], "mac-a and mac-c;"),
    ],
)
def test_macs_that_are_not_joined(size: int, joined: Cables, named: str, tmp_path: Path) -> None:
    code, text = failure(Macs(NAMES[:size], joined), tmp_path)
    assert code == "no-cable"
    assert text.startswith(f"no Thunderbolt cable joins {named}")
    assert text.endswith("or use --backend ring")
    assert found(Macs(NAMES[:size], joined), tmp_path, "ring").shape == "network"


def test_a_port_behind_a_hub_serves_one_host(tmp_path: Path) -> None:
    assert found(Macs(NAMES[:2], [], star=True), tmp_path).shape == "mesh"
    code, text = failure(Macs(NAMES[:3], [], star=True), tmp_path)
    assert code == "no-cable"
    assert "also lead to other hosts, through a hub" in text


def test_a_hub_beside_cables(tmp_path: Path) -> None:
    """The pair without another path uses the hub."""
    macs = Macs(NAMES[:3], [(0, 1), (1, 2)], star=True)
    assert found(macs, tmp_path).shape == "mesh"


def test_of_two_cables_the_one_that_can_be_used(tmp_path: Path) -> None:
    macs = Macs(NAMES[:2], mesh(2, 2), addresses=lambda end: f"169.254.{end.mac + 1}.{end.port + 1}")
    macs.down = {End(1, 0)}
    assert found(macs, tmp_path).hostfile.devices == ((None, "rdma_en3"), ("rdma_en3", None))
    macs.down = {End(0, 1), End(1, 0)}  # neither: the checks show the reason
    assert found(macs, tmp_path).hostfile.devices == (
        (None, ("rdma_en2", "rdma_en3")),
        (("rdma_en2", "rdma_en3"), None),
    )


def test_a_mac_without_rdma(tmp_path: Path) -> None:
    macs = Macs(NAMES[:3], mesh(3))
    macs.rdma[1] = False
    cabling = found(macs, tmp_path)
    assert (cabling.hostfile.backend, cabling.hostfile.devices) == ("ring", None)
    assert cabling.remarks[0] == "ring instead of jaccl: no RDMA device on mac-b; see jaccl-bootstrap doctor there"
    code, text = failure(macs, tmp_path, "jaccl")
    assert (code, text[:27]) == ("no-rdma-device", "mac-b lists no RDMA device ")


def test_a_device_that_is_missing_on_one_side(tmp_path: Path) -> None:
    first, second = Macs(NAMES[:2], mesh(2)).reports(tmp_path)
    second = msgspec.structs.replace(second, devices=second.devices[1:])
    with pytest.raises(
        ConfigError, match="is at en2 of mac-b, which has no rdma_en2; run jaccl-bootstrap doctor"
    ) as caught:
        find([first, second], NAMES[:2], "jaccl", unresolved)
    assert caught.value.code == "no-cable"
    second = msgspec.structs.replace(
        second, ports=tuple(msgspec.structs.replace(port, interface=None) for port in second.ports)
    )
    with pytest.raises(ConfigError, match="is at a port of mac-b without an interface"):
        find([first, second], NAMES[:2], "jaccl", unresolved)


def test_a_host_cannot_claim_a_cable_that_the_other_does_not_have() -> None:
    def report(number: int, domain: str, *leads: str) -> HostReport:
        ports = (Port(domain=domain, interface="en2", links=tuple(Link(domain=each, speed=80_000) for each in leads)),)
        return HostReport(key=KEYS[number], devices=(RdmaDevice(name="rdma_en2"),), ports=ports)

    honest = [report(0, "A", "B"), report(1, "B", "A")]
    assert len(cables.find_cables(honest)) == 1
    assert not cables.find_cables([report(0, "A"), report(1, "B", "A")])
    assert not cables.find_cables([report(0, "A", "A"), report(1, "B", "B")])
    assert len(cables.find_cables([*honest, report(2, "C", "A", "B")])) == 1
    assert not cables.find_cables([*honest, report(2, "B", "A")])  # the owner of port B is unknown


def test_one_host_under_two_names(tmp_path: Path) -> None:
    first, second = Macs(NAMES[:2], mesh(2)).reports(tmp_path)
    with pytest.raises(ConfigError, match="mac-a and mac-c have the same identity key; name each host once") as caught:
        find([first, second, first], NAMES[:3])
    assert caught.value.code == "host-repeated"


def test_the_search_for_a_ring_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two meshes of 9, joined at one host, have no ring, and are too many for an exhaustive search."""
    monkeypatch.setattr(cables, "MAX_STEPS", 2_000)
    joined = [*mesh(9), *((one + 8, other + 8) for one, other in mesh(9))]
    code, text = failure(Macs([f"m{mac}" for mac in range(17)], joined), tmp_path)
    assert (code, text[:42]) == ("no-cable", "no Thunderbolt cable joins m0 and m16; con")


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_two_macs_use_the_addresses_of_their_cables(tmp_path: Path) -> None:
    macs = Macs(NAMES[:2], mesh(2, 2), addresses=lambda end: f"169.254.{end.mac + 1}.{end.port + 1}")
    assert found(macs, tmp_path).hostfile.all_ips == (("169.254.1.1", "169.254.1.2"), ("169.254.2.1", "169.254.2.2"))
    macs.addresses = lambda end: None if end == (1, 0) else f"169.254.{end.mac + 1}.{end.port + 1}"
    assert found(macs, tmp_path, "ring").hostfile.all_ips == (("169.254.1.2",), ("169.254.2.2",))
    assert found(macs, tmp_path, "ring").remarks == ()


def test_three_macs_use_a_network_that_all_are_in(tmp_path: Path) -> None:
    macs = Macs(NAMES[:3], mesh(3), addresses=lambda end: f"169.254.{end.mac + 1}.{end.port + 1}")
    cabling = found(macs, tmp_path, "ring")
    assert cabling.hostfile.ips == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert cabling.remarks == (
        "MLX's ring does not use the Thunderbolt cables: the hosts share no IPv4 network over them",
    )


def test_a_bridge_over_thunderbolt_is_better_than_ethernet() -> None:
    reports = hosts({"en0": "10.0.0.{}/24", "bridge0": "169.254.7.{}/16"}, thunderbolt=("bridge0",))
    assert ips(reports) == ("169.254.7.1", "169.254.7.2", "169.254.7.3")


def hosts(networks: dict[str, str], count: int = 3, thunderbolt: Sequence[str] = (), **speeds: int) -> list[HostReport]:
    """Hosts with an address in each of the networks."""
    return [
        HostReport(
            key=KEYS[host],
            interfaces=tuple(
                interface(name, text.format(host + 1), thunderbolt=name in thunderbolt, speed=speeds.get(name))
                for name, text in networks.items()
            ),
        )
        for host in range(count)
    ]


def interface(name: str, text: str, **more: Any) -> Interface:
    ip, _, prefix = text.partition("/")
    return Interface(name=name, ip=ip, prefix=int(prefix), **more)


def ips(reports: Sequence[HostReport], resolve: Callable[[str], str] = unresolved) -> tuple[str, ...]:
    return find(reports, NAMES[: len(reports)], "auto", resolve).hostfile.ips


@pytest.mark.parametrize(
    ("networks", "speeds", "chosen"),
    [
        ({"wlan0": "10.1.0.{}/16", "eth0": "10.2.0.{}/16"}, {"eth0": 1000}, "10.2.0.{}"),
        ({"eth0": "10.1.0.{}/16", "eth1": "10.2.0.{}/16"}, {"eth0": 1000, "eth1": 10000}, "10.2.0.{}"),
        ({"eth0": "10.1.0.{}/16", "eth1": "10.2.0.{}/16"}, {}, "10.1.0.{}"),
        ({"eth0": "169.254.1.{}/16", "eth1": "10.2.0.{}/16"}, {}, "10.2.0.{}"),
        ({"lo": "127.0.0.{}/8", "eth0": "169.254.1.{}/16"}, {}, "169.254.1.{}"),
        # a container's network has the same number on each host, and the same address
        ({"docker0": "172.17.0.1/16", "eth0": "10.2.0.{}/16"}, {"docker0": 10000}, "10.2.0.{}"),
        # each host has two self-assigned addresses, on interfaces that need not lead to the same network
        ({"en5": "169.254.1.{}/16", "en6": "169.254.2.{}/16", "en0": "10.2.0.{}/16"}, {"en5": 80000}, "10.2.0.{}"),
        # a network of only one host
        ({"eth0": "10.{0}.0.{0}/16", "eth1": "10.9.0.{0}/16"}, {"eth0": 10000}, "10.9.0.{}"),
    ],
)
def test_the_best_network(networks: dict[str, str], speeds: dict[str, int], chosen: str) -> None:
    assert ips(hosts(networks, **speeds)) == tuple(chosen.format(host) for host in (1, 2, 3))


NO_NETWORK = {"eth0": "10.{0}.0.{0}/16"}


def test_hosts_without_a_common_network_have_the_addresses_of_their_names() -> None:
    names = {"mac-a": "10.1.0.1", "mac-b": "10.2.0.2", "mac-c": "10.3.0.3"}
    assert ips(hosts(NO_NETWORK), names.__getitem__) == ("10.1.0.1", "10.2.0.2", "10.3.0.3")
    users = find(hosts(NO_NETWORK), ["me@mac-a", "mac-b", "you@mac-c"], "auto", names.__getitem__).hostfile
    assert (users.ssh, users.names) == (("me@mac-a", "mac-b", "you@mac-c"), ("mac-a", "mac-b", "mac-c"))


def test_loopback_addresses_count_if_all_hosts_are_on_loopback() -> None:
    same = hosts({"lo": "127.0.0.1/8", "eth0": "10.0.0.1/24"})
    names = {"mac-a": "127.0.0.1", "mac-b": "127.0.0.2", "mac-c": "127.0.0.3"}
    assert ips(same, names.__getitem__) == ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    assert refused(hosts(NO_NETWORK), names | {"mac-c": "10.3.0.3"}) == (
        "mac-a and mac-b share no IPv4 network, and the name mac-a has the loopback address 127.0.0.1; "
        "connect them, or give the addresses in a --hostfile"
    )


def test_a_name_that_leads_elsewhere() -> None:
    names = {"mac-a": "10.1.0.1", "mac-b": "192.0.2.7", "mac-c": "10.3.0.3"}
    text = "mac-a and mac-b share no IPv4 network, and mac-b does not have 192.0.2.7, the address of its name; "
    assert refused(hosts(NO_NETWORK), names).startswith(text)


def test_a_name_without_an_address() -> None:
    def resolve(name: str) -> str:
        if name == "mac-c":
            raise OSError("not found")
        return {"mac-a": "10.1.0.1", "mac-b": "10.2.0.2"}[name]

    with pytest.raises(
        ConfigError,
        match=r"mac-a and mac-c share no IPv4 network, and the name mac-c has no IPv4 address \(not found\)",
    ):
        ips(hosts(NO_NETWORK), resolve)


def refused(reports: Sequence[HostReport], names: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        ips(reports, names.__getitem__)
    assert caught.value.code == "no-common-network"
    return str(caught.value)


# -- whatever the hosts say --------------------------------------------------------------------------------------------

DOMAINS = st.sampled_from(["A", "B", "C", "D", "E"])
FACES = st.sampled_from(["en2", "en3", "en4"])
REPORTS = st.builds(
    dict,
    interfaces=st.lists(
        st.builds(
            Interface,
            name=FACES,
            ip=st.sampled_from(["10.0.0.1", "10.0.0.2", "169.254.1.1", "169.254.1.2", "127.0.0.1"]),
            prefix=st.sampled_from([0, 8, 16, 24, 32]),
            thunderbolt=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    devices=st.lists(st.builds(RdmaDevice, name=FACES.map("rdma_{}".format), usable=st.booleans()), max_size=3).map(
        tuple
    ),
    ports=st.lists(
        st.builds(
            Port,
            domain=DOMAINS,
            interface=FACES | st.none(),
            links=st.lists(st.builds(Link, domain=DOMAINS, speed=st.just(80_000)), max_size=4).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=examples(150))
@given(st.lists(REPORTS, min_size=2, max_size=4), st.sampled_from(["auto", "jaccl", "ring"]))
def test_whatever_the_hosts_say_there_is_a_valid_hostfile_or_a_reason(
    parts: list[dict[str, Any]], backend: BackendChoice
) -> None:
    reports = [HostReport(key=KEYS[host], **part) for host, part in enumerate(parts)]
    try:
        cabling = find(reports, NAMES[: len(reports)], backend, lambda name: f"127.0.0.{NAMES.index(name) + 1}")
    except ConfigError as error:
        reason = error.code
    else:
        reason = ""
    event(reason)
    if reason:
        assert reason in ("no-cable", "no-rdma-device")
        return
    assert sorted(cabling.order) == list(range(len(reports)))
    assert parse_hostfile(cabling.hostfile.to_json()) == cabling.hostfile
