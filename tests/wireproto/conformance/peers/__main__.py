"""A reference peer or a mutant as a program: `python -m tests.wireproto.conformance.peers rank1 IDENTITY PEER_KEY`.

In place of `rank1` and `rank0` the name of a mutant can stand. Rank 1 listens at CONFORM_HOST:CONFORM_PORT, rank 0
connects there.
"""

import asyncio
import base64
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.wireproto.conformance.peers.conversation import Shared
from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne, RankZero, connect, listen


async def main(name: str, identity: str, pin: str) -> None:
    key = serialization.load_pem_private_key(identity.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    shared = Shared(key, base64.b64decode(pin))
    host, port = os.environ["CONFORM_HOST"], int(os.environ["CONFORM_PORT"])
    make = {"rank1": RankOne, "rank0": RankZero}.get(name) or MUTANTS[name].make
    if issubclass(make, RankOne):
        async with await listen(make, shared, host, port) as server:
            await server.serve_forever()
    else:
        await connect(make, shared, host, port)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text(), sys.argv[3]))
