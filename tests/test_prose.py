"""The check of English: it finds phrases and faults where people read them, and nothing in code."""

from pathlib import Path

import pytest

from spec.tools.prose import findings

MODULE = '''"""What holds the state."""

state = 1  # retrying is in vain
message = "it is 3 bytes  behind"


def mend() -> str:
    """Return the the state, `in vain`."""
    return "behind"
'''
DOCUMENT = """# The state

The length is a stranger's word, at this point in time.

    retrying is in vain

```
retrying is in vain
```
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "module.py",
            MODULE,
            [(1, "a docstring starts"), (3, "'in vain'"), (4, "'bytes behind'"), (8, "lexical_illusions")],
        ),
        ("document.md", DOCUMENT, [(3, "'stranger'"), (3, "cliches"), (3, "redundancy"), (3, "redundancy")]),
        ("script.sh", "echo anew\n", [(1, "'anew'")]),
    ],
)
def test_findings(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str]]) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = sorted(findings(path))
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert all(finding.startswith(start) for (_, finding), (_, start) in zip(found, expected, strict=True)), found
