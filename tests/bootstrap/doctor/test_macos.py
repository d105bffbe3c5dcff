"""macOS's own tools: good, bad and truncated output."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.doctor.macos import (
    Link,
    Port,
    Thunderbolt,
    parse_addresses,
    parse_arp,
    parse_bridges,
    parse_hardware_ports,
    parse_sw_vers,
    parse_thunderbolt,
)
from tests.bootstrap.system_tools import output


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (output("sw_vers-15.7.1.txt"), (15, 7)),
        (output("sw_vers-26.1.txt"), (26, 1)),
        (output("sw_vers-26.2.txt"), (26, 2)),
        (output("sw_vers-26.2.1.txt"), (26, 2)),
        ("ProductVersion:\t\t26.10\n", (26, 10)),
        ("ProductVersion:\t\t26\n", None),
        ("ProductVersion:\t\t26.x\n", None),
        ("ProductName:\t\tmacOS\n", None),
        ("", None),
    ],
)
def test_the_version(text: str, version: tuple[int, int] | None) -> None:
    assert parse_sw_vers(text) == version


@pytest.mark.parametrize(
    ("name", "generation", "links"),
    [
        ("tb5-linked", 5, [(80, "Mac16,9")]),
        ("tb5-alone", 5, []),
        ("tb5-slow-link", 5, [(40, "Mac16,9")]),
        ("tb4-linked", 4, [(40, "Mac16,9")]),
        ("tb4-dock", 4, []),  # the speed of the dock's free ports does not count
        ("full-at-40", None, [(40, "Mac16,9")]),
    ],
)
def test_thunderbolt(name: str, generation: int | None, links: list[tuple[int, str]]) -> None:
    found = parse_thunderbolt(output(f"system_profiler-{name}.json"))
    assert found is not None
    assert (found.generation, [link[:2] for link in found.links]) == (generation, links)


def test_thunderbolt_of_a_mac_without_any() -> None:
    assert parse_thunderbolt(output("system_profiler-none.json")) is None


def test_the_ports_and_what_they_lead_to() -> None:
    found = parse_thunderbolt(output("system_profiler-tb5-linked.json"))
    uuids = [f"00000000-0000-4000-8000-00000000000{number}" for number in (9, 2, 1, 0)]
    link = Link(80, "Mac16,9", uuids[0])
    assert found == Thunderbolt(5, (Port(uuids[1], "3", (link,)), Port(uuids[2], "2"), Port(uuids[3], "1")))


@pytest.mark.parametrize(
    ("own", "tag", "port"),
    [
        (None, {"receptacle_id_key": "1"}, Port(None, "1")),
        ("own", {}, Port("own", None)),
        ("own", {"receptacle_id_key": 1}, Port("own", None)),
        ({}, {"receptacle_id_key": ["1"]}, Port(None, None)),
    ],
)
def test_a_port_that_lacks_something(own: object, tag: dict[str, object], port: Port) -> None:
    bus = {"domain_uuid_key": own, "receptacle_1_tag": {"current_speed_key": "Up to 120 Gb/s", **tag}}
    found = parse_thunderbolt(json.dumps({"SPThunderboltDataType": [bus]}))
    assert found is not None
    assert found.ports == (port,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"SPThunderboltDataType": {}}',
        '{"SPThunderboltDataType": [[], null, {"receptacle_1_tag": 1}]}',
        '{"SPThunderboltDataType": [{"receptacle_1_tag": {"current_speed_key": "fast"}}]}',
        '{"SPThunderboltDataType": [{"receptacle_1_tag": {"current_speed_key": "Up to 99999 Gb/s"}}]}',
        '{"SPThunderboltDataType": [{"_items": {}, "receptacle_upstream_tag": {"current_speed_key": "80 Gb/s"}}]}',
        "[" * 100_000,
        output("system_profiler-tb5-linked.json")[:-3],
    ],
)
def test_nothing_about_thunderbolt(text: str) -> None:
    assert parse_thunderbolt(text) is None


def test_hardware_ports() -> None:
    without = {"en0": "Ethernet", "en1": "Wi-Fi", "en2": "Thunderbolt 1", "en5": "Thunderbolt 2"}
    assert parse_hardware_ports(output("networksetup-no-bridge.txt")) == without
    assert parse_hardware_ports(output("networksetup-bridge.txt")) == {**without, "bridge0": "Thunderbolt Bridge"}
    assert parse_hardware_ports("Hardware Port: Wi-Fi\nEthernet Address: x\nDevice: en0\n") == {}


@pytest.mark.parametrize(("name", "members"), [("up", ("en2", "en5")), ("down", ()), ("missing", ())])
def test_the_bridge(name: str, members: tuple[str, ...]) -> None:
    assert parse_bridges(output(f"ifconfig-bridge-{name}.txt")) == ({"bridge0": members} if members else {})


def test_bridges_are_found_by_their_members() -> None:
    up, down = output("ifconfig-bridge-up.txt"), output("ifconfig-bridge-down.txt")
    other = up.replace("bridge0", "bridge100").replace("en2", "vmenet0")
    plain = "en5: flags=8863<UP,BROADCAST> mtu 1500\n\tinet 10.0.0.7 netmask 0xffff0000\n"
    text = plain + up + plain + other + down.replace("bridge0", "bridge1")
    assert parse_bridges(text) == {"bridge0": ("en2", "en5"), "bridge100": ("vmenet0", "en5")}
    assert parse_addresses(text) == {"10.0.0.7"}


def test_neighbours() -> None:
    text = (
        "? (169.254.7.9) at 2:0:0:0:0:1 on en5 [ethernet]\nmac (10.0.0.3) at (incomplete) on en0 ifscope [ethernet]\n"
    )
    assert parse_arp(text) == {"169.254.7.9", "10.0.0.3"}


def port(speed: str, connected: bool = True) -> dict[str, object]:
    status = "receptacle_connected" if connected else "receptacle_no_devices_connected"
    return {"current_speed_key": speed, "receptacle_status_key": status}


def mac(name: str, **more: object) -> dict[str, object]:
    return {"device_name_key": name, "domain_uuid_key": f"uuid-{name}", **more}


def dock(*items: object, up: str = "80 Gb/s", **ports: object) -> dict[str, object]:
    return {"_name": "Dock", "receptacle_upstream_ambiguous_tag": port(up), "_items": list(items), **ports}


def bus(speed: str, *items: object, connected: bool = True) -> dict[str, object]:
    tag = {"receptacle_1_tag": port(speed, connected)}
    return {"domain_uuid_key": "own", "device_name_key": "Mac", **tag, "_items": list(items)}


FREE = bus("Up to 120 Gb/s", connected=False)


@pytest.mark.parametrize(
    ("buses", "generation", "links"),
    [
        # behind one hub, two hubs, and three
        ([bus("80 Gb/s", dock(mac("A")))], 5, [(80, "A")]),
        ([bus("80 Gb/s", dock(dock(mac("A"))))], 5, [(80, "A")]),
        ([bus("80 Gb/s", dock(dock(dock(mac("A"))), {"_name": "Disk"}))], 5, [(80, "A")]),
        # the slowest link on the way counts
        ([FREE, bus("80 Gb/s", dock(mac("A"), up="40 Gb/s"))], 5, [(40, "A")]),
        ([FREE, bus("80 Gb/s", dock(mac("A"), receptacle_2_tag=port("40 Gb/s")))], 5, [(40, "A")]),
        ([FREE, bus("80 Gb/s", dock(mac("A"), receptacle_3_tag=port("Up to 40 Gb/s", False)))], 5, [(80, "A")]),
        ([FREE, bus("40 Gb/s", dock(mac("A")))], 5, [(40, "A")]),
        # several peers, each with its own speed
        ([bus("80 Gb/s", mac("A")), bus("40 Gb/s", mac("B"))], 5, [(80, "A"), (40, "B")]),
        ([bus("80 Gb/s", dock(mac("A"), mac("B")))], 5, [(80, "A"), (80, "B")]),
        ([bus("80 Gb/s", mac("A"), mac("B")), bus("20 Gb/s", dock(mac("C")))], 5, [(80, "A"), (80, "B"), (20, "C")]),
        # lanes, and a port's highest speed
        ([bus("40 Gb/s x1", mac("A"))], None, [(40, "A")]),
        ([bus("40 Gb/s x2", mac("A"))], 5, [(80, "A")]),
        ([bus("Up to 40 Gb/s x1", connected=False)], 4, []),
        ([bus("Up to 40 Gb/s", mac("A"))], 4, [(40, "A")]),
        ([bus("Up to 80 Gb/s x1", connected=False), bus("20 Gb/s x1", mac("A"))], 5, [(20, "A")]),
        ([bus("Bis zu 40 Gb/s", connected=False)], 4, []),
        # a cable from this Mac to itself, and a dock alone
        ([bus("80 Gb/s", {"domain_uuid_key": "own", "device_name_key": "Mac"})], 5, []),
        ([bus("40 Gb/s", dock()), FREE], 5, []),
    ],
)
def test_thunderbolt_is_a_tree(buses: list[object], generation: int | None, links: list[tuple[int, str]]) -> None:
    found = parse_thunderbolt(json.dumps({"SPThunderboltDataType": buses}))
    assert found is not None
    assert (found.generation, [link[:2] for link in found.links]) == (generation, links)


def test_a_deep_tree() -> None:
    item: dict[str, object] = mac("A")
    for _ in range(300):
        item = dock(item)
    found = parse_thunderbolt(json.dumps({"SPThunderboltDataType": [bus("80 Gb/s", item)]}))
    assert found is not None
    assert found.links == (Link(80, "A", "uuid-A"),)


LEAVES = st.none() | st.integers() | st.sampled_from(["Up to 120 Gb/s", "40 Gb/s", "", "x"])
KEYS = st.sampled_from(["SPThunderboltDataType", "receptacle_1_tag", "current_speed_key", "_items", "domain_uuid_key"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(TREES)
def test_whatever_the_profiler_says(tree: object) -> None:
    found = parse_thunderbolt(json.dumps({"SPThunderboltDataType": tree}))
    assert found is None or found.generation in (None, 4, 5)


WORDS = st.sampled_from(["ProductVersion:", "26.2", "bridge0: flags=8863<UP>", "\n\tmember: en1", "Device: ", "\n"])


@given(st.lists(WORDS | st.text(max_size=8), max_size=20).map("".join))
def test_whatever_the_others_say(text: str) -> None:
    version = parse_sw_vers(text)
    assert version is None or len(version) == 2
    assert all(parse_bridges(text).values())
    assert all(device and port for device, port in parse_hardware_ports(text).items())
    assert parse_thunderbolt(text) is None
