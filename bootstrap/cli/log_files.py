"""`--log-dir`: a file per attempt with the output of each rank's program and MLX."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootstrap.cli.display import PlainDisplay
from bootstrap.control.output import LONGEST_LINE
from bootstrap.errors import BootstrapError
from bootstrap.events import EventDict
from bootstrap.files import open_private
from bootstrap.link.record import Record


class LogFiles:
    """A display that copies whole lines to `rank-R.N.log`, N counting attempts from 1, and forwards everything."""

    def __init__(self, display: PlainDisplay, directory: Path, ranks: Sequence[int]) -> None:
        self._display = display
        self._files = {}
        try:
            for rank in ranks:
                self._files[rank] = _RankFile(directory, rank)
        except BaseException:
            self.close()
            raise
        self.quiet, self.full, self.failed = display.quiet, display.full, display.failed

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def event(self, event: EventDict) -> None:
        if event["event"] == "restarting" and event["rank"] in self._files:
            self._files[event["rank"]].begin()
        self._display.event(event)

    def log(self, rank: int | None, line: str) -> None:
        if rank in self._files:
            self._files[rank].put([line.encode(errors="backslashreplace")])
        self._display.log(rank, line)

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        if rank in self._files:
            self._files[rank].output(stream, data)
        self._display.output(rank, stream, data)


class _RankFile:
    """The log file of a rank's current attempt."""

    def __init__(self, directory: Path, rank: int) -> None:
        self._directory, self._rank = directory, rank
        self._attempt = 0
        self._held: dict[str, bytes] = {}
        self._descriptor: int | None = None
        self.begin()

    def begin(self) -> None:
        """Continue in the next attempt's file."""
        self.close()
        self._attempt += 1
        path = self._directory / f"rank-{self._rank}.{self._attempt}.log"
        try:
            self._descriptor = open_private(path, os.O_APPEND)
        except OSError as error:
            text = f"cannot write {path}: {error.strerror or error}; check the directory, or use another one"
            raise BootstrapError(text, code="log-refused") from error
        self._file = Record(self._descriptor, f"the log {path}")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def put(self, lines: Sequence[bytes]) -> None:
        self._file.put(b"".join(line + b"\n" for line in lines))

    def output(self, stream: str, data: bytes) -> None:
        """Take output of the program; b"" ends the stream."""
        *lines, rest = (self._held.pop(stream, b"") + data).split(b"\n")
        if rest and (not data or len(rest) >= LONGEST_LINE):
            lines, rest = [*lines, rest], b""
        if rest:
            self._held[stream] = rest
        if lines:
            self.put(lines)


@contextmanager
def log_files(
    display: PlainDisplay, directory: Path | None, ranks: Sequence[int]
) -> Iterator["PlainDisplay | LogFiles"]:
    """Yield the display, with log files of the ranks if there is a directory for them."""
    if directory is None:
        yield display
        return
    files = LogFiles(display, directory, ranks)
    try:
        yield files
    finally:
        files.close()
