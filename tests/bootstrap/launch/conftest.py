"""Launches of real ranks over a real OpenSSH on loopback addresses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bootstrap.conftest import CommandRun, wait_until
from tests.bootstrap.launch.sshd import Hosts, SshHost, ssh_hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ssh_hosts(tmp_path / "hosts", 3) as found:
        yield found


@pytest.fixture
def launch(command: Callable[..., CommandRun], hosts: Hosts) -> Callable[..., CommandRun]:
    """Start `launch --json` on hosts by name, with a hostfile, or by --hosts; `localhost` is the first, without ssh."""

    def start(names: list[str], *arguments: str, search: bool = False, **wanted: Any) -> CommandRun:
        where = ("--hosts", ",".join(names)) if search else ("--hostfile", str(hosts.hostfile(names)))
        env = {**hosts.client_env, **hosts.all[0].env}
        return command("launch", "--json", *where, *arguments, env=env, tmp=hosts.all[0].tmp, **wanted)

    return start


def processes_on(host: SshHost) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(host.tmp) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture
def clean(hosts: Hosts) -> Callable[[], None]:
    """Assert that no process and no file of a launch that has ended is left on any host.

    `soon` where the launcher killed ssh, or was killed: the other side notices that a moment later.
    """

    def is_clean(host: SshHost) -> bool:
        return processes_on(host) == [] and list(host.tmp.rglob("*")) == []

    def check(*, soon: bool = False) -> None:
        for host in hosts.all:
            if soon:
                wait_until(lambda host=host: is_clean(host), f"{host.name} is clean")  # type: ignore[misc]
            assert is_clean(host), (host.name, processes_on(host), list(host.tmp.rglob("*")))

    return check
