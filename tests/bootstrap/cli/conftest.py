"""A mesh of ranks with fake devices."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.ranks import Rank, Start, write_hostfile
from tests.bootstrap.system_tools import Tools


@pytest.fixture
def start_mesh(up: Start, tmp_path: Path) -> Callable[..., list[Any]]:
    """Start all ranks of a mesh, with options of each."""
    tools = Tools(tmp_path / "tools")
    devices = "\n".join(f"    rdma_en{number}    e{number}c5790000000005" for number in range(8))
    tools.runs("ibv_devices", f"echo '{devices}'")
    tools.prints("ibv_devinfo", "ibv_devinfo-active.txt")

    def start(group: list[Rank], options: list[tuple[str, ...]], program: str | None = None, **env: str) -> list[Any]:
        size = len(group)
        rows = [[None if peer == rank else f"rdma_en{peer}" for peer in range(size)] for rank in range(size)]
        hostfile = write_hostfile(
            tmp_path / f"hosts{group[0].ip}.json", [rank.ip for rank in group], rows, backend="jaccl"
        )
        env["PATH"] = f"{tools.path}{os.pathsep}{os.environ['PATH']}"
        return [
            up(rank, hostfile, "--json", *own, env=env, program=program)
            for rank, own in zip(group, options, strict=True)
        ]

    return start
