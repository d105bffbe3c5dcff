"""The fixtures that start real ranks."""

from tests.bootstrap.conftest import command, nothing_left, pair, ranks, up
from tests.wireproto.conformance.conftest import few_scripts

__all__ = ["command", "few_scripts", "nothing_left", "pair", "ranks", "up"]
