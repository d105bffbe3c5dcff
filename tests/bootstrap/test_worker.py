"""The process that holds MLX, with an order from the test."""

import json
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import msgspec

from bootstrap.link.ports import check_own_ports
from bootstrap.plan import Order, Plan
from tests.bootstrap.ranks import make_ranks


def test_no_init_begins_before_its_turn(tmp_path: Path) -> None:
    """By then the file is written and the variables are set; without a control process nothing is left of them."""
    zero, one = make_ranks(tmp_path, 2)
    directory = tmp_path / "files"
    plan = Plan(rank=0, ips=(zero.ip, one.ip), backend="ring", directory=str(directory))
    order = Order(plan=plan, origin=time.monotonic(), deadline=time.monotonic() + 60)
    command = [sys.executable, "-P", "-m", "bootstrap.worker", "ring"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(msgspec.json.encode(order).decode() + "\n")
        worker.stdin.flush()
        said = [json.loads(worker.stdout.readline())["event"] for _ in range(3)]
        assert said == ["loaded", "file-written", "environment-set"]
        assert len(list(directory.iterdir())) == 1
        check_own_ports(plan, "ring")  # nothing listens there
        worker.stdin.close()
        assert (worker.wait(60), worker.stdout.read()) == (3, "")
    assert not directory.exists()
