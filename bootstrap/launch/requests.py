"""The launcher's requests to a host and the host's answers, each a line of JSON.

`answer` runs on the host, `decode_answer` in the launcher. Neither side trusts the other: each line is bounded and
checked, and texts for the user have no control characters.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Final, TypeVar

import msgspec

from bootstrap.capabilities import own_version
from bootstrap.doctor.checks import Check, Verdict
from bootstrap.doctor.ladder import Patient, examine
from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.launch.left import Left, what_is_left
from bootstrap.launch.survey import HostReport, Name, survey
from bootstrap.plan import MAX_RANKS, BackendChoice
from bootstrap.trust import Pins, decode_public_key
from wireproto.errors import printable

MAX_LINE: Final = 1024 * 1024
"""Bytes of a request or answer; the largest accepted report has about half of it."""
MAX_DEVICES: Final = 256
LOOK_SECONDS: Final = 30.0
"""The longest time that a host may be asked to wait."""

PULSE: Final = 0.1

Ip = Annotated[str, msgspec.Meta(max_length=15)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Survey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="survey"):
    """Requests the host's report."""


class Doctor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="doctor"):
    """Requests the ladder of checks for the host as `rank` of a group. `devices` are the rank's own."""

    rank: int
    ips: Annotated[tuple[Ip, ...], msgspec.Meta(min_length=2, max_length=MAX_RANKS)]
    link_ports: Annotated[tuple[Port, ...], msgspec.Meta(min_length=1, max_length=MAX_RANKS)]
    """One for all ranks, or one for each."""
    port: Port
    backend: BackendChoice
    devices: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_DEVICES)] = ()

    def patient(self) -> Patient:
        """Return the host as a rank, with the peers that it connects to. Raise ConfigError."""
        size = len(self.ips)
        if not 0 <= self.rank < size or len(self.link_ports) not in (1, size):
            text = f"rank {self.rank} of {size} with {len(self.link_ports)} ports is wrong"
            raise ConfigError(text, code="bad-request")
        ports = self.link_ports * (size // len(self.link_ports))
        others = {*range(size)} if self.rank == 0 else {0}
        if self.backend == "ring":  # where each rank connects to the next one
            others.add((self.rank + 1) % size)
        peers = sorted(others - {self.rank})
        return Patient(
            backend=self.backend,
            own_ip=self.ips[self.rank],
            peer_ips=tuple(self.ips[rank] for rank in peers),
            peer_ports=tuple(ports[rank] for rank in peers),
            rank=self.rank,
            size=size,
            devices=self.devices,
            link_port=ports[self.rank],
            coordinator_port=self.port,
            launched=True,
        )


class StorePin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pin"):
    """Requests to pin a key in base64."""

    name: Text
    key: Annotated[str, msgspec.Meta(max_length=88)]
    address: Ip | None = None


class Look(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="look"):
    """Requests what is left of a run, waiting up to `seconds` for its end: see `left.what_is_left`."""

    run: Name
    ip: Ip
    link_port: Port
    seconds: Annotated[float, msgspec.Meta(ge=0, le=LOOK_SECONDS)] = 0.0


Request = Survey | Doctor | StorePin | Look
T = TypeVar("T")


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first answer to every request. Its format never changes, as it identifies other versions."""

    version: Annotated[str, msgspec.Meta(max_length=64)]


class CheckAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="check"):
    """One check of the ladder, as in `doctor --json`."""

    name: Name
    verdict: Verdict
    evidence: Text
    cause: Text | None = None
    remedy: Text | None = None

    def __post_init__(self) -> None:
        _check_printable(self.evidence, self.cause, self.remedy)

    def check(self) -> Check:
        return Check(self.name, self.verdict, self.evidence, self.cause, self.remedy)


class Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stored"):
    """The key is pinned."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="failed"):
    """The request failed on the host."""

    code: Name
    message: Text

    def __post_init__(self) -> None:
        _check_printable(self.message)


class Over(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="over"):
    """The last answer to every request, added by `replies`."""


Answer = Hello | HostReport | CheckAnswer | Stored | Left | Failed | Over


def _check_printable(*texts: str | None) -> None:
    if not all(text is None or text.isprintable() for text in texts):
        raise ValueError("a text has control characters")


def replies(line: bytes) -> Iterator[bytes]:
    """Carry out the request in a line and yield the lines of the answers, with Over last. This blocks for seconds."""
    try:
        for each in answer(decode_request(line)):
            yield encode(each)
    except ConfigError as error:
        yield encode(Failed(code=error.code, message=str(error)))
    yield encode(Over())


def answer(request: Request) -> Iterator[Answer]:
    """Carry out a request on this host and yield the answers. This blocks for seconds."""
    yield Hello(version=own_version())
    try:
        match request:
            case Survey():
                yield survey()
            case Doctor():
                for check in examine(request.patient()):
                    yield CheckAnswer(**asdict(check))
            case StorePin():
                Pins().add(request.name, decode_public_key(request.key), request.address)
                yield Stored()
            case Look():
                yield _look(request)
    except BootstrapError as error:
        yield Failed(code=error.code, message=printable(str(error)))


def _look(request: Look) -> Left:
    limit = time.monotonic() + request.seconds
    while (left := what_is_left(request.run, request.ip, request.link_port)) and time.monotonic() < limit:
        time.sleep(PULSE)
    return left


def encode(message: Request | Answer) -> bytes:
    """Return the line of a request or answer."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """Return the request in a line. Raise ConfigError (`bad-request`)."""
    return _decoded(_requests, line, "request")


def decode_answer(line: bytes) -> Answer:
    """Return the answer in a line. Raise ConfigError (`bad-answer`)."""
    return _decoded(_answers, line, "answer")


def _decoded(decoder: "msgspec.json.Decoder[T]", line: bytes, what: str) -> T:
    try:
        if len(line) > MAX_LINE:
            raise ValueError(f"it is longer than {MAX_LINE} bytes")
        return decoder.decode(line)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ConfigError(f"the {what} is malformed: {printable(str(error))}", code=f"bad-{what}") from error


_requests: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_answers: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)
