"""`bootstrap(config)` called by a program: two processes, without a supervisor."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bootstrap import BootstrapConfig, ConfigError, GroupInitError, TopologyWriteError, bootstrap, form_group, group
from bootstrap.plan import Plan
from bootstrap.system.network import reserved_ports

# Otherwise pytest's own limit is a SIGALRM, too.
pytestmark = pytest.mark.timeout(120, method="thread")

EMBEDDED = """
import sys
from bootstrap import BootstrapConfig, GroupInitError, bootstrap

rank, port, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
group = bootstrap(BootstrapConfig(
    own_rank=rank, own_ip="127.0.0.1", peer_ip="127.0.0.1", port=port, session_id="S-1", backend="ring",
    directory=directory,
))
print(group.rank(), group.size())
try:
    bootstrap(BootstrapConfig(own_rank=rank, own_ip="127.0.0.1", peer_ip="127.0.0.1", backend="ring"))
except GroupInitError as error:
    print(error.code)
"""

ALONE = """
import signal, sys, time
from bootstrap import BootstrapConfig, BootstrapError, bootstrap
from bootstrap.group import preload

rank, port, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
config = BootstrapConfig(
    own_rank=rank, own_ip="127.0.0.1", peer_ip="127.0.0.1", port=port, backend="ring", directory=directory
)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
preload()
start = time.monotonic()
try:
    bootstrap(config, deadline=0.5)
except BootstrapError as error:
    took = time.monotonic() - start
    print(error.stage, error.code, 0.5 <= took < 2, error)
print(signal.getsignal(signal.SIGALRM) is signal.SIG_IGN, signal.getitimer(signal.ITIMER_REAL))
"""


def test_two_processes_form_a_group_without_a_supervisor(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    with reserved_ports("127.0.0.1", 2) as port:
        ranks = []
        for rank, directory in enumerate(directories):
            directory.mkdir()
            command = [sys.executable, "-c", EMBEDDED, str(rank), str(port), str(directory)]
            # A stale variable would override the right one.
            env = {**os.environ, "JACCL_RANK": "7"}
            ranks.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        outputs = [process.communicate(timeout=60)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert outputs == ["0 2\nalready-formed\n", "1 2\nalready-formed\n"]
    assert [list(directory.iterdir()) for directory in directories] == [[], []]


SEVERAL = """
import os, sys
from bootstrap.group import check_sum, form_group
from bootstrap.plan import Plan

rank, port, directory, *counts = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:])
all_ips = tuple(tuple(f"127.0.{r}.{n + 1}" for n in range(count)) for r, count in enumerate(counts))
plan = Plan(
    rank=rank, ips=tuple(ips[0] for ips in all_ips), all_ips=all_ips, port=port, backend="ring", directory=directory,
    envs=(("OWN", "yes"),),
)
print(check_sum(form_group(plan)), os.environ["OWN"])
"""


@pytest.mark.parametrize("counts", [(2, 2), (3, 3), (1, 2), (3, 2)])
def test_mlx_forms_a_ring_of_several_connections(counts: tuple[int, int], tmp_path: Path) -> None:
    with reserved_ports("127.0.0.1", 6) as port:
        ranks = []
        for rank in (0, 1):
            directory = tmp_path / str(rank)
            directory.mkdir()
            command = [sys.executable, "-c", SEVERAL, str(rank), str(port), str(directory), *map(str, counts)]
            ranks.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        outputs = [process.communicate(timeout=60)[0] for process in ranks]
    assert outputs == ["3 yes\n", "3 yes\n"]


def alone(rank: int, port: int, directory: Path) -> list[str]:
    """The error of a rank whose peer never connects."""
    command = [sys.executable, "-c", ALONE, str(rank), str(port), str(directory)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()


LATE = [
    "group deadline True no group within 0.5 s; check whether the other rank has started",
    "True (0.0, 0.0)",
]


def test_the_deadline_of_rank_0_whom_nobody_joins(tmp_path: Path) -> None:
    with reserved_ports("127.0.0.1", 2) as port:
        assert alone(0, port, tmp_path) == LATE
    assert list(tmp_path.iterdir()) == []


def test_the_deadline_of_rank_1_to_whom_nobody_speaks(tmp_path: Path) -> None:
    with reserved_ports("127.0.0.1", 2) as port, socket.create_server(("127.0.0.1", port), reuse_port=True):
        assert alone(1, port, tmp_path) == LATE
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_alarm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.usefixtures("clean_environment", "no_alarm")
def test_native_words_after_the_deadline_are_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = GroupInitError("[ring] Accept failed (error: 4)", code="init-failed")

    def init(*arguments: object) -> None:
        try:
            signal.raise_signal(signal.SIGALRM)
        except GroupInitError:  # like native code that takes the broken wait for its own failure
            raise native from None

    monkeypatch.setattr(group, "init_group", init)
    with pytest.raises(GroupInitError) as caught:
        bootstrap(config_of(tmp_path), deadline=60)
    assert caught.value.code == "deadline"
    assert caught.value.__cause__ is native


@pytest.mark.usefixtures("clean_environment", "no_alarm")
def test_a_failure_before_the_deadline_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = GroupInitError("native words", code="init-failed")

    def init(*arguments: object) -> None:
        raise native

    monkeypatch.setattr(group, "init_group", init)
    with pytest.raises(GroupInitError) as caught:
        bootstrap(config_of(tmp_path), deadline=60)
    assert caught.value is native


@pytest.mark.parametrize("deadline", [0, -1, 0.0, float("nan"), float("inf"), 1e20, 10**30, True, "60"])
def test_a_deadline_that_cannot_be(deadline: float, tmp_path: Path) -> None:
    """An infinite one raised OverflowError, and left its handler of SIGALRM in the process."""
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(ConfigError, match="use a positive number of seconds") as caught:
        bootstrap(config_of(tmp_path), deadline=deadline)
    assert caught.value.code == "bad-timeout"
    assert signal.getsignal(signal.SIGALRM) is handler


@pytest.mark.usefixtures("clean_environment")
def test_in_a_thread_there_is_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "init_group", lambda *arguments: arguments)

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(ConfigError, match="use deadline=None on others") as caught:
            threads.submit(bootstrap, config_of(tmp_path)).result(60)
        assert caught.value.code == "bad-timeout"
        assert threads.submit(bootstrap, config_of(tmp_path), None).result(60) == ("ring", 0, 2, None)


def test_rank_0_has_to_have_the_coordinators_address() -> None:
    config = BootstrapConfig(own_rank=0, own_ip="192.0.2.1", peer_ip="127.0.0.1", backend="ring")
    with pytest.raises(ConfigError, match=r"rank 0 is the coordinator at 192\.0\.2\.1") as caught:
        bootstrap(config)
    assert caught.value.code == "not-own-address"


def config_of(directory: Path) -> BootstrapConfig:
    return BootstrapConfig(own_rank=0, own_ip="127.0.0.1", peer_ip="127.0.0.1", backend="ring", directory=directory)


@pytest.mark.usefixtures("clean_environment")
def test_the_file_is_there_during_init_and_gone_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(
        rank=1, ips=("127.0.0.1", "127.0.0.1"), session_id="S", backend="ring", directory=str(tmp_path), link_ports=()
    )
    prepared = group.prepare(plan, "ring")
    path = prepared.path
    steps: list[str] = []

    def init(backend: str, rank: int, size: int, gather_factory: object) -> None:
        assert (backend, rank, size, gather_factory) == ("ring", 1, 2, None)
        assert path.read_bytes() == prepared.content
        assert os.environ["MLX_HOSTFILE"] == str(path)
        assert os.environ["MLX_RANK"] == "1"
        raise GroupInitError("native words", code="init-failed")

    monkeypatch.setattr(group, "init_group", init)
    with pytest.raises(GroupInitError):
        form_group(plan, lambda event, /, **fields: steps.append(event))
    assert steps == ["file-written", "environment-set"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clean_environment")
def test_when_the_file_cannot_be_written_nothing_else_is_touched(tmp_path: Path) -> None:
    before = dict(os.environ)
    config = BootstrapConfig(
        own_rank=0, own_ip="127.0.0.1", peer_ip="127.0.0.1", backend="ring", directory=tmp_path / "missing"
    )
    with pytest.raises(TopologyWriteError):
        bootstrap(config)
    assert dict(os.environ) == before
