"""The call into MLX: failures with a fake MLX, and the real one in another process."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootstrap import GroupInitError, group
from bootstrap.group import check_sum, init_group, preload, resolve_backend, takes_gather_factory
from bootstrap.link.gather import Gather


class FakeGroup:
    def rank(self) -> int:
        return 1

    def size(self) -> int:
        return 4


@pytest.fixture
def mlx(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An MLX with only the ring, whose group has rank 1 of 4 and whose all_sum gives 10."""
    distributed = SimpleNamespace(
        is_available=lambda backend: backend == "ring",
        init=lambda strict, backend: FakeGroup(),
        all_sum=lambda array, group: SimpleNamespace(item=lambda: 10),
    )
    fake = SimpleNamespace(distributed=distributed, array=lambda data, dtype: data, int32="int32")
    monkeypatch.setattr(group, "_mlx", lambda: fake)
    monkeypatch.setattr(group, "_formed", [])
    return fake


def test_auto_is_ring_where_there_is_no_jaccl(mlx: SimpleNamespace) -> None:
    assert resolve_backend("auto") == "ring"


def test_auto_is_jaccl_where_it_is_available(mlx: SimpleNamespace) -> None:
    mlx.distributed.is_available = lambda backend: True
    assert resolve_backend("auto") == "jaccl"


def test_a_named_backend_is_never_replaced(mlx: SimpleNamespace) -> None:
    assert resolve_backend("ring") == "ring"
    with pytest.raises(GroupInitError, match="no jaccl backend") as caught:
        resolve_backend("jaccl")
    assert (caught.value.stage, caught.value.code) == ("group", "backend-unavailable")


def test_without_mlx_the_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(GroupInitError, match=r"pip install 'cluster-wireproto\[bootstrap\]'") as caught:
        resolve_backend("auto")
    assert caught.value.code == "mlx-missing"
    preload()  # leaves the error to `resolve_backend`


def test_init_is_strict_named_and_logged(mlx: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[dict[str, Any]] = []
    mlx.distributed.init = lambda **arguments: calls.append(arguments) or FakeGroup()
    with caplog.at_level(logging.INFO, logger="bootstrap.group"):
        init_group("jaccl", 1, 4)
    assert calls == [{"strict": True, "backend": "jaccl"}]
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("bootstrap.group", "jaccl DistributedGroup ready (rank 1): size=4")
    ]


def test_a_gather_factory_is_handed_on(mlx: SimpleNamespace) -> None:
    calls: list[dict[str, Any]] = []
    mlx.distributed.init = lambda **arguments: calls.append(arguments) or FakeGroup()
    init_group("jaccl", 1, 4, no_gather)
    assert calls == [{"strict": True, "backend": "jaccl", "all_gather_factory": no_gather}]


def no_gather(rank: int, size: int) -> Gather:
    raise AssertionError("nobody gathers here")


def test_a_process_forms_one_group(mlx: SimpleNamespace) -> None:
    init_group("ring", 1, 4)
    mlx.distributed.init = None  # MLX is not called again: it would return the first group
    with pytest.raises(GroupInitError, match="form the next one in a new process") as caught:
        init_group("ring", 1, 4)
    assert caught.value.code == "already-formed"


def test_after_a_failure_another_try_may_work(mlx: SimpleNamespace) -> None:
    working = mlx.distributed.init
    mlx.distributed.init = None
    with pytest.raises(GroupInitError):
        init_group("ring", 1, 4)
    mlx.distributed.init = working
    assert init_group("ring", 1, 4).size() == 4


@pytest.mark.parametrize(
    ("doc", "takes"),
    [("init(strict: bool = False, *, all_gather_factory: Callable | None = None)", True), ("init(strict)", False)],
)
def test_whether_mlx_takes_a_gather_factory(mlx: SimpleNamespace, doc: str, takes: bool) -> None:
    mlx.distributed.init = SimpleNamespace(__doc__=doc)
    assert takes_gather_factory() is takes


def test_an_init_without_a_doc_takes_no_gather_factory(mlx: SimpleNamespace) -> None:
    mlx.distributed.init.__doc__ = None
    assert takes_gather_factory() is False


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_a_native_failure_keeps_its_words(mlx: SimpleNamespace, error: type[Exception]) -> None:
    def fail(**arguments: object) -> None:
        raise error("Changing queue pair to RTR failed with errno 22")

    mlx.distributed.init = fail
    with pytest.raises(GroupInitError, match="Changing queue pair to RTR failed with errno 22") as caught:
        init_group("jaccl", 0, 2)
    assert caught.value.code == "init-failed"
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize(("rank", "size"), [(0, 4), (1, 2), (1, 1)])
def test_another_group_than_asked_for(mlx: SimpleNamespace, rank: int, size: int) -> None:
    with pytest.raises(GroupInitError, match=f"rank 1 of 4 instead of rank {rank} of {size}") as caught:
        init_group("ring", rank, size)
    assert caught.value.code == "wrong-group"


def test_the_sum_is_checked(mlx: SimpleNamespace) -> None:
    assert check_sum(FakeGroup()) == 10  # type: ignore[arg-type]
    mlx.distributed.all_sum = lambda array, group: SimpleNamespace(item=lambda: 9)
    with pytest.raises(GroupInitError, match="9 instead of 10") as caught:
        check_sum(FakeGroup())  # type: ignore[arg-type]
    assert caught.value.code == "sum-wrong"


def test_a_sum_that_fails(mlx: SimpleNamespace) -> None:
    def fail(array: object, group: object) -> None:
        raise RuntimeError("[ring] connection to a peer was lost")

    mlx.distributed.all_sum = fail
    with pytest.raises(GroupInitError, match="connection to a peer was lost") as caught:
        check_sum(FakeGroup())  # type: ignore[arg-type]
    assert caught.value.code == "sum-failed"


def test_a_real_failed_init_surfaces_with_the_native_message(tmp_path: Path) -> None:
    code = """
from bootstrap import GroupInitError
from bootstrap.group import init_group
try:
    init_group("ring", 0, 2)
except GroupInitError as error:
    print(error.code, error, repr(error.__cause__), sep="|")
"""
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text("{ not json")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MLX_RANK": "0", "MLX_HOSTFILE": str(hostfile)},
    )
    kind, text, cause = done.stdout.strip().split("|")
    assert kind == "init-failed"
    assert text.startswith("MLX could not form the ring group: ")
    assert text.removeprefix("MLX could not form the ring group: ")[:20] in cause
