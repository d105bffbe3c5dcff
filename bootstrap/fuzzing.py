"""The fuzzing harness of what bootstrap reads, as `wireproto fuzz run bootstrap.fuzzing:hostfile_harness`.

It stands here, since wireproto does not import bootstrap.
"""

import json
from collections.abc import Iterator
from random import Random
from typing import Final

from bootstrap.errors import ConfigError
from bootstrap.hostfile import Hostfile, parse_hostfile
from wireproto.fuzzing.harness import Harness, expect
from wireproto.fuzzing.mutations import LITERALS, NUMBERS, STRING_FAULTS, mutate_bytes

_PIECES: Final = (
    *LITERALS, *NUMBERS, *STRING_FAULTS, b'"rdma":', b'"ips":', b'"ssh":', b'"hosts":', b'"backend":', b'"jaccl"',
    b'"ring"', b'"169.254.1.1"', b'["rdma_en5",null]', b"[[null]]", b",",
)  # fmt: skip


def hostfile_harness() -> Harness:
    """mlx.launch's hostfile: it is read as the standard library reads its JSON, or refused by a `ConfigError`."""

    def check(data: bytes) -> object:
        try:
            hosts = parse_hostfile(data)
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
        expect(list(ips) == (row.get("ips") or [row.get("ssh")]), "the addresses as they stand there")
    devices = [row.get("rdma") for row in rows]
    if hosts.devices is None:
        expect(devices == [None] * len(rows), "devices that are left out")
    else:
        plain = [[list(entry) if isinstance(entry, tuple) else entry for entry in row] for row in hosts.devices]
        expect(plain == devices, "the devices as they stand there")


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
    yield "ssh", json.dumps([{"ssh": "10.0.0.1"}, {"ssh": "10.0.0.2"}]).encode()
    yield "two", json.dumps([{"ips": ["10.0.0.1", "10.0.0.3"]}, {"ssh": "a", "ips": ["10.0.0.2"]}]).encode()
