"""Loopback addresses that no other test uses, here or in a process beside this one."""

import os
import secrets
from itertools import count

_NUMBERS = count(secrets.randbelow(250))


def new_net() -> str:
    """Return the first three numbers of addresses: one is this process's, and the next is another each time."""
    return f"127.{os.getpid() % 200 + 20}.{next(_NUMBERS) % 250}"
