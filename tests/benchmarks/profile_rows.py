"""`make profile`: the most expensive functions in the rows closest to their targets."""

import cProfile
import pstats
import time

from tests.benchmarks import fuzzing, session
from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.codec.link import LinkDecoder, encode_link_frame
from wireproto.messages import JacclBootstrapPayload

BOOTSTRAP = JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF")
STREAM = encode_link_frame(encode_frame(BOOTSTRAP)) * 10_000
FUNCTIONS = 12


def encode_and_decode() -> None:
    """The work of "encode the same" and "10,000 frames"."""
    for frame in LinkDecoder().feed(STREAM):
        encode_frame(decode_frame(frame))


def main() -> None:
    works = {
        "10,000 frames, decoded and encoded": encode_and_decode,
        "10,000 sealed frames": session.SealedFrames().ours,
        "10,000 × 70 bytes after 200,000": session.LaterBoxes(200_000, pairs=1).ours,
        "10,000 fuzzed frames": fuzzing.race().ours,
    }
    for name, work in works.items():
        work()
        with cProfile.Profile(time.process_time) as profile:
            work()
        print(f"\n== {name}")  # noqa: T201 - a command
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS)


if __name__ == "__main__":
    main()
