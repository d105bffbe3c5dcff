"""Results of a run, for tests of the reports."""

from dataclasses import replace

from wireproto.conformance.verdicts import Entry, Failure, Record, Result, Verdict

RECORD = Record(
    entries=[
        Entry(0.0, "step", 1, "send a length of 0"),
        Entry(0.001, "sent", 1, data=bytes(8)),
        Entry(0.0012, "step", 1, "expect that the peer closes"),
        Entry(0.002, "received", 1, data=b"\xff"),
        Entry(3.0, "end", 1, "the peer closed the connection"),
    ],
    key_log=["CLUSTER_SESSION_KEY 00 11"],
)

PASSED = Result(
    id="rank1.seal.replay",
    section="seal",
    about="A box that comes a second time is refused.",
    level="SHOULD",
    requirements=("SEAL-REPLAY",),
    verdict=Verdict.PASS,
    seconds=0.01,
)
FAILED = Result(
    id="rank1.framing.length-zero",
    section="framing",
    about="A length of 0 in the open session ends the connection.",
    level="MUST",
    requirements=("LINK-LEN-MIN",),
    verdict=Verdict.FAIL,
    reason="expected the end of the connection; got nothing",
    failure=Failure(
        "LINK-LEN-MIN",
        "A length of 0 is an error, and MUST end the connection.",
        "the end of the connection",
        "nothing",
    ),
    record=RECORD,
    seconds=3.0,
    rerun="wireproto conform peer --connect 127.0.0.1:7777 rank1.framing.length-zero",
)
SKIPPED = replace(PASSED, id="rank1.session.newcomer", section="session", verdict=Verdict.SKIPPED, reason="not asked")
FLAKE = replace(PASSED, id="rank1.session.end", section="session", attempts=2)
REACHED = replace(
    FAILED, section="sanity", id="rank1.sanity.rank-1-answers", verdict=Verdict.INCONCLUSIVE, failure=None
)
"""The sanity case of a peer that could not be reached."""
