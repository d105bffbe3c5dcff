"""The key log, read as it grows. [KEY-LOG]"""

import re
from collections.abc import Iterator
from typing import Final, TextIO

_LINE: Final = re.compile(r"CLUSTER_SESSION_KEY ([0-9a-fA-F]{64}) ([0-9a-fA-F]{64})\s*")


class KeyLog:
    """The session keys in an open file. Other lines are skipped: other programs may log to the same file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._keys: dict[bytes, bytes] = {}
        self._line = ""  # the rest may not be written yet

    def find(self, hello_nonce: bytes) -> bytes | None:
        """Return the key of the session whose hello has this nonce."""
        if hello_nonce not in self._keys:
            self._read_on()
        return self._keys.get(hello_nonce)

    def all(self) -> Iterator[bytes]:
        """Yield every key, for a session whose beginning was not captured."""
        self._read_on()
        yield from self._keys.values()

    def _read_on(self) -> None:
        while text := self._file.readline(1024):
            self._line += text
            if match := _LINE.fullmatch(self._line):
                self._keys[bytes.fromhex(match[1])] = bytes.fromhex(match[2])
            if text.endswith("\n"):
                self._line = ""
