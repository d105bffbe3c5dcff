"""A command that uses the side channel like native JACCL: gathers of many sizes, then those of a mesh init.

It stands in for `mx.distributed.init(backend="jaccl", all_gather_factory=…)` on hosts without JACCL. It prints how many
gathers were right, and then does what its argument says: `ends`; `waits` in a gather of 4 bytes; puts `less` into that;
or `dies` before it.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

from bootstrap import side_channel_factory
from wireproto.jaccl import OWN_ENTRY, Destination, mapped_gid, mesh_init

SIZES = (0, 1, 4, 32, 65_535, 65_536, 1024 * 1024)

rank = int(os.environ["MLX_RANK"])
size = len(json.loads(Path(os.environ["MLX_IBV_DEVICES"]).read_text()))
factory = side_channel_factory()
assert factory is not None, "the ranks have not agreed on a side channel"
gather = factory(rank, size)

for count in SIZES:
    parts = [random.Random(each).randbytes(count) for each in range(size)]
    assert gather(parts[rank], count) == b"".join(parts), count

init = mesh_init(
    rank,
    size,
    [OWN_ENTRY if peer == rank else Destination(1, peer, gid=mapped_gid("169.254.1.1")) for peer in range(size)],
)
own, made, lists = next(init), 0, None
while lists is None:
    made += 1
    try:
        own = init.send(gather(own, len(own)))
    except StopIteration as done:
        lists = done.value
numbers = [[each.queue_pair_number for each in row] for row in lists]
assert numbers == [[0 if peer == row else peer for peer in range(size)] for row in range(size)]
sys.stdout.write(f"{len(SIZES)} + {made} gathers\n")
sys.stdout.flush()

match sys.argv[1]:
    case "waits":
        gather(b"abcd", 4)
    case "less":
        gather(b"abc", 3)
    case "dies":
        os.kill(os.getpid(), signal.SIGKILL)
