"""`jaccl-bootstrap launch` over a real OpenSSH: from a rank's host, from a third one, and how each fault ends."""

import asyncio
import fcntl
import getpass
import json
import os
import signal
import socket
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

import bootstrap
from bootstrap import events
from bootstrap.hostfile import read_hostfile
from bootstrap.trust import Pins, load_identity
from tests.bootstrap.cli.test_up_mlx_lm import SERVER, complete
from tests.bootstrap.conftest import SCRIPTS, CommandRun, wait_until
from tests.bootstrap.launch.sshd import Hosts, kill_ssh
from tests.bootstrap.ranks import LINK_PORT, Check, Start, error, of
from tests.bootstrap.tiny_model import NO_COMPILER, OFFLINE, write_model

WAITS = ("--", "/bin/sh", "-c", "echo begun; exec sleep 600")


def lines(run: CommandRun) -> list[tuple[int, str]]:
    return [(event["rank"], event["line"]) for event in of(run, "output") if event["stream"] == "stdout"]


def looked(run: CommandRun) -> list[tuple[str, str, str | None]]:
    return [(event["host"], event["left"], event["not_checked"]) for event in of(run, "looked")]


def all_begun(run: CommandRun, size: int = 2) -> None:
    for rank in range(size):
        run.until(("output", rank))


def test_three_ranks_from_a_third_host(hosts: Hosts, launch: Start, clean: Check, tmp_path: Path) -> None:
    """With a user name, a port and a jump host; input, its end, two streams, log files, a hostfile, and pins."""
    hosts.more_config(f"Host {hosts.all[2].name}\n  ProxyJump {hosts.all[0].name}\n")
    program = "echo begun $MLX_RANK; echo oops >&2; cat; echo over"
    (tmp_path / "logs").mkdir()
    names = [f"{getpass.getuser()}@{hosts.all[0].name}", *(host.name for host in hosts.all[1:])]
    kept = ("--pin", "--log-dir", str(tmp_path / "logs"), "--write-hostfile", str(tmp_path / "found.json"))
    run = launch(names, *kept, "--", "/bin/sh", "-c", program, search=True)
    assert run.process.stdin is not None
    run.process.stdin.write("one\ntwo\n")
    run.process.stdin.close()
    assert run.end() == 0, (run.events, run.stderr)
    by_rank = [[line for rank, line in lines(run) if rank == number] for number in range(3)]
    assert by_rank == [["begun 0", "one", "two", "over"], ["begun 1", "over"], ["begun 2", "over"]]
    assert sorted(event["rank"] for event in of(run, "output") if event["stream"] == "stderr") == [0, 1, 2]
    assert looked(run) == [(name, "", None) for name in names]
    done = run.events[-1]
    assert (done["ok"], done["ranks"], done["backend"], done["status"]) == (True, 3, "ring", 0)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [f"rank-{rank}.1.log" for rank in range(3)]
    assert set((tmp_path / "logs" / "rank-0.1.log").read_text().splitlines()) == {*by_rank[0], "oops"}
    found = read_hostfile(tmp_path / "found.json")
    assert (found.ips, found.ssh) == (tuple(host.ip for host in hosts.all), tuple(names))
    for number, host in enumerate(hosts.all):
        pins = Pins(host.home / "cluster-wireproto" / "peers.json").list()
        assert [(pin.name, pin.address) for pin in pins] == [
            (other.name, other.ip) for place, other in enumerate(hosts.all) if place != number
        ]
    clean()


def test_the_server_answers_from_a_ranks_host(hosts: Hosts, launch: Start, clean: Check, tmp_path: Path) -> None:
    """Until Ctrl-C, which stops both ranks cleanly."""
    (tmp_path / "model").mkdir()
    model, zero = write_model(tmp_path / "model"), hosts.all[0]
    with socket.create_server((zero.ip, 0)) as free:
        port = free.getsockname()[1]
    offline = {"HF_HOME": str(tmp_path), **OFFLINE, **NO_COMPILER}
    variables = [word for name, value in offline.items() for word in ("--env", f"{name}={value}")]
    arguments = (*variables, *SERVER, "--model", str(model), "--host", zero.ip, "--port", str(port))
    run = launch(["localhost", hosts.all[1].name], *arguments)

    def listens() -> bool:
        assert run.process.poll() is None, (run.end(), run.events, run.stderr)
        try:
            socket.create_connection((zero.ip, port)).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, "rank 0's server listens")
    status, answer = complete(zero.ip, port, prompt="a1 b2 c3", max_tokens=4)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 4), answer
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, (run.events, run.stderr)
    assert of(run, "error") == []
    assert run.events[-1]["stopped"] is True
    assert looked(run) == [("localhost", "", None), (hosts.all[1].name, "", None)]
    clean()


def test_a_rank_fails(hosts: Hosts, launch: Start, clean: Check) -> None:
    """The exit status is that of the first cause, which is reported once."""
    program = "if [ $MLX_RANK = 1 ]; then exit 7; fi; exec sleep 600"
    run = launch(["localhost", hosts.all[1].name], "--", "/bin/sh", "-c", program)
    assert run.end() == 7, (run.events, run.stderr)
    failure = error(run)
    assert (failure["code"], failure["rank"], failure["stage"]) == ("command-failed", 1, "command")
    assert [left for _, left, _ in looked(run)] == ["", ""]
    clean()


def fake_python(directory: Path, script: str) -> str:
    """A program used as the Python of the other hosts; `"$@"` of the script are its arguments."""
    fake = directory / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    return str(fake)


def test_a_rank_fails_in_its_init(hosts: Hosts, launch: Start, clean: Check, tmp_path: Path) -> None:
    """Its worker dies there, which it reports; the other rank is in its own init."""
    worker = f"exec {sys.executable} {SCRIPTS / 'command.py'} {SCRIPTS / 'dies_in_init.py'} up --launched"
    python = fake_python(tmp_path, f'case "$*" in *--launched) {worker};; esac; exec {sys.executable} "$@"')
    run = launch(["localhost", hosts.all[1].name], "--python", python)
    assert run.end() == 3, (run.events, run.stderr)
    failure = error(run)
    assert (failure["code"], failure["rank"], failure["stage"]) == ("worker-died", 1, "worker")
    assert [left for _, left, _ in looked(run)] == ["", ""]
    clean()


STAGES = {"starting": ("ladders", None), "linking": ("connected", 0), "forming": ("bootstrap-received", 1)}
"""The event that begins a stage."""


@pytest.fixture
def hanging(tmp_path: Path) -> Callable[[str], str]:
    """A Python for other hosts that hangs while they are `asked`, or `looked` at; then a file of that name is there."""

    def make(stage: str) -> str:
        hangs = f"touch {tmp_path}/{stage}; exec cat >/dev/null"
        begun = f"touch {tmp_path}/begun"
        at_look = f'case "$*" in *host) if test -e {tmp_path}/begun; then {hangs}; fi;; *) {begun};; esac'
        return fake_python(tmp_path, f'{at_look if stage == "looked" else hangs}; exec {sys.executable} "$@"')

    return make


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_each_stage(stage: str, hosts: Hosts, launch: Start, clean: Check) -> None:
    run = launch(["localhost", hosts.all[1].name], *WAITS)
    run.until(STAGES[stage])
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, (run.events, run.stderr)
    assert run.events[-1]["stopped"] is True
    assert of(run, "error") == []
    assert {(left, why) for _, left, why in looked(run)} <= {("", None)}  # none before a rank is started
    clean(soon=stage == "starting")  # where a request is cut off, which the host notices a moment later


def test_ctrl_c_while_the_hosts_are_asked(
    hosts: Hosts, launch: Start, clean: Check, tmp_path: Path, hanging: Callable[[str], str]
) -> None:
    run = launch([host.name for host in hosts.all[:2]], "--python", hanging("asked"))
    wait_until((tmp_path / "asked").exists, "a host is asked")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, (run.events, run.stderr)
    assert [(event["event"], event["code"]) for event in run.events] == [("done", "interrupted")]
    clean(soon=True)


def test_a_second_ctrl_c_ends_the_last_look(
    hosts: Hosts, launch: Start, clean: Check, tmp_path: Path, hanging: Callable[[str], str]
) -> None:
    name = hosts.all[1].name
    run = launch(["localhost", name], "--python", hanging("looked"), "--", "true")
    wait_until((tmp_path / "looked").exists, "a host is looked at")
    run.process.send_signal(signal.SIGINT)
    status = Path(f"/proc/{run.process.pid}/status")
    wait_until(lambda: "ShdPnd:\t0000000000000000" in status.read_text(), "the first one has arrived")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, (run.events, run.stderr)
    assert looked(run)[1] == (name, "", "interrupted")
    clean(soon=True)


@pytest.mark.parametrize("stage", STAGES)
def test_ssh_dies_in_each_stage(stage: str, hosts: Hosts, launch: Start, clean: Check) -> None:
    """Only this is the cause."""
    name = hosts.all[1].name
    run = launch(["localhost", name], *WAITS)
    run.until(STAGES[stage])
    kill_ssh(run, "up --launched")
    assert run.end() == 125, (run.events, run.stderr)
    failure = error(run)
    assert (failure["code"], failure["rank"]) == ("rank-lost", 1)
    assert failure["message"] == f"{name}: ssh ended by signal SIGKILL"
    clean(soon=True)


def test_ssh_dies_while_a_host_is_asked(
    hosts: Hosts, launch: Start, clean: Check, tmp_path: Path, hanging: Callable[[str], str]
) -> None:
    name = hosts.all[1].name
    run = launch(["localhost", name], "--python", hanging("asked"))
    wait_until((tmp_path / "asked").exists, "a host is asked")
    kill_ssh(run, "host")
    assert run.end() == 3, (run.events, run.stderr)
    assert (error(run)["code"], error(run)["rank"]) == ("rank-lost", 1)
    assert error(run)["message"] == f"{name}: ssh ended by signal SIGKILL"
    clean(soon=True)


def test_ssh_dies_at_the_last_look(
    hosts: Hosts, launch: Start, clean: Check, tmp_path: Path, hanging: Callable[[str], str]
) -> None:
    """The launch succeeded; only that host is named as not checked."""
    name = hosts.all[1].name
    run = launch(["localhost", name], "--python", hanging("looked"), "--", "true")
    wait_until((tmp_path / "looked").exists, "a host is looked at")
    kill_ssh(run, "host")
    assert run.end() == 0, (run.events, run.stderr)
    assert looked(run) == [("localhost", "", None), (name, "", f"{name}: ssh ended by signal SIGKILL")]
    clean(soon=True)


def test_a_host_is_not_ready(hosts: Hosts, launch: Start, clean: Check) -> None:
    """The doctor found a problem: nothing has started, and the table has its remedy."""
    name, ip = hosts.all[1].name, hosts.all[1].ip
    with socket.create_server((ip, LINK_PORT)):
        run = launch(["localhost", name])
        assert run.end() == 3, (run.events, run.stderr)
    assert (error(run)["code"], error(run)["message"].split(": ")[:2]) == ("host-not-ready", [name, "link-port"])
    (ladders,) = of(run, "ladders")
    assert [(row["host"], row["ok"]) for row in ladders["rows"]] == [("localhost", True), (name, False)]
    assert "lsof" in ladders["rows"][1]["check"]["remedy"]
    assert [event["event"] for event in run.events] == ["ladders", "error", "done"]
    clean(soon=True)


def test_ssh_is_killed(hosts: Hosts, launch: Start, clean: Check) -> None:
    """Its rank ends with its channel, and the other is stopped; the loss of ssh is the cause."""
    run = launch(["localhost", hosts.all[1].name], *WAITS)
    all_begun(run)
    kill_ssh(run, "up --launched")
    assert run.end() == 125, (run.events, run.stderr)
    failure = error(run)
    assert (failure["code"], failure["rank"]) == ("rank-lost", 1)
    assert failure["message"] == f"{hosts.all[1].name}: ssh ended by signal SIGKILL"
    assert [left for _, left, _ in looked(run)] == ["", ""]
    clean()


def test_the_launcher_is_killed(hosts: Hosts, launch: Start, clean: Check) -> None:
    """All channels end, and all ranks with them."""
    run = launch(["localhost", hosts.all[1].name], *WAITS)
    all_begun(run)
    run.process.kill()
    run.process.wait()
    clean(soon=True)


def test_a_terminal_stalls_while_output_floods(hosts: Hosts, launch: Start, clean: Check, tmp_path: Path) -> None:
    """The launcher's output is not read; SIGTERM still ends everything."""
    reading, writing = os.pipe()
    run = launch([host.name for host in hosts.all[:2]], "--", "yes", "flood", stdout=writing)
    os.close(writing)
    try:
        wait_until(lambda: _waiting(reading) > 60_000, "the pipe is full")
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.stderr
        assert b"flood" in os.read(reading, 65536)
    finally:
        os.close(reading)
    clean()


def _waiting(descriptor: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_host_cannot_be_reached(hosts: Hosts, launch: Start, clean: Check) -> None:
    """ssh's own message is the reason, nothing has started, and no host must be checked."""
    hosts.more_config(f"Host {hosts.all[1].name}\n  Port 1\n")
    run = launch([hosts.all[0].name, hosts.all[1].name])
    assert run.end() == 3, (run.events, run.stderr)
    failure = error(run)
    assert (failure["code"], failure["rank"]) == ("ssh-failed", 1)
    assert (
        failure["message"] == f"{hosts.all[1].name}: ssh: connect to host {hosts.all[1].ip} port 1: Connection refused"
    )
    assert [event["event"] for event in run.events] == ["error", "done"]
    clean(soon=True)


def test_the_library(hosts: Hosts, clean: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed events of all ranks; leaving the block stops the ranks cleanly."""
    names = [host.name for host in hosts.all[:2]]
    monkeypatch.setenv("PATH", hosts.client_env["PATH"])

    async def main() -> set[tuple[int | None, str]]:
        seen = set()
        hostfile = read_hostfile(hosts.hostfile(names))
        async with bootstrap.launch(names, hostfile=hostfile, command=WAITS[1:]) as run:
            async for event in run:
                if isinstance(event, events.Output):
                    seen.add((event.rank, event.line))
                    if len(seen) == 2:
                        break
        return seen

    assert asyncio.run(main()) == {(0, "begun"), (1, "begun")}
    clean()


def test_pair(hosts: Hosts, command: Start) -> None:
    """Each then has the other's key and address; a second run changes nothing."""
    own, peer = hosts.all[:2]
    for _ in range(2):
        run = command("pair", "--json", peer.name, env={**hosts.client_env, **own.env}, tmp=own.tmp)
        assert run.end() == 0, run.stderr
        assert json.loads(run.seen[0])["peer"] == {"name": peer.name, "address": peer.ip}
        pins = [Pins(host.home / "cluster-wireproto" / "peers.json").list() for host in (own, peer)]
        keys = [load_identity(host.home / "cluster-wireproto" / "identity.pem").public_key for host in (own, peer)]
        assert [[(pin.name, pin.key, pin.address) for pin in each] for each in pins] == [
            [(peer.name, keys[1], peer.ip)],
            [(socket.gethostname(), keys[0], "127.0.0.1")],
        ]
