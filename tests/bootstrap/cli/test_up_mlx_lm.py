"""mlx_lm over real ranks, with a tiny model of random weights: its server on two ranks, generation on four."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, of, output, write_hostfile
from tests.bootstrap.tiny_model import HEAD_SIZE, HEADS, NO_COMPILER, OFFLINE, write_model

SERVER = ("-m", "mlx_lm.server")
GENERATES = (sys.executable, str(SCRIPTS / "generates.py"))
PROMPT = "a1 b2 c3"
WORDS = 8
"""Number of words requested from the server."""
TOOK_REQUEST = "Prompt Cache:"
"""Logged by mlx_lm.server on each rank that receives a request, before the rank starts on it."""
SECONDS = 60.0


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return variables that rule out downloads, a compiler, and the user's own Hugging Face files."""
    return {"HF_HOME": str(tmp_path_factory.mktemp("hugging-face")), **OFFLINE, **NO_COMPILER}


@pytest.fixture(scope="session")
def alone(model: Path, offline: dict[str, str]) -> dict[str, Any]:
    """Return the output of one process that has the whole model."""
    done = subprocess.run(
        [*GENERATES, str(model), PROMPT],
        env={**os.environ, **offline},
        stdout=subprocess.PIPE,
        check=True,
        timeout=SECONDS,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["size"], told["rows"]) == (1, HEADS * HEAD_SIZE)
    assert len(set(told["tokens"])) > len(told["tokens"]) / 2  # the model does not just repeat itself
    return told


def test_the_server_answers_from_two_ranks(
    model: Path,
    offline: dict[str, str],
    alone: dict[str, Any],
    pair: tuple[Rank, Rank],
    both: Start,
    soon: Callable[[Callable[[], bool], str], None],
    nothing_left: Check,
) -> None:
    """Rank 0 answers over HTTP as the whole model would; Ctrl-C on rank 0 ends both ranks."""
    zero = pair[0]
    with socket.create_server((zero.ip, 0)) as free:
        port = free.getsockname()[1]
    runs = both(*SERVER, "--model", str(model), "--host", zero.ip, "--port", str(port), env=offline)

    def listens() -> bool:
        for run in runs:
            assert run.process.poll() is None, (run.end(), run.events, run.stderr)
        try:
            socket.create_connection((zero.ip, port)).close()
        except ConnectionRefusedError:
            return False
        return True

    soon(listens, "rank 0's server listens")
    status, answer = complete(zero.ip, port, prompt=PROMPT, max_tokens=WORDS)
    assert status == 200, answer
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("text_completion", WORDS)
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["text"] == " ".join(alone["text"].split()[:WORDS])

    runs[0].process.send_signal(signal.SIGINT)
    assert [run.end() for run in runs] == [130, 0], [(run.events, run.stderr) for run in runs]
    for run in runs:
        assert of(run, "error") == []
        assert run.events[-1]["stopped"] is True
        assert any(TOOK_REQUEST in line for line in output(run, "stderr")), run.events
        nothing_left(run, *pair)
    with socket.create_server((zero.ip, port)):
        pass


def complete(ip: str, port: int, **request: Any) -> tuple[int, dict[str, Any]]:
    """Ask the server for a completion; return the status and the answer."""
    connection = HTTPConnection(ip, port, timeout=SECONDS)
    try:
        connection.request("POST", "/v1/completions", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_four_ranks_generate_the_same_tokens(
    model: Path,
    offline: dict[str, str],
    alone: dict[str, Any],
    ranks: Callable[[int], list[Rank]],
    up: Start,
    tmp_path: Path,
    nothing_left: Check,
) -> None:
    """Each rank has a quarter of the query matrix and prints the same tokens and text as the whole model."""
    group = ranks(4)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group], backend="ring")
    command = ("--", *GENERATES, str(model), PROMPT)
    runs = [up(rank, hostfile, "--json", *command, env=offline) for rank in group]
    runs[0].until(("command-ended", 0))  # four imports of mlx_lm at once can take longer than end() waits
    assert [run.end() for run in runs] == [0] * 4, [(run.events, run.stderr) for run in runs]
    for rank, run in enumerate(runs):
        (line,) = output(run)
        shard = {"rank": rank, "size": 4, "rows": HEADS * HEAD_SIZE // 4}
        assert json.loads(line) == alone | shard
        nothing_left(run, *group)
