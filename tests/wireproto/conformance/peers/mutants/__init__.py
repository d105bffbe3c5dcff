"""The mutants, one module per part of the protocol."""

from importlib import import_module

from tests.wireproto.conformance.peers.mutant import MUTANTS as MUTANTS

for _part in (
    "framing",
    "frame",
    "payload",
    "sent",
    "handshake",
    "signature",
    "seal",
    "session",
    "bootstrap",
    "extensions",
):
    import_module(f"{__name__}.{_part}")
