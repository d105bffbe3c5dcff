"""`jaccl-bootstrap up`: two real processes on two addresses of this host."""

import json
import re
import secrets
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bootstrap.identity import Pins, encode_public_key, load_identity
from wireproto.handshake import KeySigner, fingerprint

Start = Callable[..., Any]
Check = Callable[[Any], None]

STRANGER = KeySigner.generate().public_key


class Rank:
    """One rank's address, home and key, as its options give them."""

    def __init__(self, ip: str, home: Path) -> None:
        self.ip, self.home = ip, home
        self.identity = home / "identity.pem"
        self.key = load_identity(self.identity).public_key
        self.pins = Pins(home / "cluster-wireproto" / "peers.json")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Rank, Rank]:
    """Two ranks that have pinned each other, on addresses that no other test has."""
    net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
    ranks = Rank(f"{net}.1", tmp_path / "first"), Rank(f"{net}.2", tmp_path / "second")
    for own, peer in (ranks, ranks[::-1]):
        own.pins.add(peer.ip, peer.key)
    return ranks


@pytest.fixture
def up(command: Start) -> Start:
    def start(own: Rank, peer: Rank, *arguments: str, **wanted: Any) -> Any:
        env = {"XDG_CONFIG_HOME": str(own.home), **wanted.pop("env", {})}
        addresses = ("--own-ip", own.ip, "--peer-ip", peer.ip, "--identity", str(own.identity))
        return command("up", *addresses, *arguments, env=env, **wanted)

    return start


def names(run: Any, *wanted: str) -> list[str]:
    """The events of these names, in their order."""
    return [event["event"] for event in run.events if event["event"] in wanted]


def error(run: Any) -> dict[str, Any]:
    (event,) = [event for event in run.events if event["event"] == "error"]
    return event


LINK_0 = ("connected", "established", "bootstrap-sent")
LINK_1 = ("listening", "connected", "established", "bootstrap-received")


@pytest.mark.parametrize("revision", ["1", "2"])
def test_two_ranks_form_a_group(revision: str, pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    first, second = pair
    one = up(second, first, "--json", "--revision", revision)
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--revision", revision)
    assert (zero.end(), one.end()) == (0, 0), (zero.stderr, one.stderr)
    group = ("started", "file-written", "environment-set", "group-ready", "sum-checked", "done")
    assert names(zero, *LINK_0, *group) == [*LINK_0, *group]
    assert names(one, *LINK_1, *group) == [*LINK_1, *group]
    assert len(names(one, "confirmed")) == int(revision) - 1
    (sent,) = [event for event in zero.events if event["event"] == "bootstrap-sent"]
    (received,) = [event for event in one.events if event["event"] == "bootstrap-received"]
    assert (sent["port"], sent["session_id"]) == (29400, received["session_id"])
    for rank, run in enumerate((zero, one)):
        done = run.events[-1]
        assert (done["ok"], done["backend"], done["dry_run"]) == (True, "ring", False)
        assert f"[rank {rank}] INFO bootstrap.group: ring DistributedGroup ready (rank {rank}): size=2" in run.stderr
        nothing_left(run)


@pytest.mark.parametrize("revision", ["1", "2"])
def test_a_dry_run_does_all_but_the_group(
    revision: str, pair: tuple[Rank, Rank], up: Start, nothing_left: Check
) -> None:
    first, second = pair
    one = up(second, first, "--json", "--dry-run", "--revision", revision)
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run", "--revision", revision, "--coordinator-port", "30000")
    assert (zero.end(), one.end()) == (0, 0), (zero.stderr, one.stderr)
    assert names(zero, *LINK_0, "pong", "started", "would-write", "would-set", "done")[-4:] == [
        "pong", "would-write", "would-set", "done",
    ]  # fmt: skip
    for rank, run in enumerate((zero, one)):
        (write,) = [event for event in run.events if event["event"] == "would-write"]
        assert json.loads(write["content"]) == [[f"{first.ip}:30000"], [f"{second.ip}:30001"]]
        (variables,) = [event["variables"] for event in run.events if event["event"] == "would-set"]
        assert variables["MLX_RANK"] == str(rank)
        assert variables["MLX_JACCL_COORDINATOR"] == f"{first.ip}:30000"
        assert run.events[-1]["dry_run"] is True
        nothing_left(run)
    assert names(one, "session-ended") == ["session-ended"]


def test_plain_output(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    runs = [up(second, first, "--dry-run"), up(first, second, "--dry-run")]
    assert [run.end() for run in runs] == [0, 0]
    for rank, run in enumerate(reversed(runs)):
        assert all(re.fullmatch(rf" *\d+ ms  (rank {rank}|done  )  [ -~]+\n", line) for line in run.seen)
        assert run.seen[-1].endswith("done    dry run: the link works, and nothing was set or written\n")


def test_the_given_rank_counts(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    one = up(first, second, "--json", "--dry-run", "--rank", "1")
    one.until(("listening", 1))
    zero = up(second, first, "--json", "--dry-run", "--rank", "0")
    assert (zero.end(), one.end()) == (0, 0)
    assert names(zero, "bootstrap-sent") == ["bootstrap-sent"]


def test_a_given_key_needs_no_pin(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    for own, peer in (pair, pair[::-1]):
        own.pins.remove(peer.ip)
    one = up(second, first, "--json", "--dry-run", "--peer-key", encode_public_key(first.key))
    zero = up(first, second, "--json", "--dry-run", "--peer-key", encode_public_key(second.key))
    assert (zero.end(), one.end()) == (0, 0)
    assert first.pins.list() == {}


def test_trust_on_first_use_pins_what_it_saw(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    first.pins.remove(second.ip)
    for arguments in (["--trust-first-use"], []):
        one = up(second, first, "--json", "--dry-run")
        zero = up(first, second, "--json", "--dry-run", *arguments)
        assert (zero.end(), one.end()) == (0, 0), zero.stderr
        assert first.pins.list() == {second.ip: second.key}


def test_a_wrong_pin_on_rank_0(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    first.pins.remove(second.ip)
    first.pins.add(second.ip, STRANGER)
    one = up(second, first, "--json", "--dry-run")
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run", "--trust-first-use")
    assert zero.end() == 3
    assert error(zero)["code"] == "handshake-wrong-pin"
    for key in (second.key, STRANGER):
        assert fingerprint(key) in error(zero)["message"]
    assert first.pins.list() == {second.ip: STRANGER}


def test_a_wrong_pin_on_rank_1(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    second.pins.remove(first.ip)
    second.pins.add(first.ip, STRANGER)
    one = up(second, first, "--json", "--dry-run")
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run")
    one.until(("link-lost", 1))
    zero.until(("link-lost", 0))
    for run in (zero, one):
        run.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (3, 3)
    lost = next(event for event in one.events if event["event"] == "link-lost")
    assert lost["code"] == "handshake-wrong-pin"
    assert fingerprint(first.key) in lost["message"]
    assert fingerprint(STRANGER) in lost["message"]
    assert second.pins.list() == {first.ip: STRANGER}


def test_no_pin_says_what_to_do(pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    first, second = pair
    first.pins.remove(second.ip)
    zero = up(first, second)
    assert zero.end() == 3
    (line,) = zero.stderr
    assert "run 'jaccl-bootstrap identity' there" in line
    assert f"'jaccl-bootstrap pin {second.ip} KEY' here" in line
    nothing_left(zero)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_rank_never_comes(rank: int, pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    own, peer = pair if rank == 0 else pair[::-1]
    run = up(own, peer, "--json", "--timeout", "1")
    assert run.end() == 3
    assert (error(run)["code"], error(run)["rank"]) == ("deadline", rank)
    assert run.events[-1]["ok"] is False
    nothing_left(run)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--own-ip", "::1", "--peer-ip", "127.0.0.1"], "'::1' is not the IPv4 address"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.1"], "give --rank"),
        (["--own-ip", "127.0.0.1"], "--peer-ip"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--rank", "2"], "rank '2' is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--link-port", "0"], "link port 0 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--coordinator-port", "65535"], "port 65535 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--revision", "3"], "--revision"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--backend", "mpi"], "backend 'mpi' is unknown"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--timeout", "0"], "timeout 0.0 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--peer-key", "AA=="], "key"),
        (
            ["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--revision", "1", "--trust-first-use"],
            "revision 1 proves no key",
        ),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, command: Start, nothing_left: Check, tmp_path: Path) -> None:
    run = command("up", *arguments, env={"XDG_CONFIG_HOME": str(tmp_path / "home")})
    assert run.end() == 2
    (line,) = run.stderr
    assert line.startswith("jaccl-bootstrap")
    assert text in line
    assert not (tmp_path / "home").exists()
    nothing_left(run)


def test_no_home(pair: tuple[Rank, Rank], command: Start) -> None:
    run = command("up", "--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", env={"XDG_CONFIG_HOME": "", "HOME": ""})
    assert run.end() == 3
    (line,) = run.stderr
    assert "HOME" in line


def test_ctrl_c(pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    first, second = pair
    run = up(second, first, "--json")
    run.until(("listening", 1))
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 3
    assert error(run)["code"] == "interrupted"
    nothing_left(run)
    with socket.create_server((second.ip, 7777)):
        pass


def test_a_killed_rank_ends_the_other(
    pair: tuple[Rank, Rank], up: Start, nothing_left: Check, nothing_left_soon: Check
) -> None:
    """Rank 1's native init waits for rank 0, whose processes are stopped, and then killed."""
    first, second = pair
    zero = up(first, second, "--json")
    zero.until(("link-lost", 0))
    one = up(second, first, "--json")
    zero.until(("started", 0))
    zero.process.send_signal(signal.SIGSTOP)
    psutil.Process(zero.pid_of(0)).send_signal(signal.SIGSTOP)
    one.until(("started", 1))
    zero.process.send_signal(signal.SIGKILL)
    assert one.end() == 3
    assert error(one)["code"] in ("link-lost", "worker-died", "init-failed", "sum-failed")
    nothing_left(one)
    nothing_left_soon(zero)


def test_the_same_addresses_again_at_once(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    for _ in range(2):
        one, zero = up(second, first, "--json"), up(first, second, "--json")
        assert (zero.end(), one.end()) == (0, 0), (zero.stderr, one.stderr)


def test_the_key_log(pair: tuple[Rank, Rank], up: Start, tmp_path: Path) -> None:
    first, second = pair
    logs = [tmp_path / "keys0", tmp_path / "keys1"]
    one = up(second, first, "--json", "--dry-run", env={"WIREPROTO_KEYLOGFILE": str(logs[1])})
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run", env={"WIREPROTO_KEYLOGFILE": str(logs[0])})
    assert (zero.end(), one.end()) == (0, 0)
    texts = [log.read_text() for log in logs]
    assert re.fullmatch(r"CLUSTER_SESSION_KEY [0-9a-f]{64} [0-9a-f]{64}\n", texts[0])
    assert texts[0] == texts[1]
    assert [stat.S_IMODE(log.stat().st_mode) for log in logs] == [0o600, 0o600]
    assert any("whoever has it can read what was said" in line for line in zero.stderr)


def test_a_key_log_that_cannot_be_opened(pair: tuple[Rank, Rank], up: Start, tmp_path: Path) -> None:
    run = up(*pair, "--dry-run", env={"WIREPROTO_KEYLOGFILE": str(tmp_path)})
    assert run.end() == 2
    (line,) = run.stderr
    assert "WIREPROTO_KEYLOGFILE" in line
