"""A simulated process as the run that owns it sees it: its signals, and all that it has started, however far down."""

import asyncio
import signal
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from bootstrap.control import run
from bootstrap.control.child import GRACE_SECONDS, KILL_SECONDS
from bootstrap.system.processes import POLL_SECONDS
from tests.simulation.loop import CONTROL
from tests.simulation.machine import SimulatedProcess
from tests.simulation.remembered import Place, patched


class Signals:
    """The module `signal`, for the current process."""

    def __getattr__(self, name: str) -> Any:
        return getattr(signal, name)

    def signal(self, number: int, handler: Any) -> None:
        assert handler is signal.SIG_IGN
        _process().ignored.add(number)

    def getsignal(self, number: int) -> Any:
        return signal.SIG_IGN if number in _process().ignored else signal.SIG_DFL


def _process() -> SimulatedProcess:
    return CONTROL.get().process  # type: ignore[union-attr, no-any-return]


def _descendants() -> list[SimulatedProcess]:
    own = _process()
    return [each for each in own.machine.processes.values() if not each.is_dead and own in each.ancestors()]


async def _end_strays(keep: frozenset[int]) -> None:
    def strays() -> list[SimulatedProcess]:
        return [each for each in _descendants() if each.pid not in keep]

    loop = asyncio.get_running_loop()
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        for each in strays():
            each.signal(number)
        limit = loop.time() + seconds
        while strays() and loop.time() < limit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


_OWNED: Final[list[Place]] = [
    (run, "signal", Signals()),
    (run, "descendants", lambda: frozenset(each.pid for each in _descendants())),
    (run, "adopting", ExitStack),  # a parent is known here even after its end
    (run, "end_strays", _end_strays),
    (run, "reap_orphans", lambda keep: None),
]


owned_processes: Final = partial(patched, _OWNED)
"""Have runs handle the signals and the descendants of their simulated processes inside the block."""
