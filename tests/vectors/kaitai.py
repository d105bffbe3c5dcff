"""Kaitai's parser for spec/cluster_link.ksy: a third implementation of the layouts, without shared code."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import kaitaistruct
import yaml

from wireproto.testing.requirements import DIRECTORY
from wireproto.testing.vectors import (
    ClusterFrameTest,
    HandshakeTest,
    JacclExchangeTest,
    JacclInitTest,
    JacclRecordTest,
    LinkStreamTest,
    SealTest,
    SessionTest,
    TensorTest,
)

COMPILER: Final = Path(sys.prefix) / "kaitai" / "node_modules" / "kaitai-struct-compiler"
"""The path at which `make kaitai` installs it."""
MISSING: Final = (
    "node is not installed"
    if shutil.which("node") is None
    else f"the Kaitai compiler is not in {COMPILER}: run `make kaitai`"
    if not COMPILER.is_dir()
    else ""
)


def compile_parser() -> Any:
    """The class `ClusterLink`."""
    description = yaml.safe_load((DIRECTORY / "cluster_link.ksy").read_text())
    script = Path(__file__).with_name("compile_ksy.cjs")
    done = subprocess.run(
        ["node", script, COMPILER],
        input=json.dumps(description),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    module = ModuleType("cluster_link")
    exec(done.stdout, module.__dict__)  # noqa: S102 - what the compiler has written
    return module.ClusterLink  # type: ignore[attr-defined]


class Kaitai:
    """Return the parsed value, or None for refused bytes."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser

    def parse(self, layout: str, data: bytes, *parameters: object) -> Any:
        try:
            return getattr(self.parser, layout)(*parameters, kaitaistruct.KaitaiStream(io.BytesIO(data)))
        except (EOFError, ValueError, kaitaistruct.KaitaiStructError):
            return None

    def frame(self, data: bytes, revision: int = 2, extensions: tuple[str, ...] = ()) -> Any:
        return self.parse("ClusterFrame", data, revision, "side-channel/1" in extensions, "outcome/1" in extensions)


def _link_stream(kaitai: Kaitai, test: LinkStreamTest) -> bool:
    value = kaitai.parse("LinkStream", test.stream, test.max_length)
    assert value is None or tuple(frame.body for frame in value.frames) == test.bodies
    return value is not None


def _cluster_frame(kaitai: Kaitai, test: ClusterFrameTest) -> bool:
    value = kaitai.frame(test.frame, test.revision, test.extensions)
    assert value is None or int(value.type) == test.frame[0]
    return value is not None


def _handshake(kaitai: Kaitai, test: HandshakeTest) -> bool:
    taken = test.hello if test.role == "rank 1" else test.ack
    return kaitai.frame(taken or b"") is not None


def _seal(kaitai: Kaitai, test: SealTest) -> bool:
    parsed = [kaitai.parse("SealedBox", step.box) for step in test.steps]
    assert all(
        box is None or box.nonce + box.ciphertext + box.tag == step.box
        for box, step in zip(parsed, test.steps, strict=True)
    )
    return None not in parsed


def _tensor(kaitai: Kaitai, test: TensorTest) -> bool:
    if kaitai.parse("SealedBox", test.box) is None:
        return False
    if test.plaintext is None:
        return True
    if test.holds == "token":
        value = kaitai.parse("Token", test.plaintext)
        assert value is None or value.token_id == test.token_id
    else:
        value = kaitai.parse("Activation", test.plaintext, test.hidden_dim)
        assert value is None or value.seq_len == test.seq_len
    return value is not None


def _session(kaitai: Kaitai, test: SessionTest) -> bool:
    """Of a script, it reads the link frames sent, and those received completely."""
    for step in test.steps:
        if step.do in ("start", "send") and kaitai.parse("LinkStream", step.bytes or b"", 2**28) is None:
            return False
    return True


def _jaccl_record(kaitai: Kaitai, test: JacclRecordTest) -> bool:
    value = kaitai.parse("JacclHello" if test.holds == "hello" else "JacclDestination", test.data)
    if value is not None and test.destination is not None:
        end = value.endpoint
        assert (value.local_id, end.queue_pair_number, end.packet_sequence_number, end.gid) == (
            test.destination.local_id,
            test.destination.queue_pair_number,
            test.destination.packet_sequence_number,
            test.destination.gid,
        )
    return value is not None


def _jaccl_exchange(kaitai: Kaitai, test: JacclExchangeTest) -> bool:
    hellos = [step.bytes or b"" for step in test.steps if step.do == "start"]
    return all(kaitai.parse("JacclHello", hello) is not None for hello in hellos)


def _jaccl_init(kaitai: Kaitai, test: JacclInitTest) -> bool:
    own = [gather.own[at : at + 32] for gather in test.gathers for at in range(0, len(gather.own), 32)]
    return all(kaitai.parse("JacclDestination", each) is not None for each in own if len(each) == 32)


ACCEPTS: Final[dict[type, Callable[[Kaitai, Any], bool]]] = {
    LinkStreamTest: _link_stream,
    ClusterFrameTest: _cluster_frame,
    HandshakeTest: _handshake,
    SealTest: _seal,
    TensorTest: _tensor,
    SessionTest: _session,
    JacclRecordTest: _jaccl_record,
    JacclExchangeTest: _jaccl_exchange,
    JacclInitTest: _jaccl_init,
}
"""Return whether it accepts a test's bytes. A device file is JSON, which it does not parse."""
