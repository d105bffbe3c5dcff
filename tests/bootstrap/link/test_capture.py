"""`--capture` and `--keylog`: recordings of the links, for inspection later or live."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.errors import ConfigError
from bootstrap.link.record import open_capture
from tests.bootstrap.ranks import Rank, Start
from wireproto.messages import Revision

INSPECT = [sys.executable, "-m", "wireproto", "inspect", "--json"]
OWN, PEER = ("127.0.0.1", 50000), ("127.0.0.1", 7777)


def inspected(*arguments: object) -> list[dict[str, Any]]:
    done = subprocess.run([*INSPECT, *map(str, arguments)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("revision", "ranks"), [(Revision.V1, 2), (Revision.V2, 2), (Revision.V2, 3)])
def test_a_demo_that_is_recorded(revision: Revision, ranks: int, command: Start, tmp_path: Path) -> None:
    capture, keys = tmp_path / "link.pcapng", tmp_path / "keys"
    options = ["--revision", str(revision.value), "--ranks", str(ranks), "--session-id", "S-1"]
    demo = command("demo", *options, "--capture", str(capture), "--keylog", str(keys))
    assert demo.end() == 0
    assert [path.stat().st_mode & 0o777 for path in (capture, keys)] == [0o600, 0o600]
    *found, done = inspected(capture, "--keylog", keys)
    assert done["opened"] == ranks - 1
    assert done["sealed"] == done["lost"] == done["broken"] == 0
    for connection in range(1, ranks):
        names = [each["name"] for each in found if each["connection"] == connection and "name" in each]
        assert names[:2] == ["handshakeHello", "handshakeAck"]
        assert names[-1] == "sessionEnd"
        assert "jacclBootstrap" in names
    assert {each["payload"]["sessionID"] for each in found if each.get("type") == 7} == {"S-1"}
    closed = inspected(capture)[-1]
    assert closed["sealed"] == (done["message"] - 2 * (ranks - 1) if revision is Revision.V2 else 0)


def test_both_ranks_of_a_group_record_the_same(pair: tuple[Rank, Rank], up: Start, tmp_path: Path) -> None:
    first, second = pair
    options = [("--capture", str(tmp_path / f"{rank}.pcapng"), "--keylog", str(tmp_path / "keys")) for rank in (0, 1)]
    one = up(second, first, "--json", *options[1])
    one.until(("listening", 1))
    zero = up(first, second, "--json", *options[0])
    zero.until(("holding", 0))
    one.until(("holding", 1))
    zero.process.send_signal(signal.SIGINT)
    assert (zero.end(), one.end()) == (130, 0)
    views = [inspected(tmp_path / f"{rank}.pcapng", "--keylog", tmp_path / "keys") for rank in (0, 1)]
    for sender in (0, 1):
        said = [
            [(each["name"], each["payload"]) for each in view if each.get("sender") == sender and "name" in each]
            for view in views
        ]
        assert said[0] == said[1]
        assert {"versions", "outcome"} <= {name for name, _ in said[0]}
    assert views[0][0]["ends"] == views[1][0]["ends"]


def test_the_recording_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_capture(tmp_path / "link.pcapng") as capture:
        assert capture is not None
    assert "anyone with this file and the key log can read the traffic" in caplog.text


def test_nothing_is_recorded_without_a_path() -> None:
    with open_capture(None) as capture:
        assert capture is None


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as raised, open_capture(tmp_path / "no" / "where"):
        pass
    assert raised.value.code == "bad-capture"


def test_a_pipe_whose_reader_is_too_slow_or_gone_ends_the_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for reason, size in (("its reader is too slow", 1 << 20), ("Broken pipe", 1)):
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        with open_capture(tmp_path / "pipe") as capture:
            assert capture is not None
            link = capture.link(OWN, PEER, connects=True)
            if size == 1:
                os.close(reader)
            link.sent(bytes(size))
            link.received(b"nobody sees this")
            link.ended()
        if size > 1:
            os.close(reader)
        assert f"ends here: {reason}" in caplog.text
    assert caplog.text.count("ends here") == 2


def test_a_record_on_a_full_disk_blamed_a_slow_reader(
    small_disk: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """If there was room for a part of the output."""
    disk = small_disk(2)
    with open_capture(disk / "link.pcapng") as capture:
        assert capture is not None
        capture.link(OWN, PEER, connects=True).sent(bytes(3 * os.sysconf("SC_PAGE_SIZE")))
    assert "ends here: No space left on device" in caplog.text


def test_both_directions_are_recorded_from_either_end(tmp_path: Path) -> None:
    for connects in (True, False):
        path = tmp_path / f"link-{connects}.pcapng"
        with open_capture(path) as capture:
            assert capture is not None
            link = capture.link(*((OWN, PEER) if connects else (PEER, OWN)), connects=connects)
            (link.sent if connects else link.received)(b"\1\0\0\0\0\0\0\0\x03")
            link.ended()
        opened, ping, *_ = inspected(path)
        assert opened["ends"] == ["127.0.0.1:50000", "127.0.0.1:7777"]
        assert (ping["name"], ping["sender"]) == ("ping", 0)
