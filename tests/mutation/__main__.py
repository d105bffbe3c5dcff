"""`make mutation` changes the codec, handshake, seal and session in small ways, and lists undetected changes.

    python -m tests.mutation [MODULE ...]

Each mutant is tried on the tests of its module, the quickest first; those that sweep for long are left out. A survivor
has to stand in `explained.toml` with the reason why no test can tell it from the module as it is. Exits 1 if one does
not, or if the file lists one that does not survive.
"""

import gc
import sys
import time
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

import construct  # noqa: F401 - loaded once, for all trials
import cryptography.hazmat.primitives.kdf.hkdf  # noqa: F401
import hypothesis  # noqa: F401
import msgspec  # noqa: F401

from tests.mutation.mutators import Mutant, mutants
from tests.mutation.trial import notices, seconds_of_each

LONGEST = 0.5
"""Seconds of processor time that a test may take."""

ROOT = Path(__file__).parent.parent.parent
EXPLAINED = Path(__file__).with_name("explained.toml")

TESTS = {
    "codec.json_scanner": ["codec/test_rejected", "codec/test_encode_rejected", "codec/test_parity"],
    "messages": [
        "test_messages",
        "test_schema_messages",
        "codec/test_encode_rejected",
        "codec/test_frames",
        "codec/test_rejected",
    ],
    "codec.frame": ["codec/test_frames", "codec/test_encode_rejected", "codec/test_rejected", "codec/test_parity"],
    "schema": ["test_schema", "codec/test_encode_rejected", "codec/test_parity"],
    "codec.link": ["codec/test_link", "codec/test_link_memory"],
    "codec.tensor": ["codec/test_tensor"],
    "session.handshake": ["session/test_handshake", "session/test_handshake_vectors", "session/test_identity_keys"],
    "session.seal": ["session/test_seal", "session/test_old_nonces"],
    "session": [
        "session/test_session",
        *(f"session/test_session_{of}" for of in ("ends", "extensions", "secrets", "sends")),
    ],
}
"""The modules, each with the tests in tests/wireproto that must notice its mutants."""


def main() -> int:
    gc.freeze()  # otherwise each child scans everything loaded here
    asked = sys.argv[1:] or list(TESTS)
    expected = explained()
    survivors: set[str] = set()
    rows = []
    for module in asked:
        began = time.monotonic()
        tried, survived = try_all(module)
        survivors |= survived
        seconds = time.monotonic() - began
        rows.append(f"{module:18} {tried:7} {tried - len(survived):7} {len(survived):9} {seconds:7.0f}")
    say("", "module             mutants  killed survivors seconds", *rows)
    unexplained = sorted(survivors - expected)
    say("", f"{len(survivors)} survivors, {len(unexplained)} without an explanation", *unexplained)
    if idle := sorted(name for name in expected - survivors if name.split()[0] in asked):
        say("", "explained, but no survivors:", *idle)
    return 1 if unexplained or idle else 0


def explained() -> set[str]:
    """The names of the mutants that are known to survive."""
    return {name for group in tomllib.loads(EXPLAINED.read_text())["explained"] for name in group["mutants"]}


def mutants_of(module: str, only: Collection[str] | None = None) -> Iterator[Mutant]:
    path = ROOT / "wireproto" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return mutants(module, path.read_text(), str(path), only)


def try_all(module: str) -> tuple[int, set[str]]:
    """Return the number of distinct mutants of a module, and the names of undetected ones."""
    files = [f"tests/wireproto/{test}.py" for test in TESTS[module]]
    seconds = seconds_of_each(files)
    order = [test for test in sorted(seconds, key=seconds.__getitem__) if seconds[test] <= LONGEST]
    limit = 5 + round(3 * sum(seconds[test] for test in order))
    names: set[str] = set()
    survived: set[str] = set()
    for mutant in mutants_of(module):
        names.add(mutant.name)
        if not notices(f"wireproto.{module}", mutant.code, files, order, limit):
            survived.add(mutant.name)
            say(f"survives: {mutant.name}")
    return len(names), survived


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
