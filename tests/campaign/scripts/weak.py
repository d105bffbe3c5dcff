"""A rank that fails on bad input, as $WEAKNESS says."""

import os
import runpy
from pathlib import Path

from bootstrap.link import transport

WEAKNESS = os.environ["WEAKNESS"]
close = transport.Link.close
kept = []


def suffer(link, failure):
    if "broke the protocol" in str(failure):
        if WEAKNESS == "dies":
            os._exit(1)
        kept.append(bytearray(b"x") * 1_000_000 if WEAKNESS == "swells" else os.open("/dev/null", os.O_RDONLY))
    close(link, failure)


transport.Link.close = suffer
runpy.run_path(str(Path(__file__).with_name("rank.py")), run_name="__main__")
