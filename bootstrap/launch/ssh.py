"""Runs commands on the hosts of a launch: with the system's ssh, on this host without.

ssh uses the user's own configuration, agents and keys, and reports what is wrong with a host. The terminal's Ctrl-C
reaches only the launcher. An unreachable host is given up after 15 s.
"""

import asyncio
import getpass
import os
import re
import shlex
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from bootstrap.capabilities import own_version
from bootstrap.control.child import how_ended
from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.launch.channel import MAX_LINE
from bootstrap.launch.left import RUN_VARIABLE
from bootstrap.system import current
from wireproto.errors import printable

CONNECT_SECONDS: Final = 10
ASK_SECONDS: Final = 60.0
"""Limit for one request to a host, including the connection."""
PATIENT_SECONDS: Final = 600.0
"""The same if uvx may download MLX first, or a person answers ssh."""
NAME_SECONDS: Final = 5.0
"""Limit for resolving a name with ssh and the system."""
KILL_SECONDS: Final = 3.0
MANY_ERRORS: Final = 20
"""Lines of stderr that are kept: ssh prints its reason last."""
EXIT_OF_SSH: Final = 255
EXIT_NOT_FOUND: Final = (126, 127)

# ssh's configuration may pass names to a shell, in a ProxyCommand.
_NAME: Final = re.compile(r"(?:ssh://)?(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]*")
_OPTIONS: Final = (
    "-T",
    *("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
_DEAF: Final = ("/bin/sh", "-c", 'trap "" INT TERM HUP TSTP; exec "$@"', "sh")
"""Starts a command that ignores the terminal's signals but can prompt there."""
ASKS: Final = ("host-key", "ssh-denied")
"""Codes of failures that the user may prevent by answering a prompt."""
_REASONS: Final = (
    ("host-key", r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"),
    ("ssh-denied", r"Permission denied|Too many authentication failures"),
    (
        "ssh-lost",
        r"not responding|Connection reset|Broken pipe|closed by remote host|Connection to \S+ port \d+ timed out",
    ),
)


class HostError(BootstrapError):
    """A host cannot take part in a launch: it is unreachable or lacks something. `rank` is its rank."""

    stage = "launch"

    def __init__(self, host: "Host", message: str, *, code: str) -> None:
        super().__init__(f"{host.name}: {message}", code=code)
        self.rank = host.rank


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to start `jaccl-bootstrap` on other hosts: by default from PATH, else with the same Python as here."""

    python: str | None = None
    """The Python with the package."""
    uvx: bool = False
    """Run the package with uvx, from an index."""

    def script(self) -> str:
        """Return a shell script that runs it with the script's arguments."""
        if self.uvx:
            package = f"cluster-wireproto[bootstrap]=={own_version()}"
            return f'exec uvx --from {shlex.quote(package)} jaccl-bootstrap "$@"'
        if self.python is not None:
            return f'exec {shlex.quote(self.python)} -P -m bootstrap "$@"'
        own = shlex.quote(sys.executable)
        return (
            'if command -v jaccl-bootstrap >/dev/null 2>&1; then exec jaccl-bootstrap "$@"; fi; '
            f'if test -x {own}; then exec {own} -P -m bootstrap "$@"; fi; '
            "echo 'jaccl-bootstrap: not found' >&2; exit 127"
        )


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host of a rank, by its name for ssh."""

    rank: int
    name: str
    is_local: bool
    way: Way = Way()
    mark: str = ""
    """Put into the environment of all processes of this rank, so that the last look finds them, even if several hosts
    are the same machine."""
    asks: bool = False
    """ssh may prompt the user on the terminal."""

    @property
    def seconds(self) -> float:
        """The limit for one request."""
        return PATIENT_SECONDS if self.way.uvx or self.asks else ASK_SECONDS

    def arguments(self, words: Sequence[str]) -> list[str]:
        """Return the command line that runs `jaccl-bootstrap` with `words` on this host."""
        named = ("/usr/bin/env", f"{RUN_VARIABLE}={self.mark}")
        if self.is_local:
            return [*named, sys.executable, "-P", "-m", "bootstrap", *words]
        command = shlex.join(["exec", *named, "/bin/sh", "-c", self.way.script(), "sh", *words])
        start = (*_DEAF, "ssh") if self.asks else ("ssh", "-o", "BatchMode=yes")
        return [*start, *_OPTIONS, "--", self.name, command]


def check_name(name: str) -> None:
    """Raise ConfigError for an invalid host name, or one that ssh or a shell would misinterpret."""
    if not _NAME.fullmatch(name) or len(name) > 255:
        text = f"{printable(name[:80])!r} is not a host name for ssh, use HOST or USER@HOST"
        raise ConfigError(text, code="bad-hosts")


def can_ask() -> bool:
    """Whether ssh can prompt the user on a terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Destination(NamedTuple):
    """The destination to which ssh would connect for a name."""

    host: str
    """A host name or address, from ssh's configuration."""
    is_here: bool
    """Whether that is this host and user, at the default port and without a proxy."""


async def destination(name: str) -> Destination:
    """Return where ssh would connect."""
    plain = name.removeprefix("ssh://").rpartition("@")[2]
    if name in ("localhost", socket.gethostname()):
        return Destination(name, is_here=True)
    process = None
    try:
        async with asyncio.timeout(NAME_SECONDS):
            process = await asyncio.create_subprocess_exec(
                "ssh", "-G", "--", name, stdin=asyncio.subprocess.DEVNULL, stdout=-1, stderr=asyncio.subprocess.DEVNULL
            )
            told, _ = await process.communicate()
        leads = dict(line.split(" ", 1) for line in told.decode(errors="replace").splitlines() if " " in line)
        host = leads.get("hostname", plain)
        usual = (leads.get("port"), leads.get("user")) == ("22", getpass.getuser())
        if not usual or {"proxyjump", "proxycommand"} & leads.keys():
            return Destination(host, is_here=False)
        async with asyncio.timeout(NAME_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
        return Destination(host, is_here=any(current().network.holds(str(each[4][0])) for each in found))
    except (OSError, TimeoutError, UnicodeError):
        return Destination(plain, is_here=False)  # ssh will report what is wrong with the name
    finally:
        if process is not None:
            await _end(process)


class Connection:
    """A running `jaccl-bootstrap` on a host: its standard streams."""

    def __init__(self, host: Host, process: asyncio.subprocess.Process, on_error: Callable[[str], None]) -> None:
        self.host = host
        self.errors: deque[str] = deque(maxlen=MANY_ERRORS)
        """The last lines of stderr, escaped."""
        self.pid = process.pid
        self._process = process
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018, S101 - they are pipes
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._on_error = on_error
        self._reading = asyncio.create_task(self._read_errors())

    @classmethod
    async def start(cls, host: Host, words: Sequence[str], on_error: Callable[[str], None]) -> Self:
        """Start it, see `Host.arguments`. Raise HostError if this host has no ssh."""
        try:
            process = await asyncio.create_subprocess_exec(
                *host.arguments(words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
                start_new_session=not host.asks,
            )
        except OSError as error:
            raise HostError(
                host, f"cannot start ssh: {error.strerror}; install OpenSSH here", code="ssh-missing"
            ) from error
        return cls(host, process, on_error)

    def tell(self, data: bytes) -> None:
        """Write to its standard input without waiting. Do nothing if it has ended."""
        if not self._stdin.is_closing():
            with suppress(OSError):
                self._stdin.write(data)

    @property
    def lags(self) -> bool:
        """Whether written data is still queued."""
        return self._stdin.transport.get_write_buffer_size() > 0

    def close(self) -> None:
        """Close its standard input."""
        self._stdin.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield its lines of stdout without newlines, except an unfinished last one. Raise HostError for one too long.

        What ends in the middle of a line has been cut off, and how it ended is the reason.
        """
        while True:
            try:
                line = await self._stdout.readline()
            except ValueError as error:
                text = f"it wrote a line of more than {MAX_LINE} bytes"
                raise HostError(self.host, text, code="host-answer") from error
            if not line.endswith(b"\n"):
                return
            yield line.removesuffix(b"\n")

    async def ended(self) -> int:
        """Wait for its end. Return the exit status, or minus the signal."""
        status = await self._process.wait()
        await asyncio.wait({self._reading}, timeout=KILL_SECONDS)
        return status

    async def kill(self) -> None:
        """Kill it."""
        await _end(self._process)
        self._reading.cancel()

    def silence(self, seconds: float) -> HostError:
        """Return the error for no answer within so many seconds."""
        last = next(reversed(self.errors), "it printed nothing")
        return HostError(self.host, f"no answer within {seconds:g} s ({last})", code="host-silent")

    def failure(self, status: int) -> HostError:
        """Return why it ended with this status, from the messages of ssh and the shell there."""
        last = next((line for line in reversed(self.errors) if line.strip()), "")
        text = "\n".join(self.errors)
        if "No such command" in text:
            text = f"it has another version of cluster-wireproto than this host, {own_version()}; install the same"
            return HostError(self.host, text, code="package-version")
        if status in EXIT_NOT_FOUND or "No module named" in text:
            return self._missing(last)
        if status == EXIT_OF_SSH and last and not self.host.is_local:
            code = next((code for code, pattern in _REASONS if re.search(pattern, text)), "ssh-failed")
            return HostError(self.host, last, code=code)
        if status == EXIT_OF_SSH:
            return HostError(self.host, "jaccl-bootstrap or ssh was killed; see the log there", code="rank-lost")
        what = "jaccl-bootstrap" if self.host.is_local or status > 0 else "ssh"
        return HostError(self.host, f"{what} ended {how_ended(status)}{last and f': {last}'}", code="rank-lost")

    def _missing(self, last: str) -> HostError:
        if self.host.way.uvx:
            text = f"uvx is missing ({last}); install uv there, or leave --uvx out"
        else:
            package = shlex.quote(f"cluster-wireproto[bootstrap]=={own_version()}")
            text = f"cluster-wireproto is not installed ({last}); run there: pip install {package}"
        return HostError(self.host, text, code="package-missing")

    async def _read_errors(self) -> None:
        while True:
            try:
                line = await self._stderr.readline()
            except ValueError:
                continue  # the overlong line is dropped
            if not line:
                return
            text = printable(line.decode(errors="backslashreplace").rstrip())
            self.errors.append(text)
            self._on_error(text)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # its pipes, which its children may hold open
