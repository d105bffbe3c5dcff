"""`up` while the import of MLX is slow on one rank. The simulation has longer imports, and deadlines in between."""

from pathlib import Path

import pytest

from tests.bootstrap.ranks import Check, Start, make_ranks, names, of

pytestmark = pytest.mark.waits

SECONDS = 2


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_import_is_waited_for(slow: int, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """The other rank reports neither missing versions nor missed pongs, nor any other error."""
    pair = make_ranks(tmp_path, 2)
    options = ("--json", "--backend", "ring", "--timeout", "100")
    env = [{"IMPORT_SECONDS": str(SECONDS if rank == slow else 0)} for rank in range(2)]
    one = up(pair[1], pair[0], *options, worker="slow_import.py", env=env[1])
    one.until(("listening", 1))
    runs = [up(pair[0], pair[1], *options, worker="slow_import.py", env=env[0]), one]
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
    runs[0].process.terminate()
    assert [run.end() for run in runs] == [143, 0], [run.stderr for run in runs]
    for rank, run in enumerate(runs):
        assert names(run, "error", "warning", "link-lost", "consequence", "ignored", "restarting") == []
        assert run.stderr == [f"[rank {rank}] INFO bootstrap.group: ring DistributedGroup ready (rank {rank}): size=2"]
        nothing_left(run, *pair)
    assert {event["missed"] for event in of(runs[0], "health")} == {0}
    (frame,) = of(runs[slow], ("bootstrap-sent", "bootstrap-received")[slow])
    assert frame["t_ms"] > SECONDS * 1000
