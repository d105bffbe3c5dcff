"""macOS's own tools, from their outputs, good, bad and cut off."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.doctor.macos import Thunderbolt, parse_bridge, parse_hardware_ports, parse_sw_vers, parse_thunderbolt
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
    ("name", "found"),
    [
        ("tb5-linked", Thunderbolt(5, (80,))),
        ("tb5-alone", Thunderbolt(5, ())),
        ("tb5-slow-link", Thunderbolt(5, (40,))),
        ("tb4-linked", Thunderbolt(4, (40,))),
        ("tb4-dock", Thunderbolt(4, ())),  # what the dock's free ports could do does not count
        ("full-at-40", Thunderbolt(None, (40,))),
        ("none", None),
    ],
)
def test_thunderbolt(name: str, found: Thunderbolt | None) -> None:
    assert parse_thunderbolt(output(f"system_profiler-{name}.json")) == found


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
    assert parse_bridge(output(f"ifconfig-bridge-{name}.txt")) == members


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
    assert all(parse_bridge(text))
    assert all(device and port for device, port in parse_hardware_ports(text).items())
    assert parse_thunderbolt(text) is None
