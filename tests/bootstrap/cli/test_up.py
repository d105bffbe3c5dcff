"""`jaccl-bootstrap up`: two real processes on two addresses of this host."""

import json
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from bootstrap.trust import encode_public_key
from tests.bootstrap.ranks import Check, Rank, Start, error, names
from wireproto.session.handshake import KeySigner, fingerprint

STRANGER = KeySigner.generate().public_key


LINK_0 = ("connected", "established", "bootstrap-sent")
LINK_1 = ("listening", "connected", "established", "bootstrap-received")
GROUP = ("file-written", "environment-set", "group-ready")


def hold_then_stop(zero: Any, one: Any) -> None:
    """Two ranks that hold a group; Ctrl-C on rank 0 stops both cleanly."""
    zero.until(("holding", 0))
    one.until(("holding", 1))
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0), (zero.events, zero.stderr, one.events, one.stderr)


@pytest.mark.parametrize("revision", ["1", "2"])
def test_two_ranks_form_a_group(revision: str, pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    """[SESSION-ROLES, BOOT-SEND, BOOT-RECEIVE]"""
    first, second = pair
    one = up(second, first, "--json", "--revision", revision)
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--revision", revision)
    hold_then_stop(zero, one)
    # Only revision 2 has extensions.
    check = "sum-checked" if revision == "2" else "sum-skipped"
    for run, link in ((zero, LINK_0), (one, LINK_1)):
        steps = [*link, *GROUP, check, "holding", "done"]
        assert names(run, "sum-checked", "sum-skipped", *steps) == steps
    # MLX is loaded while the link comes up.
    assert names(zero, "started", "bootstrap-sent")[0] == "started"
    assert names(one, "started", "bootstrap-received")[0] == "started"
    assert len(names(one, "confirmed")) == int(revision) - 1
    (sent,) = [event for event in zero.events if event["event"] == "bootstrap-sent"]
    (received,) = [event for event in one.events if event["event"] == "bootstrap-received"]
    assert (sent["port"], sent["session_id"]) == (29400, received["session_id"])
    for rank, run in enumerate((zero, one)):
        done = run.events[-1]
        assert (done["ok"], done["backend"], done["dry_run"], done["stopped"]) == (True, "ring", False, True)
        assert f"[rank {rank}] INFO bootstrap.group: ring DistributedGroup ready (rank {rank}): size=2" in run.stderr
        nothing_left(run)


@pytest.mark.parametrize("options", [("--revision", "1"), ("--extensions", "off")])
def test_a_dry_run_as_rank_0_starts_no_init_elsewhere(
    options: tuple[str, str], pair: tuple[Rank, Rank], up: Start, nothing_left: Check
) -> None:
    """A peer that does not know dry runs gets no frame; its own dry run ends, too. [PLAIN-DRY-RUN]"""
    first, second = pair
    one = up(second, first, "--json", "--dry-run", *options)
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run", *options)
    assert (zero.end(), one.end()) == (0, 0), (zero.stderr, one.stderr)
    assert names(zero, "bootstrap-sent", "warning", "would-set") == ["warning", "would-set"]
    assert names(one, "bootstrap-received", "warning", "would-set") == ["warning"]
    for run in (zero, one):
        nothing_left(run)


def test_a_dry_run_does_all_but_the_group(pair: tuple[Rank, Rank], up: Start, nothing_left: Check) -> None:
    """[BOOT-COORDINATOR]"""
    first, second = pair
    one = up(second, first, "--json", "--dry-run")
    one.until(("listening", 1))
    zero = up(first, second, "--json", "--dry-run", "--coordinator-port", "30000")
    assert (zero.end(), one.end()) == (0, 0), (zero.stderr, one.stderr)
    assert names(zero, *LINK_0, "started", "would-write", "would-set", "done") == [
        *LINK_0, "would-write", "would-set", "done",
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
        assert run.seen[-1].endswith("done    dry run: the link works; nothing was set or written\n")


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
    one = up(second, first, "--json", "--dry-run", "--peer", encode_public_key(first.key))
    zero = up(first, second, "--json", "--dry-run", "--peer", encode_public_key(second.key))
    assert (zero.end(), one.end()) == (0, 0)
    assert first.pins.list() == []


def test_trust_on_first_use_pins_what_it_saw(pair: tuple[Rank, Rank], up: Start) -> None:
    """[HANDSHAKE-FIRST-USE]"""
    first, second = pair
    first.pins.remove(second.ip)
    for arguments in (["--trust-first-use"], []):
        one = up(second, first, "--json", "--dry-run")
        zero = up(first, second, "--json", "--dry-run", *arguments)
        assert (zero.end(), one.end()) == (0, 0), zero.stderr
        assert first.pins.list() == [(second.ip, second.key, second.ip)]


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
    assert first.pins.list() == [(second.ip, STRANGER, second.ip)]


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
    assert (zero.end(), one.end()) == (130, 130)
    lost = next(event for event in one.events if event["event"] == "link-lost")
    assert lost["code"] == "handshake-wrong-pin"
    assert fingerprint(first.key) in lost["message"]
    assert fingerprint(STRANGER) in lost["message"]
    assert second.pins.list() == [(first.ip, STRANGER, first.ip)]


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
    """[SESSION-TIMES]"""
    own, peer = pair if rank == 0 else pair[::-1]
    run = up(own, peer, "--json", "--timeout", "1")
    assert run.end() == 3
    assert (error(run)["code"], error(run)["rank"]) == ("deadline" if rank else "link-refused", rank)
    assert run.events[-1]["ok"] is False
    nothing_left(run)


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_an_error_says_cause_and_mend_and_whether_to_try_again(
    arguments: list[str], pair: tuple[Rank, Rank], up: Start
) -> None:
    """Four lines for people; for programs one additional event, in one line."""
    run = up(*pair, "--timeout", "0.5", *arguments)
    assert run.end() == 3
    message, why, remedy, again = run.stderr
    refused = f"connecting to {pair[1].ip}:7777 failed: Connection refused"
    assert message == f"jaccl-bootstrap up: rank 0: {refused}; no group within 0.5 s"
    assert [why, remedy, again] == [
        "  likely cause: the other rank is not listening yet",
        "  what to do: start it",
        "  trying again: safe, no native code has run",
    ]
    if arguments:
        event = error(run)
        assert message.endswith(f"rank 0: {event['message']}")
        assert [event["cause"], event["remedy"]] == [why.partition(": ")[2], remedy.partition(": ")[2]]
        assert event["retry"] == "safe"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--own-ip", "::1", "--peer-ip", "127.0.0.1"], "'::1' is not the IPv4 address"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.1"], "give --rank"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.1", "--rank", "0"], "two ranks have the same address"),
        (["--own-ip", "127.0.0.1"], "--peer-ip"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--rank", "2"], "rank 2 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--link-port", "0"], "link port 0 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--coordinator-port", "65535"], "port 65535 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--revision", "3"], "--revision"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--backend", "mpi"], "backend 'mpi' is unknown"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--timeout", "-1"], "timeout -1.0 is wrong"),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--peer", "AA=="], "key"),
        (
            ["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--peer", "AA==", "--trust-first-use"],
            "cannot be combined",
        ),
        (["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--extensions", "yes"], "--extensions yes is wrong"),
        (
            ["--own-ip", "127.0.0.1", "--peer-ip", "127.0.0.2", "--revision", "1", "--trust-first-use"],
            "revision 1 cannot use --trust-first-use, as it proves no key",
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


def test_the_same_addresses_again_at_once(pair: tuple[Rank, Rank], up: Start) -> None:
    first, second = pair
    for _ in range(2):
        one, zero = up(second, first, "--json"), up(first, second, "--json")
        hold_then_stop(zero, one)


def test_the_key_log(pair: tuple[Rank, Rank], up: Start, tmp_path: Path) -> None:
    """[KEY-LOG]"""
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
    assert any("anyone with this file can read the traffic" in line for line in zero.stderr)


def test_a_key_log_that_cannot_be_opened(pair: tuple[Rank, Rank], up: Start, tmp_path: Path) -> None:
    run = up(*pair, "--dry-run", env={"WIREPROTO_KEYLOGFILE": str(tmp_path)})
    assert run.end() == 2
    (line,) = run.stderr
    assert "WIREPROTO_KEYLOGFILE" in line
