"""The key log: WIREPROTO_KEYLOGFILE names a file, and every session key goes there. [KEY-LOG]"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bootstrap.errors import ConfigError
from bootstrap.files import open_private

VARIABLE: Final = "WIREPROTO_KEYLOGFILE"

logger = logging.getLogger(__name__)


class KeyLog:
    """The file, as a session writes to it. A full disk ends the log, and nothing else."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._is_over = False

    def write(self, text: str) -> int:
        if not self._is_over:
            try:
                os.write(self._descriptor, text.encode())
            except OSError as error:  # a full disk, or a pipe whose reader is slow or gone
                self._is_over = True
                logger.warning("the key log %s ends here: %s", self._path, error.strerror)
        return len(text)

    def flush(self) -> None:
        """Do nothing: each write goes out at once."""


def set_key_log(path: Path | None) -> None:
    """Let the variable name a file, for this process and for those that it starts; None leaves it as it is."""
    if path is not None:
        os.environ[VARIABLE] = str(path.absolute())


@contextmanager
def open_key_log() -> Iterator[KeyLog | None]:
    """Open the file to append, mode 0600 where it is new; None where the variable is not set. ConfigError if unsafe."""
    path = os.environ.get(VARIABLE)
    if not path:
        yield None
        return
    try:
        descriptor = open_private(path, os.O_APPEND)
    except OSError as error:
        raise ConfigError(
            f"cannot open {path}, which {VARIABLE} names: {error.strerror}", code="bad-key-log"
        ) from error
    logger.warning("the keys of every session go to %s: whoever has it can read the traffic", path)
    try:
        yield KeyLog(descriptor, path)
    finally:
        os.close(descriptor)
