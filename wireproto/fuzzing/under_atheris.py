"""A harness under Atheris: `python -m wireproto.fuzzing.under_atheris LAYER [libFuzzer's arguments]`.

Atheris must be installed; it has wheels for Linux. It finds new inputs by branch coverage of this package, where
`wireproto fuzz run` uses lines, and keeps a libFuzzer corpus, whose seeds `wireproto fuzz corpus export` writes.
Findings are written to `fuzz-findings/LAYER`, for `wireproto fuzz replay` and `minimize`.

Exit codes: 2 no such layer, 3 Atheris is not installed, otherwise libFuzzer's.
"""

import sys
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Final, NoReturn

_INSTRUMENTED: Final = ("wireproto", "bootstrap")


def main() -> None:
    try:
        atheris = import_module("atheris")
    except ModuleNotFoundError:
        _end(3, "Atheris is not installed; run: pip install atheris")
    layer = sys.argv[1] if len(sys.argv) > 1 else ""
    for name in [name for name in sys.modules if name.partition(".")[0] in _INSTRUMENTED]:
        del sys.modules[
            name
        ]  # Python has imported the parent packages to find this module: import them again, instrumented
    with atheris.instrument_imports(include=[*_INSTRUMENTED]):
        from wireproto.fuzzing.harness import MAX_KEPT
        from wireproto.fuzzing.layers import harness_of

        try:
            harness = harness_of(layer)
        except ValueError as error:
            _end(2, str(error))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return harness.mutate(random, data)[:max_size]

    findings = Path("fuzz-findings", layer)
    findings.mkdir(parents=True, exist_ok=True)
    arguments = [sys.argv[0], f"-max_len={MAX_KEPT}", f"-artifact_prefix={findings}/", *sys.argv[2:]]
    atheris.Setup(arguments, harness.fuzz_one_input, custom_mutator=mutate)
    atheris.Fuzz()


def _end(code: int, line: str) -> NoReturn:
    sys.stderr.write(line + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
