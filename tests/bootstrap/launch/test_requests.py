"""The launcher's requests to a host: real answers of this host, and malicious lines."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.control import lock
from bootstrap.control.lock import Record
from bootstrap.errors import ConfigError
from bootstrap.launch import requests
from bootstrap.launch.left import RUN_VARIABLE, Left
from bootstrap.launch.requests import (
    MAX_LINE,
    Answer,
    CheckAnswer,
    Doctor,
    Failed,
    Hello,
    Look,
    Request,
    Stored,
    StorePin,
    Survey,
    answer,
    decode_answer,
    decode_request,
    encode,
)
from bootstrap.launch.survey import HostReport
from bootstrap.system.network import reserved_ports
from bootstrap.system.processes import Identity, identity
from bootstrap.system.tools import ToolResult
from bootstrap.tools import tools_run_by
from bootstrap.trust import PinnedPeer, Pins, decode_public_key, encode_public_key
from wireproto.session.handshake import KeySigner

OWN, PEER = "127.84.1.1", "127.84.1.2"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(lock, "RECORDS", tmp_path)


def answers(request: Request) -> list[Answer]:
    """Return a host's answer to the launcher."""
    received = decode_request(encode(request))
    assert received == request
    found = [decode_answer(encode(each)) for each in answer(received)]
    assert isinstance(found[0], Hello)
    return found[1:]


def test_a_survey() -> None:
    [report] = answers(Survey())
    assert isinstance(report, HostReport)
    assert "127.0.0.1" in [each.ip for each in report.interfaces]


def test_the_version_can_be_told_whatever_else_another_version_says() -> None:
    assert decode_answer(b'{"type":"hello","version":"9.9","news":[1]}') == Hello(version="9.9")


def test_an_identity_that_cannot_be_used(tmp_path: Path) -> None:
    place = tmp_path / "cluster-wireproto"
    place.mkdir()
    (place / "identity.pem").write_text("no key")
    (place / "identity.pem").chmod(0o644)
    [failed] = answers(Survey())
    assert isinstance(failed, Failed)
    assert (failed.code, "chmod 600" in failed.message) == ("permissions", True)


# -- doctor ------------------------------------------------------------------------------------------------------------


def group(**more: Any) -> Doctor:
    return Doctor(**{"rank": 0, "ips": (OWN, PEER), "link_ports": (7777,), "port": 29400, "backend": "ring", **more})


def test_the_ladder_of_a_rank_that_can_start() -> None:
    """Its peer need not listen yet, and no key is pinned: the run provides the keys, and starts all ranks."""
    answers(Survey())
    with reserved_ports(OWN, 1) as port:
        pass
    checks = [each.check() for each in answers(group(port=port)) if isinstance(each, CheckAnswer)]
    verdicts = {check.name: check.verdict for check in checks}
    assert verdicts.pop("leftovers") in ("green", "yellow")  # other tests run in parallel
    assert verdicts == dict.fromkeys(
        ["platform", "mlx", "address", "lock", "coordinator-port", "peer", "identity"], "green"
    ) | {"link-port": "skipped"}


def test_the_ladder_of_a_rank_whose_link_port_is_taken() -> None:
    told = ToolResult(status="ok", stdout='{"version": "0.32.4", "backends": ["ring"], "gather_factory": true}')
    with (
        tools_run_by(lambda argv, seconds: told if argv[0] == sys.executable else ToolResult(status="missing")),
        socket.create_server((OWN, 0)) as taken,
    ):
        port = taken.getsockname()[1]
        *_, red = answers(group(rank=1, ips=(PEER, OWN), link_ports=(7777, port)))
    assert isinstance(red, CheckAnswer)
    assert (red.name, red.verdict, red.remedy) == ("link-port", "red", f"lsof -nP -iTCP:{port}")


@pytest.mark.parametrize(
    ("rank", "size", "backend", "peers"),
    [
        (0, 2, "ring", [1]),
        (1, 2, "ring", [0]),
        (0, 5, "ring", [1, 2, 3, 4]),
        (1, 5, "ring", [0, 2]),
        (3, 5, "ring", [0, 4]),
        (4, 5, "ring", [0]),
        (0, 5, "jaccl", [1, 2, 3, 4]),
        (3, 5, "jaccl", [0]),
        (3, 5, "auto", [0]),
    ],
)
def test_a_rank_tries_the_peers_that_it_connects_to(rank: int, size: int, backend: str, peers: list[int]) -> None:
    ips = tuple(f"127.84.2.{number}" for number in range(1, size + 1))
    ports = tuple(range(7000, 7000 + size))
    patient = group(rank=rank, ips=ips, link_ports=ports, backend=backend, devices=("rdma_en5",)).patient()
    assert (patient.own_ip, patient.link_port, patient.devices) == (ips[rank], ports[rank], ("rdma_en5",))
    assert patient.peer_ips == tuple(ips[peer] for peer in peers)
    assert patient.peer_ports == tuple(ports[peer] for peer in peers)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"rank": 2}, "bad-request"),
        ({"rank": -1}, "bad-request"),
        ({"link_ports": (1, 2, 3)}, "bad-request"),
        ({"ips": (OWN, "x")}, "bad-ip"),
        ({"port": 65535}, "bad-port"),
    ],
)
def test_a_group_that_cannot_be(wrong: dict[str, Any], code: str) -> None:
    [failed] = answers(group(**wrong))
    assert isinstance(failed, Failed)
    assert failed.code == code


# -- pin ---------------------------------------------------------------------------------------------------------------

KEYS = [encode_public_key(KeySigner.generate().public_key) for _ in range(2)]


def test_a_pin() -> None:
    assert answers(StorePin(name="mac-b", key=KEYS[0], address=PEER)) == [Stored()]
    assert Pins().at(PEER) == PinnedPeer("mac-b", decode_public_key(KEYS[0]), PEER)
    assert answers(StorePin(name="mac-c", key=KEYS[1])) == [Stored()]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"key": KEYS[1]}, "pin-conflict"),
        ({"key": "A" * 88}, "bad-key"),
        ({"address": "mac-b"}, "bad-ip"),
        ({"name": "\x1b"}, "bad-name"),
    ],
)
def test_a_pin_that_is_refused(wrong: dict[str, Any], code: str) -> None:
    good: dict[str, Any] = {"name": "mac-b", "key": KEYS[0], "address": PEER}
    answers(StorePin(**good))
    [failed] = answers(StorePin(**good | wrong))
    assert isinstance(failed, Failed)
    assert failed.code == code
    assert [pin.key for pin in Pins().list()] == [decode_public_key(KEYS[0])]


# -- look --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the run, with its own child."""
    script = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('started', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, RUN_VARIABLE: "run-1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        yield child
        os.killpg(child.pid, signal.SIGKILL)


def look(run: str = "run-1", **more: Any) -> Left:
    [left] = answers(Look(run=run, ip=OWN, link_port=7777, **more))
    assert isinstance(left, Left)
    return left


def test_nothing_is_left() -> None:
    assert not look()
    assert look() == Left()


def test_processes_of_the_run_are_left(sleeper: "subprocess.Popen[bytes]") -> None:
    found = look()
    assert sleeper.pid in found.processes
    assert len(found.processes) == 2  # including one without a record
    assert not look("run-2")


def test_a_record_names_what_is_left(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    own, other = identity(sleeper.pid), identity()
    write(Record(own, (own,), (str(tmp_path / "there"), str(tmp_path / "gone"))))
    assert look().directories == (str(tmp_path / "there"),)
    assert look().locked
    write(Record(other, (own,), (str(tmp_path / "there"),)))  # another run uses the host by now
    assert look() == Left(processes=look().processes)
    dead = Identity(own.pid, "another start")
    write(Record(dead, (dead,), (str(tmp_path / "there"),)))  # it and its guard were killed
    assert look("run-2") == Left(directories=(str(tmp_path / "there"),))


def write(record: Record) -> None:
    path = lock.record_path(OWN, 7777)
    path.write_text(
        json.dumps({"holder": record.holder, "children": record.children, "directories": record.directories})
    )
    path.chmod(0o600)


def test_the_host_waits_for_the_end_of_the_run(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def end(seconds: float) -> None:
        looks.append(seconds)
        os.killpg(sleeper.pid, signal.SIGKILL)
        sleeper.wait()

    monkeypatch.setattr(requests.time, "sleep", end)
    assert look(seconds=30.0) == Left()
    assert looks


# -- lines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"{}",
        b'{"type":"reboot"}',
        b'{"type":"survey","more":1}',
        b'{"type":"look","run":"../x","ip":"127.0.0.1","link_port":7777}',
        b'{"type":"look","run":"x","ip":"127.0.0.1","link_port":7777,"seconds":31}',
        b'{"type":"look","run":"x","ip":"127.0.0.1","link_port":0}',
        b"[" * 100_000,
        b" " * MAX_LINE + encode(Survey()),
    ],
)
def test_a_line_that_is_no_request(line: bytes) -> None:
    with pytest.raises(ConfigError, match="the request is malformed: ") as caught:
        decode_request(line)
    assert caught.value.code == "bad-request"


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "check", "name": "mlx", "verdict": "red", "evidence": "a\x1b[2J"},
        {"type": "check", "name": "mlx", "verdict": "red", "evidence": "a", "remedy": "rm\u202e -r"},
        {"type": "check", "name": "mlx\n", "verdict": "red", "evidence": "a"},
        {"type": "check", "name": "mlx", "verdict": "blue", "evidence": "a"},
        {"type": "check", "name": "mlx", "verdict": "red", "evidence": "a" * 4097},
        {"type": "failed", "code": "x", "message": "a\rb"},
        {"type": "left", "directories": ["/tmp/\x1b"]},
        {"type": "left", "processes": list(range(1, 102))},
        {"type": "left", "processes": [-1]},
        {"type": "hello", "version": "1" * 65},
    ],
)
def test_a_line_that_is_no_answer(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="the answer is malformed: ") as caught:
        decode_answer(json.dumps(fields).encode())
    assert caught.value.code == "bad-answer"
    assert str(caught.value).isprintable()


JSON = st.recursive(st.none() | st.text(max_size=4), st.lists)


@settings(deadline=None)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_line(line: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with pytest.raises(ConfigError):
            decode(line)
