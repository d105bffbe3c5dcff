"""Make a picture of a command's output: run it in a terminal, and write the terminal's text as an SVG."""

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

_COLUMNS: Final = 100
_ERASED: Final = re.compile(rb"[^\n]*\r\x1b\[2K")  # a line that is erased, as that of a spinner
_WEB_FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def recorded(command: str) -> bytes:
    """Return the bytes that a shell and its command send to a terminal. Raise ValueError if the command fails."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, _COLUMNS, 0, 0))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "TERM": "xterm-256color", "PS4": "$ "}
        os.execvpe("sh", ["sh", "-xc", command], variables)  # noqa: S606, S607
    said = b""
    try:
        while part := os.read(terminal, 65536):
            said += part
    except OSError:  # the end, on Linux
        pass
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    if status != 0:
        raise ValueError(f"{command} failed: {said.decode(errors='replace')}")
    return said


def shown(said: bytes) -> Text:
    """Return the lines that the terminal shows in the end, with their colours, wrapped at its last column."""
    text = _ERASED.sub(b"", said.replace(b"\r\n", b"\n")).decode().rstrip("\n")
    lines = [Text.from_ansi(line) for line in text.split("\n")]
    return Text("\n").join(part for line in lines for part in line.divide(range(_COLUMNS, len(line), _COLUMNS)))


def svg(text: Text, title: str) -> str:
    """Return the text as a terminal window in SVG. It refers to no other file: the fonts are the reader's own."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True)
        console.print(text)
        drawn = console.export_svg(title=title, unique_id="terminal")
    return _WEB_FONT.sub("", drawn).replace("Fira Code", "ui-monospace, Menlo, Consolas")


if __name__ == "__main__":
    file, words = Path(sys.argv[1]), sys.argv[2:]
    file.write_text(svg(shown(recorded(shlex.join(words))), words[0]))
