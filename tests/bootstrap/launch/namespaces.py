"""Hosts as network namespaces on one switch, each with an OpenSSH server, and another one to launch from."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.bootstrap.launch.sshd import SSHD, Hosts, SshHost, serving
from tests.campaign.namespaces import ip

NETWORK = "10.77.0"
PORT = 2222
THIRD = 99
"""The last number of the launching host's address."""


class Cluster(Hosts):
    """The hosts of a test, and the launching host."""

    def __init__(self, directory: Path, count: int) -> None:
        super().__init__(directory, [f"{NETWORK}.{number + 1}" for number in range(count)], PORT, {})
        self._tag = f"l{os.getpid()}"
        self._switch = f"{self._tag}s"
        self.third = f"{self._tag}t"
        self.names = {host.name: f"{self._tag}{number}" for number, host in enumerate(self.all)}
        """The namespace of each host."""

    def __enter__(self) -> "Cluster":
        try:
            ip("netns", "add", self._switch)
            ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            ip("-n", self._switch, "link", "set", "switch", "up")
            for namespace, address in [*zip(self.names.values(), self.all, strict=True), (self.third, None)]:
                self._plug(namespace, f"{NETWORK}.{THIRD}" if address is None else address.ip)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _plug(self, namespace: str, address: str) -> None:
        ip("netns", "add", namespace)
        # Created in its namespace, so that its name never appears in the test's own.
        ip("-n", self._switch, "link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("-n", self._switch, "link", "set", namespace, "master", "switch", "up")
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "set", "eth0", "up")

    def __exit__(self, *_: object) -> None:
        for namespace in (*self.names.values(), self.third, self._switch):
            for pid in self._pids(namespace):  # sshd's sessions do not notice a pulled cable
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, timeout=20)

    def _pids(self, namespace: str) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=20)
        return [int(pid) for pid in found.stdout.split()]

    def cut_off(self, host: SshHost | None) -> None:
        """Pull a host's cable at the switch; None for the launching host."""
        ip("-n", self._switch, "link", "set", self.third if host is None else self.names[host.name], "down")

    def processes(self, host: SshHost) -> dict[int, str]:
        """Return the processes in a host's namespace with their commands, without sshd's."""
        found = {}
        for pid in self._pids(self.names[host.name]):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command and not command.startswith((f"{SSHD} ", "sshd: ")):
                    found[pid] = command
        return found

    def left(self, host: SshHost) -> list[object]:
        """Return a host's remains of a run, seen from outside."""
        return [*self.processes(host).values(), *host.tmp.iterdir()]


@contextmanager
def cluster(directory: Path, count: int) -> Iterator[Cluster]:
    """Serve hosts inside the block."""
    with Cluster(directory, count) as made, ExitStack() as stack:
        for host in made.all:
            stack.enter_context(serving(made, [host.ip], ["ip", "netns", "exec", made.names[host.name]]))
        yield made
