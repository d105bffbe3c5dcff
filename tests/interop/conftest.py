"""The fixtures that start real ranks."""

from tests.bootstrap.conftest import command, nothing_left, pair, ranks, up

__all__ = ["command", "nothing_left", "pair", "ranks", "up"]
