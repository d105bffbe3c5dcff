"""Files whose errors name them."""

from io import FileIO
from pathlib import Path
from typing import Any


class NamedFile(FileIO):
    """An unbuffered file that names itself in each error: Python does so only if it cannot be opened."""

    def read(self, size: int | None = -1, /) -> Any:
        return self._named(super().read, -1 if size is None else size)

    def readinto(self, buffer: Any, /) -> Any:
        return self._named(super().readinto, buffer)

    def write(self, data: Any, /) -> Any:
        return self._named(super().write, data)

    def _named(self, do: Any, value: Any) -> Any:
        try:
            return do(value)
        except OSError as error:
            error.filename = self.name
            raise


def write(path: Path, data: bytes) -> None:
    """Replace the content of a file."""
    with NamedFile(path, "w") as file:
        while data:
            data = data[file.write(data) :]
