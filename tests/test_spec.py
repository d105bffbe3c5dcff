"""spec/ and the code: every id that is cited exists, and what is drawn is what the tables say."""

import re
from pathlib import Path

import pytest

from wireproto.diagram import with_diagrams
from wireproto.errors import ERROR_CODES
from wireproto.messages import REGISTRY

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "spec" / "protocol.md").read_text()
IDS = re.findall(r"^- \[([A-Z0-9-]+)\]", PROTOCOL, re.M)
SOURCES = sorted([*(ROOT / "wireproto").rglob("*.py"), *(ROOT / "bootstrap").rglob("*.py")])
CITATION = re.compile(r"\[((?:[A-Z][A-Z0-9]*(?:-(?:[A-Z0-9]+|\*))+(?:, )?)+)\]")


def test_ids_are_unique() -> None:
    assert len(IDS) == len(set(IDS))
    assert len(IDS) > 40


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_ids_exist(source: Path) -> None:
    for cited in CITATION.findall(source.read_text()):
        for each in cited.split(", "):
            pattern = each.replace("*", "[A-Z0-9-]+")
            assert any(re.fullmatch(pattern, known) for known in IDS), f"{each} stands in no rule of spec/protocol.md"


def test_citations_are_found() -> None:
    cited = {each for source in SOURCES for group in CITATION.findall(source.read_text()) for each in group.split(", ")}
    assert {"LINK-LEN-MAX", "HANDSHAKE-ORDER", "JSON-*"} <= cited


def test_diagrams_are_those_of_the_tables() -> None:
    assert with_diagrams(PROTOCOL) == PROTOCOL, "run: make spec"


def test_message_table() -> None:
    rows = re.findall(r"^\| (0x[0-9A-F]{2}) \| (\w+) \| (\d → \d) \| (\w+).* \| (\d) \|$", PROTOCOL, re.M)
    assert rows == [
        (
            f"0x{spec.msg_type:02X}",
            spec.msg_type.wire_name,
            spec.direction.value,
            spec.kind.value.split()[0],
            f"{spec.revision:d}",
        )
        for spec in REGISTRY
    ]


def test_every_code_has_a_meaning() -> None:
    assert all(meaning for _, meaning in ERROR_CODES.values())
