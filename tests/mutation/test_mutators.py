"""The mutants of a small module, and the list of known survivors."""

from tests.mutation.__main__ import TESTS, explained, mutants_of
from tests.mutation.mutators import mutants

SOURCE = '''
"""A docstring that stays."""
LIMIT: int = 2

def short(text: str) -> str:
    if not text:
        raise ValueError("no text")
    return "-".join(text[:LIMIT])
'''


def test_each_change_of_a_small_module() -> None:
    found = list(mutants("small", SOURCE, "small.py"))
    assert [mutant.name for mutant in found] == [
        "small : LIMIT: int = 2 => LIMIT: int = 3",
        "small : LIMIT: int = 2 => LIMIT: int = 1",
        "small short: if not text:     raise ValueError('no text') => if text:     raise ValueError('no text')",
        "small short: if not text:     raise ValueError('no text') => if not text:     pass",
        "small short: return '-'.join(text[:LIMIT]) => return",
        "small short: return '-'.join(text[:LIMIT]) => return '-~'.join(text[:LIMIT])",
        "small short: return '-'.join(text[:LIMIT]) => return '-'.join(text[:])",
    ]
    results = []
    for mutant in found:
        names: dict[str, object] = {}
        exec(mutant.code, names)  # noqa: S102 - it is the one above
        short = names["short"]
        assert callable(short)
        try:
            results.append(short("abcd"))
        except ValueError as error:
            results.append(type(error))
    assert results == ["a-b-c", "a", ValueError, "a-b", None, "a-~b", "a-b-c-d"]


def test_what_is_explained_is_there() -> None:
    """An explanation is removed with its code."""
    names = explained()
    assert names == {mutant.name for module in TESTS for mutant in mutants_of(module, only=names)}
