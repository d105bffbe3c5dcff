"""The fixtures that start real ranks."""

from tests.bootstrap.conftest import command, nothing_left, pair, ranks, up
from tests.wireproto.conformance.conftest import small_runs

__all__ = ["command", "nothing_left", "pair", "ranks", "small_runs", "up"]
