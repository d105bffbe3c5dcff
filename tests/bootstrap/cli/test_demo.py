"""Whole demos: real processes, a real link, the real ring backend of MLX."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import bootstrap
from bootstrap import ConfigError, Plan
from bootstrap.cli.demo import Demo
from bootstrap.events import FIELDS
from bootstrap.system.network import reserved_ports
from tests.bootstrap.conftest import wait_until

Start = Callable[..., Any]
Check = Callable[[Any], None]
Soon = Callable[[Callable[[], bool], str], None]

LINK_0 = ["connected", "established", "bootstrap-sent"]
LINK = ["listening", "connected", "established", "confirmed", "bootstrap-received", "session-ended"]
GROUP = ["file-written", "environment-set", "group-ready", "sum-checked"]


def can_listen(address: tuple[str, int]) -> bool:
    try:
        with socket.create_server(address):
            return True
    except OSError:
        return False


def by_name(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_demo_forms_a_real_group(ranks: int, command: Start, nothing_left: Check, soon: Soon) -> None:
    demo = command("demo", "--json", "--ranks", str(ranks), "--session-id", "S-1")
    assert demo.end() == 0
    events = demo.events
    assert [json.dumps(event) + "\n" for event in events] == demo.seen

    for event in events:
        assert {"t_ms", *FIELDS[event["event"]]} <= event.keys()
        assert event["t_ms"] >= 0
        assert round(event["t_ms"], 1) == event["t_ms"]
    for rank in range(ranks):
        own = [event for event in events if event.get("rank") == rank]
        group = [event["event"] for event in own if event["event"] in GROUP]
        assert group == GROUP
        if rank:
            assert [event["event"] for event in own if event["event"] in LINK] == LINK
        for peer in range(1, ranks if rank == 0 else 0):
            # Confirmed and a pong may come at any time after that.
            link = [event["event"] for event in own if event.get("peer") == peer and event["event"] in LINK_0]
            assert link == LINK_0
        # Events of the worker are on the same clock, and may be shown later.
        times = [event["t_ms"] for event in own if event["event"] not in GROUP]
        assert times == sorted(times)

    sent, received = by_name(events, "bootstrap-sent"), by_name(events, "bootstrap-received")
    assert [event["peer"] for event in sent] == list(range(1, ranks))
    (port,) = {event["port"] for event in sent + received}
    for event in sent + received:
        assert event["session_id"] == "S-1"
    for event in by_name(events, "file-written"):
        assert event["format"] == "ring-hostfile"
        assert event["path"].endswith("/darkbloom-ring-hosts-S-1.json")
        assert event["path"].startswith(str(demo.tmp))
    for event in by_name(events, "environment-set"):
        assert event["variables"]["MLX_RANK"] == str(event["rank"])
        assert event["variables"]["MLX_JACCL_COORDINATOR"] == f"127.0.0.1:{port}"
    assert {(e["size"], e["backend"]) for e in by_name(events, "group-ready")} == {(ranks, "ring")}
    assert [event["value"] for event in by_name(events, "sum-checked")] == [ranks * (ranks + 1) // 2] * ranks

    done = events[-1]
    assert {**done, "t_ms": 0} == {"event": "done", "ok": True, "ranks": ranks, "backend": "ring", "t_ms": 0}
    for rank in range(ranks):
        wanted = f"[rank {rank}] INFO bootstrap.group: ring DistributedGroup ready (rank {rank}): size={ranks}"
        assert demo.stderr.count(wanted) == 1
    nothing_left(demo)
    addresses = [("127.0.0.1", port + rank) for rank in range(ranks)]
    addresses += [(event["host"], event["port"]) for event in by_name(events, "listening")]
    for address in addresses:
        soon(lambda address=address: can_listen(address), f"{address} is free")


@pytest.mark.parametrize("revision", ["1", "2"])
def test_each_revision_forms_a_group(revision: str, command: Start, nothing_left: Check) -> None:
    demo = command("demo", "--json", "--revision", revision)
    assert demo.end() == 0, demo.stderr
    # Only a sealed frame proves that the peer has the key.
    assert len(by_name([e for e in demo.events if e.get("rank") == 1], "confirmed")) == int(revision) - 1
    nothing_left(demo)


def test_two_demos_at_once_do_not_meet(command: Start, nothing_left: Check) -> None:
    demos = [command("demo", "--json", "--session-id", "same") for _ in range(2)]
    assert [demo.end() for demo in demos] == [0, 0]
    for demo in demos:
        nothing_left(demo)


def test_the_port_is_verbatim_and_can_be_used_again_at_once(command: Start) -> None:
    with reserved_ports("127.0.0.1", 2) as port:
        pass
    for _ in range(2):
        demo = command("demo", "--json", "--port", str(port))
        assert demo.end() == 0, demo.stderr
        assert {event["port"] for event in by_name(demo.events, "bootstrap-received")} == {port}


def test_contrary_variables_are_cleared(command: Start) -> None:
    stale = {"JACCL_RANK": "5", "MLX_RANK": "6", "MLX_IBV_DEVICES": "/nowhere", "JACCL_RING": "0"}
    demo = command("demo", "--json", env=stale)
    assert demo.end() == 0
    for event in by_name(demo.events, "environment-set"):
        assert event["cleared"] == ["JACCL_RANK", "JACCL_RING", "MLX_IBV_DEVICES"]


def test_modules_in_the_current_directory_do_not_get_in(
    command: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(bootstrap.__file__).parents[1]))
    for name in ("msgspec", "bootstrap", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    demo = command("demo", "--json")
    assert demo.end() == 0, demo.stderr


def test_plain_output_is_an_aligned_line_a_step(command: Start) -> None:
    demo = command("demo", "--session-id", "S-1")
    assert demo.end() == 0
    for line in demo.seen:
        assert re.fullmatch(r" *\d+ ms  (rank [01]|done  )  [ -~]+\n", line)
        assert line.index(" ms  ") == 5
    steps = [line.split(" ms  ")[1] for line in demo.seen]
    assert len(steps) >= 2 + len(LINK_0) + len(LINK) + 2 * len(GROUP) + 1
    assert "rank 0  group ready: size 2, ring\n" in steps
    assert "rank 1  sum checked: 3\n" in steps
    assert "rank 1  environment set: MLX_RANK MLX_JACCL_COORDINATOR MLX_HOSTFILE\n" in steps
    assert steps[-1] == "done    2 ranks form one ring group\n"


def test_what_native_code_prints_is_no_event(command: Start) -> None:
    demo = command("demo", "--json", worker="native_noise.py")
    assert demo.end() == 0
    assert "[rank 0] native noise" in demo.stderr
    assert demo.events[-1]["ok"] is True


def failed(demo: Any, code: str) -> dict[str, Any]:
    """Check how a failed demo ends: exit 3, one error, one line for it, `done` last. Return the error."""
    assert demo.end() == 3
    (error,) = by_name(demo.events, "error")
    assert error["code"] == code, error
    assert demo.events[-1] | {"t_ms": 0, "backend": ""} == {
        "event": "done", "ok": False, "ranks": demo.events[-1]["ranks"], "backend": "", "code": code, "t_ms": 0,
    }  # fmt: skip
    where = "" if error["rank"] is None else f"rank {error['rank']}: "
    assert [line for line in demo.stderr if line.startswith("jaccl-bootstrap")] == [
        f"jaccl-bootstrap demo: {where}{error['message']}"
    ]
    assert "Traceback" not in "".join(demo.stderr)
    return error


def stuck(command: Start, *arguments: str, worker: str = "stuck.py", ranks: int = 3) -> Any:
    """A demo whose rank 1 hangs while the others wait for it, each with its file on disk.

    The last rank has written its file, and waits for its turn to begin its init.
    """
    demo = command("demo", "--json", "--ranks", str(ranks), *arguments, worker=worker)
    demo.until(("bootstrap-received", 1), *[("environment-set", rank) for rank in range(ranks - 1) if rank != 1])
    wait_until(lambda: len(list(demo.tmp.rglob("darkbloom-ring-hosts-*.json"))) == ranks - 1, "a file for each other")
    return demo


@pytest.mark.parametrize("worker", ["stuck.py", "deaf.py"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing(
    number: signal.Signals, worker: str, command: Start, nothing_left: Check
) -> None:
    demo = stuck(command, worker=worker)
    demo.process.send_signal(number)
    assert demo.end() == 128 + number
    assert by_name(demo.events, "error") == []
    assert demo.events[-1]["stopped"] is True
    nothing_left(demo)


def test_an_impatient_second_ctrl_c_changes_nothing(command: Start, nothing_left: Check) -> None:
    demo = stuck(command, worker="deaf.py")
    demo.process.send_signal(signal.SIGINT)
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 130
    nothing_left(demo)


def test_the_deadline_ends_a_demo(command: Start, nothing_left: Check) -> None:
    demo = command("demo", "--json", "--timeout", "3", worker="stuck.py")
    error = failed(demo, "deadline")
    assert "no group within 3 s" in error["message"]
    assert demo.events[-1]["t_ms"] >= 3000
    nothing_left(demo)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_is_named(victim: int, command: Start, nothing_left: Check) -> None:
    demo = stuck(command)
    os.kill(demo.pid_of(victim), signal.SIGKILL)
    error = failed(demo, "worker-killed")
    assert error["rank"] == victim
    assert "signal SIGKILL" in error["message"]
    nothing_left(demo)


def test_the_rank_that_died_is_blamed_not_those_that_noticed(command: Start, nothing_left: Check) -> None:
    demo = command("demo", "--json", worker="dies_after_group.py")
    error = failed(demo, "worker-killed")
    assert (error["rank"], error["stage"]) == (1, "worker")
    assert "signal SIGKILL after 'group-ready'" in error["message"]
    nothing_left(demo)


def test_a_worker_that_ends_without_a_word(command: Start, nothing_left: Check) -> None:
    demo = command("demo", "--json", worker="exits.py")
    assert "the worker ended with exit status 7" in failed(demo, "mlx-crashed")["message"]
    nothing_left(demo)


def test_a_worker_that_babbles(command: Start, nothing_left: Check) -> None:
    demo = command("demo", "--json", worker="babbles.py")
    failed(demo, "worker-output")
    nothing_left(demo)


@pytest.mark.parametrize("worker", ["stuck.py", "deaf.py"])
def test_a_killed_supervisor_leaves_nothing(worker: str, command: Start, nothing_left_soon: Check) -> None:
    demo = stuck(command, worker=worker)
    demo.process.kill()
    nothing_left_soon(demo)


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_a_reader_that_leaves_after_one_line(arguments: list[str], command: Start, nothing_left: Check) -> None:
    demo = command("demo", *arguments, into="head -n 1")
    assert demo.end() == 0
    assert len(demo.seen) == 1
    assert demo.stderr[-1] == "exit 3"
    assert not any(line for line in demo.stderr[:-1] if not line.startswith("[rank "))
    nothing_left(demo)


def test_a_backend_that_is_not_there(command: Start, nothing_left: Check) -> None:
    if mx.distributed.is_available("jaccl"):
        pytest.skip("this host has jaccl")
    demo = command("demo", "--json", "--backend", "jaccl")
    error = failed(demo, "backend-unavailable")
    assert error["stage"] == "group"
    assert demo.events[-1]["backend"] == "jaccl"
    nothing_left(demo)


def test_a_port_in_use(command: Start, nothing_left: Check) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        demo = command("demo", "--json", "--port", str(taken.getsockname()[1]))
        assert "is in use; leave --port out" in failed(demo, "port-in-use")["message"]
    assert by_name(demo.events, "started") == []
    nothing_left(demo)


def demo_of(ranks: int = 2, host: str = "127.0.0.1", **more: Any) -> Demo:
    return Demo(Plan(rank=0, ips=(host,) * ranks, link_ports=(), **more))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"ranks": 1}, "bad-ranks"),
        ({"backend": "any"}, "bad-backend"),
        ({"host": "169.254.1.1"}, "not-loopback"),
        ({"host": "::1"}, "bad-ip"),
        ({"port": 0}, "bad-port"),
        ({"ranks": 8, "port": 65529}, "bad-port"),
        ({"session_id": ".."}, "bad-session-id"),
        ({"timeout": 0.0}, "bad-timeout"),
        ({"timeout": float("nan")}, "bad-timeout"),
        ({"timeout": 1e9}, "bad-timeout"),
    ],
)
def test_a_demo_that_cannot_be(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        demo_of(**wrong)
    assert caught.value.code == code


def test_loopback_is_the_whole_of_127() -> None:
    assert demo_of(host="127.8.9.10").plan.size == 2
