"""The keys of a run: ours from a file, the peer's from an argument."""

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wireproto.conformance.byhand import Identity


class IdentityFileError(ValueError):
    """A key is unusable."""


def load_identity(path: Path | None) -> Identity:
    """Return the P-256 key in a PEM file, by default that of `jaccl-bootstrap identity`."""
    path = path or _default()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        remedy = f"jaccl-bootstrap identity --identity {path}"
        raise IdentityFileError(f"{path} does not exist; to create a key, run: {remedy}") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityFileError(f"{path} is not a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityFileError(f"{path} is not a P-256 key")
    return Identity(key)


def peer_key_of(text: str) -> bytes:
    """Return X ‖ Y, 64 bytes, from base64 as shown by `jaccl-bootstrap identity`."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 64:
        raise IdentityFileError(f"the peer key {text[:100]!r} is not base64 of 64 bytes")
    return key


def _default() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "cluster-wireproto" / "identity.pem"
