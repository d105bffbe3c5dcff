"""Who this host is, and whom it trusts: its P-256 key, and the peers' keys pinned by IP."""

import base64
import errno
import fcntl
import json
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.files import temporary
from bootstrap.plan import Plan, check_ip
from wireproto.messages import Revision
from wireproto.session.handshake import IDENTITY_SIZE, KeySigner, Pin, Signer, TrustAnyKey, fingerprint

MAX_KEY_FILE: Final = 16 * 1024  # a P-256 key is 241 bytes of PEM; people keep comments beside it
MAX_PINS_FILE: Final = 1024 * 1024  # some 9000 peers
LOCK_SECONDS: Final = 3.0
"""How long to wait for another process that changes the same file; it takes milliseconds."""

_OTHER_KEY: Final = "fix that, or name another file with --identity PATH"
_OTHER_PINS: Final = "fix that, or set XDG_CONFIG_HOME to another directory"


class IdentityError(BootstrapError):
    """The identity key or the pinned keys cannot be used, or the answer is no."""

    stage = "identity"


@dataclass(frozen=True)
class Trust:
    """Who this rank is, and which keys it accepts from its peers."""

    signer: Signer
    pins: dict[str, Pin]
    """By the peer's IP."""
    on_confirmed: Callable[[str, bytes], None] = lambda ip, key: None
    """Called, off the event loop, with a peer's IP and the identity key that it has proved to hold."""

    @classmethod
    def of(cls, plan: Plan, identity: Path | None = None, peer_key: str | None = None, first_use: bool = False) -> Self:
        """Return the trust of a plan's rank: its key from the file `identity`, and its peers' keys.

        Those are `peer_key`, in base64, or the pinned ones; on `first_use` an unpinned peer's key is pinned when it has
        proved to hold it. Raises IdentityError, and ConfigError for options that contradict each other.
        """
        peers = [plan.ips[rank] for rank in plan.peers]
        if peer_key is not None and first_use:
            raise ConfigError("give --peer-key or --trust-first-use, not both", code="bad-trust")
        if peer_key is not None and len(peers) > 1:
            raise ConfigError("--peer-key is for one peer; pin the keys of several", code="bad-trust")
        if first_use and plan.revision is Revision.V1:
            raise ConfigError("revision 1 proves no key at the start, so give --peer-key, or pin it", code="bad-trust")
        if peer_key is not None:
            key = decode_public_key(peer_key)  # before an identity is made
            return cls(load_identity(identity), {peers[0]: key})
        stored = Pins()
        pins: dict[str, Pin] = {}
        for ip in peers:
            pinned = stored.get(ip)
            if pinned is None and not first_use:
                raise IdentityError(
                    f"no key is pinned for {ip}; run 'jaccl-bootstrap identity' there, "
                    f"then 'jaccl-bootstrap pin {ip} KEY' here",
                    code="not-pinned",
                )
            pins[ip] = TrustAnyKey() if pinned is None else pinned

        def pin_new(ip: str, key: bytes) -> None:
            if isinstance(pins.get(ip), TrustAnyKey):
                stored.add(ip, key)

        return cls(load_identity(identity), pins, pin_new)


def load_identity(path: Path | None = None, *, create: bool = True) -> KeySigner:
    """Return this host's identity key, from `identity.pem` in `config_directory()` unless `path` names another file.

    Where there is none, it is made: PKCS#8 PEM, mode 0600, one and the same for all processes that ask at once.
    With `create` false that is an IdentityError (`no-identity`), as is a file that is not safe, or no P-256 key.
    """
    file = _PrivateFile(identity_path() if path is None else path, MAX_KEY_FILE, _OTHER_KEY)
    data = file.read()
    if data is None and create:
        file.create(_new_key())
        data = file.read()  # what another process made first counts
    if data is None:
        raise IdentityError(
            f"there is no identity key in {file.path}; make one: jaccl-bootstrap identity --identity {file.quoted}",
            code="no-identity",
        )
    return _signer(data, file)


def config_directory() -> Path:
    """`$XDG_CONFIG_HOME/cluster-wireproto`, else `~/.config/cluster-wireproto`. A relative path counts as not set."""
    for variable, below in (("XDG_CONFIG_HOME", ""), ("HOME", ".config")):
        base = Path(os.environ.get(variable, ""))
        if base.is_absolute():
            return base / below / "cluster-wireproto"
    raise IdentityError(
        "neither XDG_CONFIG_HOME nor HOME is an absolute path, so there is no place for the identity key and the pins; "
        "set one, or use --identity PATH for the key",
        code="no-home",
    )


def identity_path() -> Path:
    return config_directory() / "identity.pem"


class Pins:
    """The identity keys of peers by IP, in `peers.json` in `config_directory()` unless `path` names another file.

    `{"169.254.1.2": "<base64 of 64 bytes>"}`. Each call reads the file; each change is atomic and loses no other's.
    An IP or a key that is none is a ConfigError, all else an IdentityError.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = config_directory() / "peers.json" if path is None else path
        self._file = _PrivateFile(self.path, MAX_PINS_FILE, _OTHER_PINS)

    def get(self, ip: str) -> bytes | None:
        """The key pinned for `ip`, X ‖ Y, or None."""
        return self.list().get(str(check_ip(ip)))

    def list(self) -> dict[str, bytes]:
        """All pins, in the order of their IPs."""
        data = self._file.read()
        return {} if data is None else self._parse(data)

    def add(self, ip: str, key: bytes) -> None:
        """Pin `key` for `ip`. Another key that is pinned already stays: that is an IdentityError (`pin-conflict`)."""
        ip = str(check_ip(ip))
        encode_public_key(key)  # refuses one that is none
        with self._file.locked():
            pins = self.list()
            pinned = pins.get(ip)
            if pinned is None:
                self._write({**pins, ip: key})
            elif pinned != key:
                raise IdentityError(
                    f"{ip} is pinned to {fingerprint(pinned)}, not to {fingerprint(key)}; if the peer really has "
                    f"a new key, first run: jaccl-bootstrap pin --remove {ip}",
                    code="pin-conflict",
                )

    def remove(self, ip: str) -> bytes:
        """Return the key that was pinned for `ip`; where none was, that is an IdentityError (`not-pinned`)."""
        ip = str(check_ip(ip))
        self._pinned(ip)  # before the lock, so that a plain no needs no file that can be written
        with self._file.locked():
            key = self._pinned(ip)
            self._write({other: kept for other, kept in self.list().items() if other != ip})
        return key

    def _pinned(self, ip: str) -> bytes:
        key = self.list().get(ip)
        if key is None:
            raise IdentityError(f"{ip} is not pinned; see what is: jaccl-bootstrap pin", code="not-pinned")
        return key

    def _write(self, pins: dict[str, bytes]) -> None:
        texts = {ip: encode_public_key(key) for ip, key in _in_order(pins).items()}
        self._file.replace(json.dumps(texts, indent=2).encode() + b"\n")

    def _parse(self, data: bytes) -> dict[str, bytes]:
        try:
            value = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
            return _in_order(dict(_pin(ip, text) for ip, text in value.items()))
        except (ValueError, RecursionError) as error:
            raise IdentityError(
                f"{self.path} does not hold pins: {error}; fix that, or remove it and pin the peers again",
                code="pins-malformed",
            ) from error


def decode_public_key(text: str) -> bytes:
    """Return X ‖ Y; ConfigError (`bad-key`) unless `text` is standard, padded base64 of a point on P-256."""
    try:
        return _decode(text)
    except ValueError as error:
        raise _bad_key(error) from error


def encode_public_key(key: bytes) -> str:
    """Return the base64 of X ‖ Y; ConfigError (`bad-key`) unless that is a point on P-256."""
    try:
        _check_point(key)
    except ValueError as error:
        raise _bad_key(error) from error
    return base64.b64encode(key).decode()


def _bad_key(reason: ValueError) -> ConfigError:
    return ConfigError(
        f"the public key is wrong: {reason}; use what `jaccl-bootstrap identity` prints on the peer", code="bad-key"
    )


def _decode(text: object) -> bytes:
    try:
        key = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:  # binascii.Error among them
        key = b""
    if base64.b64encode(key).decode() != text:
        raise ValueError("not standard base64")
    _check_point(key)
    return key


def _check_point(key: bytes) -> None:
    if len(key) != IDENTITY_SIZE:
        raise ValueError(f"{len(key)} bytes, not {IDENTITY_SIZE}")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
    except ValueError:
        raise ValueError("no point on P-256") from None


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _signer(data: bytes, file: "_PrivateFile") -> KeySigner:
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise file.refusal("is encrypted", "encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise file.refusal("is not a private key in PEM", "not-pem") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise file.refusal("is not a P-256 key", "not-p256")
    return KeySigner(key)


def _in_order(pins: dict[str, bytes]) -> dict[str, bytes]:
    return dict(sorted(pins.items(), key=lambda pin: check_ip(pin[0])))


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return members


def _pin(ip: str, text: object) -> tuple[str, bytes]:
    shown = repr(ip if len(ip) <= 40 else ip[:40] + "...")
    try:
        check_ip(ip)
    except ConfigError as error:
        raise ValueError(f"{shown} is not the IPv4 address of a host") from error
    try:
        return ip, _decode(text)
    except ValueError as error:
        raise ValueError(f"the key of {shown} is wrong ({error})") from error


class _PrivateFile:
    """A small file for its owner alone: read with suspicion, written whole or not at all, never through a link.

    `remedy` says what to do where it is not as it has to be, or its place cannot be used.
    """

    def __init__(self, path: Path, limit: int, remedy: str) -> None:
        self.path = path
        self.quoted = shlex.quote(str(path))
        self._limit = limit
        self._remedy = remedy

    def read(self) -> bytes | None:
        """Return what is in it, None where it does not exist."""
        with self._attempt("read"):
            try:
                # Not blocking, since what stands there may be a pipe.
                fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise self.refusal("is a symbolic link", "symbolic-link") from error
                if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket
                    raise self.refusal("is not a regular file", "not-a-regular-file") from error
                raise
            try:
                self._check(os.fstat(fd))
                with os.fdopen(fd, "rb", closefd=False) as file:
                    data = file.read(self._limit + 1)
            finally:
                os.close(fd)
        if len(data) > self._limit:  # it grew meanwhile
            raise self._too_large()
        return data

    def create(self, data: bytes) -> None:
        """Write it, unless it exists or another process is quicker."""
        with self._attempt("write"), self._temporary(data) as new:
            try:
                self.path.hardlink_to(new)
            except FileExistsError:
                pass
            except OSError:
                # No hard links here. With O_EXCL instead, others could read a file that is not all there yet.
                with self.locked():
                    if not os.path.lexists(self.path):
                        new.replace(self.path)

    def replace(self, data: bytes) -> None:
        if len(data) > self._limit:
            raise self._too_large()
        with self._attempt("write"), self._temporary(data) as new:
            new.replace(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep out other processes and threads that change it. The lock file stays: to remove one is a race."""
        lock = self.path.with_name(self.path.name + ".lock")
        with ExitStack() as stack:
            with self._attempt("lock", lock):
                _make_directory(lock.parent)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = stack.enter_context(os.fdopen(os.open(lock, flags, 0o600), "rb"))
                _lock_within(file.fileno(), LOCK_SECONDS)
            yield

    def refusal(self, fault: str, code: str) -> IdentityError:
        return IdentityError(f"{self.path} {fault}; {self._remedy}", code=code)

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        _make_directory(self.path.parent)
        with temporary(self.path, data, durable=True) as new:
            yield new

    def _check(self, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise self.refusal("is not a regular file", "not-a-regular-file")
        if status.st_uid != os.geteuid():
            raise self.refusal(f"belongs to user {status.st_uid}, not to {os.geteuid()}", "wrong-owner")
        if mode & 0o077:
            raise IdentityError(
                f"{self.path} is open to others than its owner (mode {mode:04o}); run: chmod 600 {self.quoted}",
                code="permissions",
            )
        if status.st_size > self._limit:
            raise self._too_large()

    def _too_large(self) -> IdentityError:
        return self.refusal(f"is larger than {self._limit} bytes", "too-large")

    @contextmanager
    def _attempt(self, what: str, path: Path | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            message = f"cannot {what} {path or self.path}: {reason}; {self._remedy}"
            raise IdentityError(message, code=f"{what}-failed") from error


def _lock_within(descriptor: int, seconds: float) -> None:
    """Take a lock; OSError once the time is over. It blocks this thread alone, and never for longer."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > limit:
                raise OSError(error.errno, f"another process has kept it locked for {seconds:g} s") from error
        time.sleep(0.01)


def _make_directory(directory: Path) -> None:
    """Each missing level is for its owner alone; `Path.mkdir` would leave all but the last to the umask."""
    missing = [level for level in (directory, *directory.parents) if not level.exists()]
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)
