"""tshark with spec/cluster_link.lua: captures made here, and the output of the dissector."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from tests.vectors.sessions import ACK, HELLO, KEY
from tests.wireproto.payloads import canonical_frame
from tests.wireproto.peers import EPHEMERAL_0, box, unbox
from tests.wireproto.streams import link
from wireproto import JacclBootstrapPayload, LinkDecoder, WireError
from wireproto.inspection.pcapng import TcpWriter, Writer
from wireproto.inspection.tcp import Endpoint
from wireproto.testing.requirements import DIRECTORY

DISSECTOR: Final = DIRECTORY / "cluster_link.lua"
PORT: Final = 7777
SECONDS: Final = 60
_HERE: Final = Path(__file__).parent
_CLIENTS: Final = 20_000
"""The port of the first conversation's rank 0."""


@cache
def missing() -> str:
    """The reason why tshark cannot be tested, or an empty string."""
    if shutil.which("tshark") is None:
        return "tshark is not installed (Debian: apt-get install tshark)"
    # Some versions run no scripts for root. For other users, a script that does not run is an error.
    if os.geteuid() == 0:
        asked = ["tshark", "-G", "protocols", "-X", f"lua_script:{DISSECTOR}"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True)
        if "clusterlink" not in done.stdout and "Lua" not in done.stderr:
            return "this tshark runs no Lua scripts for root"
    return ""


# -- captures ---------------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """Bytes that a rank sends together."""

    rank: int
    data: bytes


Conversation = Sequence[Sent]


HANDSHAKE: Final = (Sent(0, link(HELLO)), Sent(1, link(ACK)))
KEY_LOG: Final = f"# other programs may log here\nCLUSTER_SESSION_KEY {EPHEMERAL_0.nonce.hex()} {KEY.hex()}\n"
"""The session key with this handshake."""


def sealed(*frames: bytes) -> Conversation:
    """A session of revision 2 in which rank 0 sends these frames."""
    return [*HANDSHAKE, *(Sent(0, link(box(KEY, frame, number.to_bytes(12)))) for number, frame in enumerate(frames))]


def unsealed(*frames: bytes) -> Conversation:
    """The same in revision 1."""
    return [*HANDSHAKE, *(Sent(0, link(frame)) for frame in frames)]


def agreeing(extensions: tuple[str, ...]) -> list[bytes]:
    """The frame that agrees on extensions, if any."""
    return [canonical_frame(JacclBootstrapPayload(1, "a", extensions))] if extensions else []


class Packets(list[bytes]):
    """Replaces the file of a `TcpWriter`."""

    def packet(self, time: float, data: bytes) -> None:
        self.append(data)


def packets(conversation: Conversation, number: int = 0, port: int = PORT) -> Packets:
    """Return the packets of a TCP connection to `port`: three to open it, then one for each piece."""
    made = Packets()
    ends = (Endpoint(bytes([10, 0, 0, 1]), _CLIENTS + number), Endpoint(bytes([10, 0, 0, 2]), port))
    connection = TcpWriter(made, ends, 0)  # type: ignore[arg-type]
    for rank, data in conversation:
        connection.data(rank, 0, data)
    return made


def capture(sent: Iterable[bytes]) -> bytes:
    """A capture of these packets."""
    blocks: list[bytes] = []
    writer = Writer(blocks.append)
    for number, packet in enumerate(sent):
        writer.packet(1_700_000_000 + number / 1000, packet)
    return b"".join(blocks)


def streams(conversation: Conversation) -> dict[int, bytes]:
    """The frames of each rank."""
    sent: dict[int, bytes] = defaultdict(bytes)
    for rank, data in conversation:
        sent[rank] += data
    return sent


def bodies(stream: bytes) -> list[bytes]:
    """Return the bodies of a stream's link frames, up to a fault."""
    found = []
    try:
        for body in LinkDecoder().feed(stream):
            found.append(bytes(body))
    except WireError:
        pass
    return found


# -- tshark -----------------------------------------------------------------------------------------------------------


def tshark(directory: Path, data: bytes, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return tshark's output for a capture, with its own configuration. Scripts must run without errors."""
    path = directory / "capture.pcapng"
    path.write_bytes(data)
    clean = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run(
        ["tshark", "-n", "-X", f"lua_script:{DISSECTOR}", "-r", str(path), *arguments],
        env=clean | {"WIRESHARK_CONFIG_DIR": str(directory / "configuration")} | dict(environment or {}),
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert "Lua" not in done.stdout + done.stderr
    return done.stdout


Value = str | bytes | None


class Error(NamedTuple):
    """An error shown by the dissector."""

    code: str
    offset: int | None = None
    path: str | None = None


@dataclass
class LinkFrame:
    """The dissector's output for a link frame, in tree order: names without `clusterlink.`."""

    packet: int
    rank: int
    fields: list[tuple[str, Value]] = field(default_factory=list)

    def all(self, name: str) -> list[Value]:
        return [value for each, value in self.fields if each == name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]

    @property
    def body(self) -> Value:
        """A box, or an unsealed cluster frame."""
        return next((value for name, value in self.fields if name in ("box", "frame")), None)

    @property
    def errors(self) -> list[Error]:
        found = []
        for name, value in self.fields:
            if name == "error":
                found.append(Error(str(value)))
            elif name in ("error.offset", "error.path"):
                found[-1] = found[-1]._replace(
                    **{name.removeprefix("error."): int(value) if name == "error.offset" else value}  # type: ignore[arg-type]
                )
        return found


def dissect(
    directory: Path, conversations: Sequence[Conversation], *arguments: str, key_log: str = "", port: int = PORT
) -> list[list[LinkFrame]]:
    """Return the dissector's output for each conversation."""
    sent = [packet for number, each in enumerate(conversations) for packet in packets(each, number, port)]
    if key_log:
        arguments = (*arguments, *opening(directory, key_log, conversations))
    return fields(directory, capture(sent), len(conversations), *arguments)


def fields(directory: Path, data: bytes, count: int, *arguments: str) -> list[list[LinkFrame]]:
    """Return the dissector's output for the first `count` connections of a capture."""
    output = directory / "fields"
    environment = {"CLUSTERLINK_FIELDS": str(output), "CLUSTERLINK_BOXES": str(directory / "boxes")}
    tshark(directory, data, "-X", f"lua_script:{_HERE / 'fields.lua'}", "-q", *arguments, environment=environment)
    return _read(output.read_text(), count)


def opening(directory: Path, key_log: str, conversations: Sequence[Conversation]) -> list[str]:
    """Return the arguments that let tshark open the boxes of these conversations, with the keys in `key_log`."""
    log = directory / "keys"
    log.write_text(key_log)
    keys = map(bytes.fromhex, re.findall(r"^CLUSTER_SESSION_KEY \w+ (\w+)$", key_log, re.M))
    found = [body for each in conversations for stream in streams(each).values() for body in bodies(stream)]
    (directory / "boxes").write_text("".join(_known_boxes(keys, found)))
    return ["-o", f"clusterlink.key_log:{log}", "-X", f"lua_script:{_HERE / 'gcrypt.lua'}"]


def _known_boxes(keys: Iterable[bytes], found: Iterable[bytes]) -> Iterator[str]:
    for key, sealed_box in product(keys, found):
        try:
            plaintext = unbox(key, sealed_box)
        except (InvalidTag, ValueError):
            continue
        parts = (key, sealed_box[:12], sealed_box[12:-16], plaintext, sealed_box[-16:])
        yield " ".join(part.hex() or "-" for part in parts) + "\n"
        if plaintext[:1] in (b"\x05", b"\x06"):
            yield from _known_boxes([key], [plaintext[1:]])


def _read(text: str, count: int) -> list[list[LinkFrame]]:
    found: list[list[LinkFrame]] = [[] for _ in range(count)]
    malformed: dict[str, set[str]] = {"clusterlink.malformed": set(), "_ws.malformed": set()}
    for line in text.splitlines():
        packet, stream, port, name, kind, value = line.split("\t")
        if name in malformed:
            malformed[name].add(packet)
        elif name == "clusterlink":
            found[int(stream)].append(LinkFrame(int(packet), 0 if int(port) >= _CLIENTS else 1))
        else:
            assert name.startswith("clusterlink."), f"packet {packet}: {name}"
            found[int(stream)][-1].fields.append((name.removeprefix("clusterlink."), _value(kind, value)))
    # Wireshark marks packets that the dissector calls malformed, or on which it failed.
    assert malformed["clusterlink.malformed"] == malformed["_ws.malformed"]
    return found


def _value(kind: str, value: str) -> Value:
    match kind:
        case "text":
            return bytes.fromhex(value).decode()
        case "bytes":
            return bytes.fromhex(value)
        case "number":
            return value
    return None
