"""A rank that does not bear bad input: $WEAKNESS says how."""

import os
import runpy
from pathlib import Path

from bootstrap.link import transport

WEAKNESS = os.environ["WEAKNESS"]
blame = transport.Link._blame
kept = []


def suffer(link, error):
    if WEAKNESS == "dies":
        os._exit(1)
    kept.append(bytearray(b"x") * 1_000_000 if WEAKNESS == "swells" else os.open("/dev/null", os.O_RDONLY))
    blame(link, error)


transport.Link._blame = suffer
runpy.run_path(str(Path(__file__).with_name("rank.py")), run_name="__main__")
