"""Hosts on loopback addresses: one real OpenSSH server, with a home for the sessions of each address.

The client is the system's, with a configuration of the test's: OpenSSH takes the user's from the home of the password
database, so a script that is first on PATH names the file.
"""

import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import psutil

from bootstrap.system.network import free_port
from tests.bootstrap.conftest import CommandRun, wait_until
from tests.loopback import new_net

SSHD = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
SSH = shutil.which("ssh")


class SshHost:
    """A host: its name for ssh, its address, its home and its directory for temporary files."""

    def __init__(self, directory: Path, number: int, ip: str) -> None:
        self.name = f"mac-{'abcdef'[number]}"
        self.ip = ip
        self.home, self.tmp = directory / self.name, directory / f"{self.name}-tmp"
        self.home.mkdir()
        self.tmp.mkdir()
        self.env = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home), "TMPDIR": str(self.tmp)}


class Hosts:
    """All hosts of a test, and the way to reach them."""

    def __init__(self, directory: Path, ips: Sequence[str], port: int, env: dict[str, str]) -> None:
        directory.mkdir()
        self.directory = directory
        self.all = [SshHost(directory, number, ip) for number, ip in enumerate(ips)]
        self.port = port
        self.config = directory / "ssh_config"
        self.known_hosts = directory / "known_hosts"
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True, timeout=60
            )
        self.path = directory / "bin"
        self.path.mkdir()
        wrapper = self.path / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {SSH} -F {self.config} "$@"\n')
        wrapper.chmod(0o755)
        self.trust(self.all)
        self._configure_client()
        self._configure_server(env)

    @property
    def client_env(self) -> dict[str, str]:
        """The variables by which a launcher finds the test's ssh."""
        return {"PATH": f"{self.path}{os.pathsep}{os.environ['PATH']}"}

    def trust(self, hosts: Sequence[SshHost], key: str | None = None) -> None:
        """Tell ssh the keys of these hosts."""
        own = (self.directory / "host_key.pub").read_text()
        lines = [f"[{host.ip}]:{self.port} {key or own}".rstrip() + "\n" for host in hosts]
        self.known_hosts.write_text("".join(lines))

    def hostfile(self, names: Sequence[str]) -> Path:
        """Write a hostfile with the addresses of the first hosts, under these names."""
        entries = [{"ssh": name, "ips": [host.ip]} for name, host in zip(names, self.all, strict=False)]
        file = self.directory / "hosts.json"
        file.write_text(json.dumps({"backend": "ring", "hosts": entries}))
        return file

    def _configure_client(self) -> None:
        lines = [
            f"Host {host.name} {host.name}.local\n  HostName {host.ip}\n"
            f"Match all\n  Port {self.port}\n  User {getpass.getuser()}\n  IdentityFile {self.directory}/user_key\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
            for host in self.all
        ]
        self.config.write_text("".join(lines))

    def more_config(self, text: str) -> None:
        """Add options before the client's configuration: the first value of an option counts."""
        self.config.write_text(text + self.config.read_text())

    def _configure_server(self, env: dict[str, str]) -> None:
        shutil.copy(self.directory / "user_key.pub", self.directory / "authorized_keys")
        lines = [
            f"Port {self.port}",
            *(f"ListenAddress {host.ip}" for host in self.all),
            f"HostKey {self.directory}/host_key",
            f"AuthorizedKeysFile {self.directory}/authorized_keys",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "LogLevel ERROR",
        ]
        for host in self.all:
            variables = " ".join(f'"{name}={value}"' for name, value in {**env, **host.env}.items())
            lines += [f"Match LocalAddress {host.ip}", f"  SetEnv {variables}"]
        (self.directory / "sshd_config").write_text("\n".join(lines) + "\n")


@contextmanager
def ssh_hosts(directory: Path, count: int, env: dict[str, str] | None = None) -> Iterator[Hosts]:
    """Serve hosts inside the block; sessions have `env`, too."""
    net = new_net()
    ips = [f"{net}.{number + 1}" for number in range(count)]
    hosts = Hosts(directory, ips, free_port(ips[0]), env or {})
    with serving(hosts, ips):
        yield hosts


@contextmanager
def serving(hosts: Hosts, ips: Sequence[str], prefix: Sequence[str] = ()) -> Iterator[None]:
    """Run a server for these addresses inside the block. `prefix` is a command that runs it elsewhere."""
    assert SSHD is not None, "OpenSSH's server is not installed: apt-get install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the server requires it, and Debian creates it when the service starts
    command = [*prefix, SSHD, "-D", "-e", "-f", str(hosts.directory / "sshd_config")]
    log = hosts.directory / f"sshd-{ips[0]}.log"  # not a pipe, which its sessions could hold open
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stderr=stream)
    try:
        wait_until(lambda: _listens(server, ips, hosts.port), "sshd listens")
        yield
    except BaseException as error:
        error.add_note(log.read_text())
        raise
    finally:
        server.terminate()
        server.wait(60)


def _listens(server: "subprocess.Popen[bytes]", ips: Sequence[str], port: int) -> bool:
    """Return whether a server listens at all of the addresses, in whatever network namespace it is."""
    assert server.poll() is None, "sshd has ended"
    table = Path(f"/proc/{server.pid}/net/tcp").read_text()
    return all(f" {IPv4Address(ip).packed[::-1].hex().upper()}:{port:04X} 00000000:0000 0A" in table for ip in ips)


def kill_ssh(run: CommandRun, words: str) -> None:
    """Kill the first ssh of a launcher that runs `jaccl-bootstrap` with these words."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.name() == "ssh" and " ".join(process.cmdline()).endswith(f" {words}")
        except psutil.NoSuchProcess:  # it has ended, and may be a zombie
            return False

    def found() -> list[psutil.Process]:
        children = psutil.Process(run.process.pid).children()
        return [each for each in children if runs(each)]

    wait_until(lambda: found() != [], f"ssh runs {words}")
    for each in found():
        each.kill()
