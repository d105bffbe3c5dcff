"""Launches between network namespaces: each host has its own OpenSSH server, addresses and interface."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from bootstrap.control.child import GRACE_SECONDS
from bootstrap.launch.channel import SILENCE_SECONDS
from bootstrap.launch.ssh import CONNECT_SECONDS
from tests.bootstrap.conftest import SCRIPTS, CommandRun, wait_until
from tests.bootstrap.launch.namespaces import Cluster, cluster
from tests.bootstrap.launch.sshd import SshHost, kill_ssh

pytestmark = [
    pytest.mark.waits,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

Launch = Callable[..., CommandRun]
BUSY: Final = 30.0
"""Extra seconds for a busy machine."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[int], Cluster]]:
    """Create hosts."""
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(cluster(tmp_path / "hosts", count))


@pytest.fixture
def launch(command: Callable[..., CommandRun], tmp_path: Path) -> Launch:
    """Launch from one of the hosts, which takes part as `localhost`, or from another one."""

    def start(made: Cluster, *arguments: str, own: SshHost | None = None) -> CommandRun:
        names = ["localhost" if host is own else host.name for host in made.all]
        namespace = made.third if own is None else made.names[own.name]
        env = made.client_env | ({"XDG_CONFIG_HOME": str(tmp_path / "config")} if own is None else own.env)
        return command(
            "launch",
            "--hosts",
            ",".join(names),
            "--json",
            *arguments,
            env=env,
            tmp=None if own is None else own.tmp,
            prefix=("ip", "netns", "exec", namespace),
        )

    return start


def looks(run: CommandRun) -> dict[str, tuple[str, str | None]]:
    """Return the result of the last check of each host, and the reason if it failed."""
    found = [event for event in run.events if event["event"] == "looked"]
    return {event["host"]: (event["left"], event["not_checked"]) for event in found}


CLEAN = ("", None)


def written(run: CommandRun) -> list[Any]:
    """Return the output of the ranks' programs, in the order of the ranks."""
    lines = [(event["rank"], event["line"]) for event in run.events if event["event"] == "output"]
    return [json.loads(line) for _, line in sorted(lines) if line.startswith("{")]


def failure(run: CommandRun) -> dict[str, Any]:
    [found] = [event for event in run.events if event["event"] == "error"]
    return found


@pytest.mark.parametrize(("count", "is_own"), [(2, True), (3, False), (4, True)])
def test_hosts_form_a_group_over_their_network(
    count: int, is_own: bool, hosts: Callable[[int], Cluster], launch: Launch
) -> None:
    made = hosts(count)
    run = launch(made, "--script", str(SCRIPTS / "in_group.py"), own=made.all[0] if is_own else None)
    assert run.process.stdin is not None
    run.process.stdin.close()
    assert run.end() == 0, run.stderr
    total = count * (count + 1) // 2
    assert [facts["group"] for facts in written(run)] == [[rank, count, total] for rank in range(count)]
    assert looks(run) == dict.fromkeys(["localhost" if is_own else "mac-a", "mac-b", "mac-c", "mac-d"][:count], CLEAN)
    assert [made.left(host) for host in made.all] == [[]] * count


def test_a_launcher_that_is_cut_off_ends_the_group(hosts: Callable[[int], Cluster], launch: Launch) -> None:
    """The simulation cuts off a single host."""
    made = hosts(2)
    run = launch(made)
    run.until(("holding", 0), ("holding", 1))
    made.cut_off(None)
    began = time.monotonic()
    for host in made.all:
        wait_until(lambda host=host: not made.left(host), f"{host.name} is clean by itself")
    assert time.monotonic() - began < SILENCE_SECONDS + GRACE_SECONDS + BUSY
    assert run.end() == 3
    assert failure(run)["code"] == "ssh-lost", failure(run)
    for host in made.all:
        left, why = looks(run)[host.name]
        assert left == ""
        assert (why or "").startswith(f"{host.name}: ssh: connect to host {host.ip}"), why


def test_a_launcher_that_is_killed_leaves_nothing(hosts: Callable[[int], Cluster], launch: Launch) -> None:
    made = hosts(2)
    run = launch(made, own=made.all[0])
    run.until(("holding", 0), ("holding", 1))
    run.process.send_signal(signal.SIGKILL)
    for host in made.all:
        wait_until(lambda host=host: not made.left(host), f"{host.name} is clean")


def test_a_host_that_cannot_be_reached(hosts: Callable[[int], Cluster], launch: Launch) -> None:
    made = hosts(2)
    made.cut_off(made.all[1])
    began = time.monotonic()
    run = launch(made, own=made.all[0])
    assert run.end() == 3
    assert time.monotonic() - began < CONNECT_SECONDS + BUSY
    error = failure(run)
    assert error["rank"] == 1
    assert error["message"].startswith("mac-b: ssh: connect to host 10.77.0.2 port 2222: "), error
    assert not made.left(made.all[0])


def test_what_a_frozen_rank_leaves_is_told_of_its_host_alone(hosts: Callable[[int], Cluster], launch: Launch) -> None:
    """The hosts share a kernel, and therefore process ids. In the simulation, rank 0 notices by missed pongs."""
    made = hosts(2)
    run = launch(made, own=made.all[0])
    run.until(("holding", 0), ("holding", 1))
    own = [pid for pid, command in made.processes(made.all[1]).items() if command.endswith("bootstrap up --launched")]
    for pid in own:
        os.kill(pid, signal.SIGSTOP)
    kill_ssh(run, "up --launched")
    assert run.end() == 3
    error = failure(run)
    assert (error["rank"], error["code"]) == (1, "rank-lost"), error
    found = looks(run)
    assert found["localhost"] == CLEAN
    left, why = found["mac-b"]
    assert "the host's lock" in left
    assert any(str(pid) in left for pid in own), (left, own)
    assert why is None
    for pid in own:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not made.left(made.all[1]), "it ends once it goes on")
