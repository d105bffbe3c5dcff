"""The key log of the commands: WIREPROTO_KEYLOGFILE names a file, and every session key goes there. [KEY-LOG]"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from bootstrap.errors import ConfigError

VARIABLE: Final = "WIREPROTO_KEYLOGFILE"

logger = logging.getLogger(__name__)


def set_key_log(path: Path | None) -> None:
    """Let the variable name a file, for this process and for those that it starts; None leaves it as it is."""
    if path is not None:
        os.environ[VARIABLE] = str(path.absolute())


@contextmanager
def open_key_log() -> Iterator[TextIO | None]:
    """The file, opened to append, mode 0600 where it is new; None where the variable is not set."""
    path = os.environ.get(VARIABLE)
    if not path:
        yield None
        return
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a")
    except OSError as error:
        raise ConfigError(
            f"cannot open {path}, which {VARIABLE} names: {error.strerror}", code="bad-key-log"
        ) from error
    logger.warning("the keys of every session go to %s: whoever has it can read what was said", path)
    with file:
        yield file
