"""The faults, one function per kind. Each returns at once, or within some seconds."""

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psutil

from tests.bootstrap.ranks import COORDINATOR_PORT, LINK_PORT
from tests.campaign.plan import FRAME
from tests.campaign.process import Running, StoppedError
from tests.campaign.scene import START_SECONDS, Scene

FLOOD = 150
"""Connections opened by a flood."""
YEAR = 365 * 24 * 3600
CLOCK_JUMPS = (-55 * YEAR, -10 * YEAR, -3600, -2, 2, 3600, 10 * YEAR, 80 * YEAR)
LONGEST = 4.0
"""Duration of a temporary fault in seconds."""


def strike(scene: Scene) -> None:
    fault = scene.case.fault
    with suppress(StoppedError):
        if fault in ONE_SIDE:
            ONE_SIDE[fault](scene)
        else:
            _cable(scene)


def _target(scene: Scene) -> list[int]:
    """The ids of the affected processes."""
    run = scene.runs[scene.case.rank]
    pids = {"control": run.process.pid, "guard": run.guard, "worker": run.worker}
    choices = [["control"], ["control", "guard"], ["guard"], ["worker"], ["worker"]]
    target = scene.random.choice([choice for choice in choices if None not in [pids[name] for name in choice]])
    scene.chosen["target"] = target
    return [pid for name in target if (pid := pids[name]) is not None]


def kill(scene: Scene) -> None:
    pids = _target(scene)
    scene.unguarded = len(pids) > 1
    for pid in reversed(pids):  # the guard first, so that it has no time to clean up
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(scene: Scene) -> None:
    pids = _target(scene)
    _signal(pids, signal.SIGSTOP)
    _later(scene, _seconds(scene), lambda: _signal(pids, signal.SIGCONT))


def freeze(scene: Scene) -> None:
    run = scene.runs[scene.case.rank]
    scene.news.until(lambda: run.worker is not None or run.is_over, START_SECONDS)
    if run.worker is None:
        return
    pids = [run.worker]
    scene.chosen["target"] = ["worker"]
    _signal(pids, signal.SIGSTOP)
    if scene.random.random() < 0.5:
        _later(scene, _seconds(scene), lambda: _signal(pids, signal.SIGCONT))
    else:
        scene.is_frozen = True


def _seconds(scene: Scene) -> float:
    """Choose the duration of a temporary fault."""
    seconds = scene.chosen["seconds"] = scene.random.uniform(0.1, LONGEST)
    return seconds


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _later(scene: Scene, seconds: float, do: Callable[[], None]) -> None:
    """Do it then, and in any case before the next case."""
    timer = threading.Timer(seconds, do)
    timer.start()

    def now() -> None:
        timer.cancel()
        timer.join()
        do()

    scene.healed.append(now)


def _cable(scene: Scene) -> None:
    fault, random = scene.case.fault, scene.random
    seconds = _seconds(scene)
    if scene.lane.hosts is not None and fault == "partition":
        if random.random() < 0.5:  # the cable stays out
            seconds = scene.chosen["seconds"] = 3600.0
        if random.random() < 0.5:
            host = random.choice(scene.lane.hosts)
            scene.chosen["unplugged"] = scene.lane.hosts.index(host)
            host.unplug()
            _later(scene, seconds, host.plug) if seconds < 3600 else scene.healed.append(host.plug)
    if fault in FRAME and random.random() < 0.3:
        scene.chosen["twice"] = True
        scene.cable.harm(fault, seconds)
        _later(scene, 0.2, lambda: scene.cable.harm(fault, 0.1))
    else:
        scene.cable.harm(fault, seconds)


# -- one host ----------------------------------------------------------------------------------------------------------


def flood(scene: Scene) -> None:
    """From an address of no rank, and from the other rank's own."""
    zero, one = (rank.ip for rank in scene.lane.ranks)
    stranger = zero.rpartition(".")[0] + ".9"
    targets = [(one, LINK_PORT)] if scene.random.random() < 0.7 else [(one, LINK_PORT), (zero, COORDINATOR_PORT)]
    words = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64, (1 << 16).to_bytes(8, "little") + b"\x01" * 4096]

    def pour() -> None:
        with ExitStack() as opened:
            end = time.monotonic() + 1.5
            for number in range(FLOOD):
                if time.monotonic() > end:
                    break
                to = targets[number % len(targets)]
                source = stranger if number % 3 else (zero if to[0] == one else one)
                with suppress(OSError):
                    connection = opened.enter_context(socket.create_connection(to, 0.2, (source, 0)))
                    connection.sendall(words[number % len(words)])
            time.sleep(0.2)

    thread = threading.Thread(target=pour)
    thread.start()
    scene.healed.append(thread.join)


def clock(scene: Scene) -> None:
    """Once, or again some seconds later."""

    def jump() -> None:
        scene.clock.write_text(str(scene.random.choice(CLOCK_JUMPS)))

    jump()
    if scene.random.random() < 0.5:
        _later(scene, scene.random.uniform(0.1, LONGEST), jump)


def disk(scene: Scene) -> None:
    """Full from now on."""
    assert scene.mounted is not None
    ballast = scene.mounted / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    scene.healed.append(lambda: ballast.unlink(missing_ok=True))


def permission(scene: Scene) -> None:
    tmp = scene.lane.tmp[scene.case.rank]
    tmp.chmod(0o555)
    scene.healed.append(lambda: tmp.chmod(0o755))


def descriptors(scene: Scene) -> None:
    """No more than there are now, or one or two: from now on, or for a while."""
    run = scene.runs[scene.case.rank]
    with suppress(psutil.Error):
        control = psutil.Process(run.process.pid)
        limits = control.rlimit(psutil.RLIMIT_NOFILE)
        most = control.num_fds() + scene.random.choice((0, 0, 1, 2))
        control.rlimit(psutil.RLIMIT_NOFILE, (most, limits[1]))
        if scene.random.random() < 0.5:
            _later(scene, scene.random.uniform(0.1, LONGEST), lambda: _limit(run, limits))


def _limit(run: Running, limits: tuple[int, int]) -> None:
    with suppress(psutil.Error, OSError):
        psutil.Process(run.process.pid).rlimit(resource.RLIMIT_NOFILE, limits)


def reader(scene: Scene) -> None:
    run = scene.runs[scene.case.rank]
    run.stop_reading()
    if scene.random.random() < 0.5:
        _later(scene, _seconds(scene), run.read_again)
    else:
        run.is_lost = True


def terminal(scene: Scene) -> None:
    scene.runs[scene.case.rank].hang_up()


def second(scene: Scene) -> None:
    scene.second = scene.run(scene.case.rank)


ONE_SIDE: dict[str, Callable[[Scene], None]] = {
    "kill": kill,
    "stop": stop,
    "freeze": freeze,
    "flood": flood,
    "clock": clock,
    "disk": disk,
    "permission": permission,
    "descriptors": descriptors,
    "reader": reader,
    "terminal": terminal,
    "keylog": disk,
    "second": second,
}
