"""The fuzzing harness for hostfiles: `wireproto fuzz run bootstrap.fuzzing:hostfile_harness`.

It is here because wireproto does not import bootstrap.
"""

import json
from collections.abc import Iterator
from random import Random
from typing import Final

from bootstrap.errors import ConfigError
from bootstrap.hostfile import Hostfile, parse_hostfile
from wireproto.fuzzing.harness import Harness, expect
from wireproto.testing.mutations import LITERALS, NUMBERS, STRING_FAULTS, mutate_bytes

_PIECES: Final = (
    *LITERALS, *NUMBERS, *STRING_FAULTS, b'"rdma":', b'"ips":', b'"ssh":', b'"hosts":', b'"backend":', b'"jaccl"',
    b'"ring"', b'"169.254.1.1"', b'["rdma_en5",null]', b"[[null]]", b",", b'"envs":',
    b'"A=1"', b'"jaccl-ring"', b'""', b'"user@mac-3"', b'"mac-4"', b'"mac-4.local"', b"[]",
)  # fmt: skip
_RESOLVED: Final = {f"mac-{rank}": f"169.254.7.{rank}" for rank in range(10)}


def hostfile_harness() -> Harness:
    """Read each input as a hostfile: the result agrees with the standard library's JSON, or is a `ConfigError`."""

    def check(data: bytes) -> object:
        try:
            hosts = parse_hostfile(data, _resolve)
        except ConfigError as error:
            return error.code
        _check(hosts, data)
        return hosts.backend, hosts.devices is None, len(hosts.ips)

    return Harness("hostfile", check, _seeds, _mutate, ("bootstrap.hostfile",))


def _check(hosts: Hostfile, data: bytes) -> None:
    content = json.loads(data)
    rows = content["hosts"] if isinstance(content, dict) else content
    expect(len(hosts.ips) == len(rows), "a host a row")
    expect(len({*hosts.ips}) == len(hosts.ips), "an address of each")
    expect(all(ips[0] == ip for ips, ip in zip(hosts.all_ips, hosts.ips, strict=True)), "the first address of each")
    for row, ips in zip(rows, hosts.all_ips, strict=True):
        texts = row.get("ips") or [row["ssh"].rpartition("@")[2]]
        expect(len(ips) == len(texts), "every address")
        expect(all(ip in (text, _RESOLVED.get(text, ip)) for ip, text in zip(ips, texts, strict=True)), "the addresses")
    devices = [row.get("rdma") for row in rows]
    if hosts.devices is None:
        expect(not any(devices) or hosts.backend == "ring", "devices that are left out")
    else:
        plain = [[list(entry) if isinstance(entry, tuple) else entry for entry in row] for row in hosts.devices]
        expect(plain == devices, "the devices")
    envs = content.get("envs", []) if isinstance(content, dict) else []
    kept = dict(hosts.envs)
    for text in envs:
        name = text.partition("=")[0]
        expect(text in hosts.ignored_envs or name in kept, "every variable")
    expect(all(f"{name}={value}" in envs or (name in envs and not value) for name, value in kept.items()), "the values")


def _resolve(name: str) -> str:
    """Return an address for a name without DNS; raise OSError for most."""
    if name not in _RESOLVED:
        raise OSError("no such name")
    return _RESOLVED[name]


def _mutate(random: Random, data: bytes) -> bytes:
    if random.random() < 0.5:
        return mutate_bytes(random, data)
    at = random.randint(0, len(data))
    return data[:at] + random.choice(_PIECES) + data[at + random.choice((0, 0, 1, 4, 10)) :]


def _seeds() -> Iterator[tuple[str, bytes]]:
    hosts = [{"ssh": f"mac-{rank}", "ips": [f"169.254.1.{rank + 1}"]} for rank in range(3)]
    mesh = [
        host | {"rdma": [None if peer == rank else f"rdma_en{peer}" for peer in range(3)]}
        for rank, host in enumerate(hosts)
    ]
    yield "bare", json.dumps(hosts).encode()
    yield "mesh", json.dumps({"backend": "jaccl", "hosts": mesh}).encode()
    yield "ring", json.dumps({"backend": "ring", "hosts": hosts[:2], "envs": ["A=1"]}).encode()
    several = [
        host | {"rdma": [["a", "b"] if peer != rank else None for peer in range(2)]}
        for rank, host in enumerate(hosts[:2])
    ]
    yield "cables", json.dumps({"backend": "jaccl-ring", "envs": ["A=1", "B", "C-D=2"], "hosts": several}).encode()
    yield (
        "names",
        json.dumps({"backend": "", "hosts": [{"ssh": "mac-1", "ips": [], "rdma": []}, {"ssh": "a@mac-2"}]}).encode(),
    )
    yield "ssh", json.dumps([{"ssh": "10.0.0.1"}, {"ssh": "10.0.0.2"}]).encode()
    yield "two", json.dumps([{"ips": ["10.0.0.1", "10.0.0.3"]}, {"ssh": "a", "ips": ["10.0.0.2"]}]).encode()
