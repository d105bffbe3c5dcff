"""Events: each class, its name and its JSON members, and no others."""

from typing import Any

import msgspec
import pytest

from bootstrap import events
from bootstrap.events import EVENTS, FIELDS, Event

PAIRS: list[tuple[type[Event], str, dict[str, Any]]] = [
    (events.Loaded, "loaded", {"backend": "ring", "version": "0.32.4", "gather_factory": True}),
    (events.Started, "started", {"pid": 7}),
    (events.Listening, "listening", {"host": "127.0.0.1", "port": 7777}),
    (events.Connected, "connected", {"peer": 1, "host": "127.0.0.1", "port": 7777}),
    (events.Established, "established", {"peer": 1}),
    (events.Confirmed, "confirmed", {"peer": 1}),
    (events.PeerMoved, "peer-moved", {"peer": 1, "name": "mac-b", "address": "169.254.1.2"}),
    (events.Health, "health", {"peer": 1, "state": "degraded", "missed": 1}),
    (
        events.Pong,
        "pong",
        {"peer": 1, "modelLoaded": True, "inferenceInFlight": False, "memoryPressure": "normal"},
    ),
    (events.BootstrapSent, "bootstrap-sent", {"peer": 1, "port": 29400, "session_id": "S"}),
    (events.BootstrapReceived, "bootstrap-received", {"peer": 0, "port": 29400, "session_id": "S"}),
    (events.Ignored, "ignored", {"peer": 1, "name": "ping"}),
    (events.SessionEnded, "session-ended", {"peer": 0}),
    (
        events.LinkLost,
        "link-lost",
        {"peer": 1, "host": "127.0.0.1", "code": "link-reset", "message": "text", "retry_s": None},
    ),
    (events.Waiting, "waiting", {"what": "text"}),
    (events.Restarting, "restarting", {"left": 2, "message": "text"}),
    (events.Reaped, "reaped", {"pids": [7]}),
    (events.FileWritten, "file-written", {"path": "/d/f", "format": "ring-hostfile"}),
    (events.EnvironmentSet, "environment-set", {"variables": {"MLX_RANK": "0"}, "cleared": []}),
    (events.GroupReady, "group-ready", {"size": 2, "backend": "ring"}),
    (events.SumChecked, "sum-checked", {"value": 3}),
    (events.Running, "running", {"program": "mlx_lm.server", "all_ready": True}),
    (events.SumSkipped, "sum-skipped", {"reason": "text"}),
    (events.Holding, "holding", {}),
    (events.Finished, "finished", {"peer": 1}),
    (events.Unfinished, "unfinished", {"ranks": [1]}),
    (events.CommandEnded, "command-ended", {"status": 0}),
    (events.WouldWrite, "would-write", {"path": "/d/f", "format": "ring-hostfile", "content": "[]"}),
    (events.WouldSet, "would-set", {"variables": {}, "cleared": ["JACCL_RING"]}),
    (events.Warned, "warning", {"message": "text"}),
    (events.Consequence, "consequence", {"stage": "link", "code": "link-lost", "message": "text"}),
    (events.Failed, "error", {"stage": "link", "code": "link-lost", "message": "text"}),
    (events.SshAsks, "ssh-asks", {"host": "mac-b"}),
    (events.Ladders, "ladders", {"rows": []}),
    (events.Looked, "looked", {"host": "mac-b", "left": "", "not_checked": None}),
    (events.Output, "output", {"stream": "stdout", "line": "text"}),
    (events.Log, "log", {"line": "text"}),
    (events.Done, "done", {"ok": True}),
]


def test_there_are_no_others() -> None:
    assert {name: kind for kind, name, _ in PAIRS} == EVENTS


@pytest.mark.parametrize(("kind", "name", "members"), PAIRS, ids=[name for _, name, _ in PAIRS])
def test_an_event_in_json(kind: type[Event], name: str, members: dict[str, Any]) -> None:
    whole = {"event": name, "rank": 0, "t_ms": 1.5, **members}
    event = msgspec.convert(whole, kind)
    assert (event.rank, event.t_ms) == (0, 1.5)
    assert whole.items() <= msgspec.to_builtins(event).items()
    assert {*FIELDS[name]} == members.keys()
    for missing in members:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({key: value for key, value in whole.items() if key != missing}, kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**whole, "event": "other"}, kind)
