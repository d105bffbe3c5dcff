"""Faults, bad input and endurance: what no rank may answer with a hang, a leak or a lie."""

import sys


def say(text: str, end: str = "\n") -> None:
    """To whoever runs a command of this package, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()
