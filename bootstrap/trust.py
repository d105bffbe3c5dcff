"""Identity and trust of this host: its P-256 key, the pinned keys of peers, and the keys of a run by rank."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.errors import ConfigError, IdentityError, LinkError
from bootstrap.plan import Plan, check_ip
from bootstrap.private_file import PrivateFile, config_directory
from wireproto.messages import Revision
from wireproto.session import Config, Role
from wireproto.session.handshake import IDENTITY_SIZE, KeySigner, Pin, Signer, TrustAnyKey, fingerprint

MAX_KEY_FILE: Final = 16 * 1024  # a P-256 key is 241 bytes of PEM; there may be comments
MAX_PINS_FILE: Final = 1024 * 1024  # some 6000 peers

_OTHER_KEY: Final = "fix that, or use another file with --identity PATH"
_OTHER_PINS: Final = "fix that, or set XDG_CONFIG_HOME to another directory"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_OF_RANK: Final = re.compile(r"(?:([0-9]{1,2})=)?(.*)", re.DOTALL)

OnConfirmed = Callable[[int, str, bytes], str | None]


class Trust:
    """The identity of this rank, and the one key that it accepts from each other rank.

    Raise ConfigError for a key that cannot be one (`bad-key`), or if two ranks have the same key (`key-repeated`).
    """

    def __init__(
        self, signer: Signer, keys: Mapping[int, Pin], on_confirmed: OnConfirmed = lambda rank, ip, key: None
    ) -> None:
        self.signer = signer
        self.keys = dict(keys)
        """By rank. `TrustAnyKey()` is replaced by the first key that the rank proves to hold."""
        self.on_confirmed = on_confirmed
        """Called off the event loop with a rank, its address and its proved key.

        Returns the name of the pin that got this new address, if any."""
        for rank, key in keys.items():
            try:
                # As the sessions do, where a failure would look like one of the link.
                self.keys[rank] = Config(role=Role.INITIATOR, signer=signer, pin=key).pin
            except (TypeError, ValueError) as error:
                text = f"the keys for the session with rank {rank} cannot be used: {error}; correct them"
                raise ConfigError(text, code="bad-key") from error
        for rank, key in self.keys.items():
            if isinstance(key, bytes) and (other := self._holder(key, but=rank)) is not None:
                raise ConfigError(
                    f"rank {rank} has the key of {other}; give each rank its own identity, and pin what "
                    "'jaccl-bootstrap identity' prints there",
                    code="key-repeated",
                )

    def confirm(self, rank: int, key: bytes) -> bool:
        """Take a rank's proved key; return whether it is a first use.

        Raise LinkError (`handshake-wrong-pin`) for the key of another rank.
        """
        expected = self.keys[rank]
        if isinstance(expected, bytes) and key != expected:  # an earlier connection was the first use
            text = f"rank {rank} first had the key {fingerprint(expected)}, and now {fingerprint(key)}"
            raise LinkError(text, code="handshake-wrong-pin")
        if (other := self._holder(key, but=rank)) is not None:
            raise LinkError(f"rank {rank} has the key of {other}, {fingerprint(key)}", code="handshake-wrong-pin")
        self.keys[rank] = key
        return key != expected

    def _holder(self, key: bytes, *, but: int) -> str | None:
        if key == self.signer.public_key:
            return "this rank"
        return next((f"rank {rank}" for rank, each in self.keys.items() if rank != but and each == key), None)

    @classmethod
    def of(cls, plan: Plan, identity: Path | None = None, peers: Sequence[str] = (), first_use: bool = False) -> Self:
        """Return the trust of a plan's rank: its key from the file `identity`, and its peers' keys.

        Those are pinned under the peers' addresses, or given by `peers`: NAME of a pin or KEY in base64, with more than
        two ranks RANK=NAME or RANK=KEY. With `first_use` an unpinned peer's key is pinned once it is proved. Raise
        IdentityError, and ConfigError if options contradict each other or the pins.
        """
        if isinstance(peers, str):
            raise ConfigError("peers must be a list of names or keys, not one string", code="bad-trust")
        if peers and first_use:
            raise ConfigError("--peer and --trust-first-use cannot be combined; give one of them", code="bad-trust")
        if first_use and plan.revision is Revision.V1:
            raise ConfigError(
                "revision 1 cannot use --trust-first-use, as it proves no key at the start; use --peer, or pin the key",
                code="bad-trust",
            )
        given = _given(plan, peers)
        pinned = _pinned(all_given=all(isinstance(given.get(rank), bytes) for rank in plan.peers))
        found = {
            rank: _expected(plan, rank, given.get(rank), pinned, first_use) for rank in sorted({*plan.peers, *given})
        }

        def store(rank: int, ip: str, key: bytes) -> str | None:
            if ip != plan.ips[rank]:
                return None
            expected, moved = found[rank]
            if isinstance(expected, TrustAnyKey):
                Pins().add(ip, key)
            return moved.name if moved is not None and Pins().moved(moved, ip) else None

        return cls(load_identity(identity), {rank: key for rank, (key, _) in found.items()}, store)


def _given(plan: Plan, peers: Sequence[str]) -> dict[int, str | bytes]:
    """Return what `--peer` gives for each rank: a pin's name or a key."""
    given: dict[int, str | bytes] = {}
    for text in peers:
        match = _OF_RANK.fullmatch(text)
        assert match is not None  # noqa: S101 - it matches every text
        number, value = match.groups()
        if number is None and plan.size > 2:
            text = "--peer needs a rank with more than two ranks; use --peer RANK=NAME or RANK=KEY"
            raise ConfigError(text, code="bad-trust")
        rank = plan.peers[0] if number is None else int(number)
        if rank >= plan.size or rank == plan.rank:
            text = f"--peer {rank}=… is not another rank; this is rank {plan.rank} of {plan.size}"
            raise ConfigError(text, code="bad-trust")
        if rank in given:
            raise ConfigError(f"--peer names rank {rank} twice; give each rank one key", code="bad-trust")
        given[rank] = value if _NAME.fullmatch(value) else decode_public_key(value)
    return given


def _pinned(*, all_given: bool) -> "list[PinnedPeer]":
    try:
        return Pins().list()
    except IdentityError as error:
        if error.code == "no-home" and all_given:  # as in a service that gets everything from options
            return []
        raise


def _expected(
    plan: Plan, rank: int, given: str | bytes | None, pinned: "Sequence[PinnedPeer]", first_use: bool
) -> "tuple[Pin, PinnedPeer | None]":
    """Return the key of a rank, and its pin if that had another address so far."""
    ip = plan.ips[rank]
    others = [each for other, each in enumerate(plan.ips) if other != plan.rank]
    names_it_alone = others.count(ip) == 1  # on loopback ranks can share an address
    there = next((pin for pin in pinned if pin.address == ip), None) if names_it_alone else None
    named = _named(pinned, given) if isinstance(given, str) else None
    key = given if isinstance(given, bytes) else named.key if named else None
    if key is not None and there is not None and key != there.key:
        raise ConfigError(
            f"--peer gives rank {rank} the key {fingerprint(key)}, but {ip} is pinned as {there.name} to "
            f"{fingerprint(there.key)}; leave --peer out, or run: jaccl-bootstrap pin --remove {there.name}",
            code="bad-trust",
        )
    if key is not None:
        return key, named if names_it_alone and there is None else None
    if there is not None:
        return there.key, None
    if not names_it_alone:
        text = f"{ip} is the address of several ranks; give --peer {rank}=NAME or {rank}=KEY for each of them"
        raise ConfigError(text, code="bad-trust")
    if first_use:
        return TrustAnyKey(), None
    raise IdentityError(
        f"no key is pinned for {ip}; run 'jaccl-bootstrap identity' there, then 'jaccl-bootstrap pin {ip} KEY' here, "
        "or use --peer NAME for a peer pinned at another address",
        code="not-pinned",
    )


def _named(pinned: "Sequence[PinnedPeer]", name: str) -> "PinnedPeer":
    for pin in pinned:
        if pin.name == name:
            return pin
    raise IdentityError(f"no peer is pinned as {name}; to list the pins, run: jaccl-bootstrap pin", code="not-pinned")


def load_identity(path: Path | None = None, *, create: bool = True) -> KeySigner:
    """Return this host's identity key, from `path` or else from `identity.pem` in `config_directory()`.

    Create it if there is none: PKCS#8 PEM, mode 0600; concurrent processes get the same key. Raise IdentityError for an
    unsafe file or anything but a P-256 key, and with `create` false for a missing file (`no-identity`).
    """
    file = PrivateFile(identity_path() if path is None else path, MAX_KEY_FILE, _OTHER_KEY)
    data = file.read()
    if data is None and create:
        file.create(_new_key())
        data = file.read()  # another process may have been first
    if data is None:
        text = f"{file.path} does not exist; to create a key, run: jaccl-bootstrap identity --identity {file.quoted}"
        raise IdentityError(text, code="no-identity")
    return _signer(data, file)


def identity_path() -> Path:
    return config_directory() / "identity.pem"


class PinnedPeer(NamedTuple):
    """A peer with a pinned key."""

    name: str
    key: bytes
    """X ‖ Y."""
    address: str | None
    """The last known address, unique among the pins; None if unknown."""


class Pins:
    """The identity keys of peers by name, in `path` or else in `peers.json` in `config_directory()`.

    `{"mac-b": {"key": "<base64 of 64 bytes>", "address": "169.254.1.2"}}`. Each call reads the file. Changes are atomic
    and keep those of other processes. A wrong name, key or address is a ConfigError, anything else an IdentityError.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = config_directory() / "peers.json" if path is None else path
        self._file = PrivateFile(self.path, MAX_PINS_FILE, _OTHER_PINS)

    def get(self, name: str) -> PinnedPeer | None:
        """Return the pin of this name, if any."""
        return self._read().get(_check_name(name))

    def at(self, address: str) -> PinnedPeer | None:
        """Return the pin with this address, if any."""
        address = str(check_ip(address))
        return next((pin for pin in self.list() if pin.address == address), None)

    def list(self) -> list[PinnedPeer]:
        """Return all pins, sorted by name."""
        return [*self._read().values()]

    def add(self, name: str, key: bytes, address: str | None = None) -> PinnedPeer:
        """Pin `key` as `name` and return the pin. A name that is an IPv4 address is also the pin's address.

        Another pin with the same address loses it. If another key is pinned as `name`, it stays, and an IdentityError
        (`pin-conflict`) is raised.
        """
        if _is_address(_check_name(name)):
            if address not in (None, name):
                text = f"the name {name} is an address, so --address {address} contradicts it; leave one out"
                raise ConfigError(text, code="bad-name")
            address = name
        if address is not None:
            address = str(check_ip(address))
        encode_public_key(key)  # raises for an invalid key
        with self._file.locked():
            pins = self._read()
            pin = pins.get(name)
            if pin is not None and pin.key != key:
                raise IdentityError(
                    f"{name} is pinned to {fingerprint(pin.key)}, not to {fingerprint(key)}; if the peer really has "
                    f"a new key, first run: jaccl-bootstrap pin --remove {name}",
                    code="pin-conflict",
                )
            wanted = PinnedPeer(name, key, address or (pin.address if pin else None))
            if pin != wanted:
                self._put(pins, wanted)
        return wanted

    def moved(self, pin: PinnedPeer, address: str) -> bool:
        """Store a pin's new address. Return False if it is not new, or the pin is gone."""
        address = str(check_ip(address))
        if (known := self.get(pin.name)) is None or known.address == address:
            return False  # so an unchanged address needs no writable file
        with self._file.locked():
            pins = self._read()
            known = pins.get(pin.name)
            if known is None or known.key != pin.key:
                return False
            self._put(pins, known._replace(address=address))
        return True

    def remove(self, name: str) -> PinnedPeer:
        """Remove and return the pin of this name. Raise IdentityError (`not-pinned`) if there is none."""
        _named(self.list(), _check_name(name))  # before the lock, which needs a writable file
        with self._file.locked():
            pins = self._read()
            pin = _named([*pins.values()], name)
            del pins[name]
            self._write(pins)
        return pin

    def _put(self, pins: dict[str, PinnedPeer], new: PinnedPeer) -> None:
        if new.address is not None:
            pins = {
                name: pin._replace(address=None) if pin.address == new.address else pin for name, pin in pins.items()
            }
        self._write({**pins, new.name: new})

    def _write(self, pins: dict[str, PinnedPeer]) -> None:
        shown = {pin.name: {"key": encode_public_key(pin.key), "address": pin.address} for pin in sorted(pins.values())}
        self._file.replace(json.dumps(shown, indent=2).encode() + b"\n")

    def _read(self) -> dict[str, PinnedPeer]:
        data = self._file.read()
        if data is None:
            return {}
        try:
            value = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            pins = {name: _pin(name, members) for name, members in sorted(value.items())}
            addresses = [pin.address for pin in pins.values() if pin.address is not None]
            if len({*addresses}) < len(addresses):
                raise ValueError("two peers have the same address")
        except (ValueError, RecursionError) as error:
            text = f"{self.path} has no valid pins: {error}; fix that, or remove it and pin the peers again"
            raise IdentityError(text, code="pins-malformed") from error
        return pins


def decode_public_key(text: str) -> bytes:
    """Return X ‖ Y. Raise ConfigError (`bad-key`) unless `text` is padded base64 of a point on P-256."""
    try:
        return _decode(text)
    except ValueError as error:
        raise _bad_key(error) from error


def encode_public_key(key: bytes) -> str:
    """Return the base64 of X ‖ Y. Raise ConfigError (`bad-key`) unless that is a point on P-256."""
    try:
        _check_point(key)
    except ValueError as error:
        raise _bad_key(error) from error
    return base64.b64encode(key).decode()


def _bad_key(reason: ValueError) -> ConfigError:
    text = f"the public key is wrong: {reason}; use what `jaccl-bootstrap identity` prints on the peer"
    return ConfigError(text, code="bad-key")


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
        raise ValueError("not a point on P-256") from None


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _signer(data: bytes, file: "PrivateFile") -> KeySigner:
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise file.refusal("is encrypted", "encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise file.refusal("is not a private key in PEM", "not-pem") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise file.refusal("is not a P-256 key", "not-p256")
    return KeySigner(key)


def _check_name(name: str) -> str:
    """Return the name of a pin. Raise ConfigError for an invalid name or address."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name if len(name) <= 40 else name[:40] + "...")
        text = f"{shown} is not a valid peer name, use 1 to 64 of A-Z a-z 0-9 . _ - such as mac-b, or its IPv4 address"
        raise ConfigError(text, code="bad-name")
    if _is_address(name):
        check_ip(name)
    return name


def _is_address(name: str) -> bool:
    return not name.strip("0123456789.")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is repeated in an object")
    return members


def _pin(name: str, members: object) -> PinnedPeer:
    shown = repr(name if len(name) <= 40 else name[:40] + "...")
    try:
        _check_name(name)
    except ConfigError as error:
        raise ValueError(f"{shown} is not a valid peer name") from error
    if not isinstance(members, dict) or members.keys() != {"key", "address"}:
        raise ValueError(f"{shown} must have a key and an address")
    address = members["address"]
    try:
        address = None if address is None else str(check_ip(address))
    except ConfigError as error:
        raise ValueError(f"the address of {shown} is not the IPv4 address of a host") from error
    try:
        return PinnedPeer(name, _decode(members["key"]), address)
    except ValueError as error:
        raise ValueError(f"the key of {shown} is wrong ({error})") from error
