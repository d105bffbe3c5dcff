"""The suite on the JavaScript peer, which shares no code with this project; `make conform` repeats it.

Here one peer serves case after case with shorter times, and its successor runs in the same process; `make conform`
starts a process for each case.
"""

import asyncio
import base64
import shutil
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.interop.mutants.hosts import Host
from tests.interop.scenes import HERE
from tests.wireproto.conformance.peers.conversation import public_bytes
from tests.wireproto.conformance.trying import HOST, OURS, THEIRS, cases_of, free_port
from wireproto.conformance import Patience, RankOneTarget, RankZeroTarget, Result, Settings, Verdict, run
from wireproto.session import Role

pytestmark = pytest.mark.waits

AT_ONCE = 8
SCALE = 0.3
_TIMES = Patience()
PATIENCE = replace(
    _TIMES,
    ping_every=SCALE * _TIMES.ping_every,
    pong=SCALE * _TIMES.pong,
    handshake=SCALE * _TIMES.handshake,
    first_box=SCALE * _TIMES.first_box,
    reconnect=SCALE * _TIMES.reconnect,
    retry=SCALE * _TIMES.retry,
)
FINE = (Verdict.PASS, Verdict.UNIMPLEMENTED, Verdict.NON_STRICT, Verdict.SKIPPED)


def scaled(folder: Path) -> Path:
    """Write the peer with shorter times."""
    for file in HERE.glob("*.mjs"):
        shutil.copy(file, folder)
    peer = folder / "peer.mjs"
    text = peer.read_text()
    assert text.count("SECOND = 1e3;") == 1
    peer.write_text(text.replace("SECOND = 1e3;", f"SECOND = {1000 * SCALE:g};"))
    return peer


async def results(role: Role, folder: Path) -> list[Result]:
    peer, key = scaled(folder), folder / "theirs.pem"
    key.write_bytes(THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    mode, kind = ("listen", RankOneTarget) if role is Role.RESPONDER else ("connect", RankZeroTarget)
    args = [mode, "--identity", str(key), "--peer-key", base64.b64encode(OURS.public).decode()]
    async with AsyncExitStack() as stack:
        targets = []
        for _ in range(AT_ONCE):
            host = Host()
            stack.push_async_callback(host.close)
            targets.append(kind(HOST, free_port(), partial(host.running, peer, args), keep=True))
        settings = Settings(identity=OURS, peer_key=public_bytes(THEIRS), patience=PATIENCE, names_file=True)
        return [result async for result in run(targets, settings, cases_of(role))]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", Role)
def test_it_passes(tmp_path: Path, role: Role) -> None:
    found = asyncio.run(results(role, tmp_path))
    assert {result.id: result.reason for result in found if result.verdict not in FINE} == {}
    assert len(found) == len(cases_of(role))
