"""spec/ and the code: the registry matches protocol.md, every cited id exists, every MUST is tested."""

import re
from pathlib import Path

import pytest

from spec.tools import coverage
from spec.tools.coverage import Coverage, cited, table
from spec.tools.diagram import DRAWN, with_diagrams
from spec.tools.requirements import registry, stated
from wireproto.errors import ERROR_CODES
from wireproto.messages import REGISTRY
from wireproto.testing.requirements import Level, parse_registry, requirements

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "spec" / "protocol.md").read_text()
TOML = (ROOT / "spec" / "requirements.toml").read_text()
RULES = stated(PROTOCOL)
IDS = [rule.id for rule in RULES]
FOLDERS = ("wireproto", "bootstrap", "tests", "spec")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".ksy") and path != Path(__file__)
)

# -- protocol.md and the registry -------------------------------------------------------------------------------------


def test_the_registry_is_that_of_the_protocol() -> None:
    assert registry(RULES) == TOML, "run: make spec"
    assert parse_registry(TOML) == RULES == requirements()


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("A length of 0 is an error, and MUST end", "A length of 0 is an error, and SHOULD end"),
        ("- [LINK-LEN-MIN] A", "- [LINK-LEN-LEAST] A"),
        ("- [LINK-LEN-MIN] A", "A"),
        ("- [LINK-LEN-MIN] A", "- [NEW-RULE] It MUST be new.\n- [LINK-LEN-MIN] A"),
        ("- [SEAL-FRAMES] Revision 2: ", "- [SEAL-FRAMES] "),
        ("\n## Link frame\n", "\n## Link frames\n"),
        ("one sealed box that holds one.", "a sealed box that holds one."),
    ],
    ids=["level", "id", "taken out", "put in", "revision", "section", "text"],
)
def test_a_change_of_the_protocol_alone_is_seen(text: str, other: str) -> None:
    assert PROTOCOL.count(text) == 1
    assert registry(stated(PROTOCOL.replace(text, other))) != TOML


@pytest.mark.parametrize("words", ["A rule.", "It MUST be, and SHOULD be more.", "It MAY be what it MUST NOT be."])
def test_a_rule_has_one_level(words: str) -> None:
    with pytest.raises(ValueError, match="XX-Y must have one level, not"):
        stated(f"## S\n\n- [XX-Y] {words}\n")


def test_what_a_rule_is() -> None:
    text = '## One\n\n- [AB-C] Revision 1: it MUST NOT\n  `"\\/"` be.\n- [AB-D] MAY.\n\n## Two\n\n- [AB-E] They MUST.\n'
    rules = stated(text)
    assert [tuple(rule) for rule in rules] == [
        ("AB-C", Level.MUST, "One", (1,), 'Revision 1: it MUST NOT `"\\/"` be.'),
        ("AB-D", Level.MAY, "One", (1, 2), "MAY."),
        ("AB-E", Level.MUST, "Two", (1, 2), "They MUST."),
    ]
    assert parse_registry(registry(rules)) == rules


def test_ids_are_unique() -> None:
    assert len(IDS) == len(set(IDS))
    assert len(IDS) > 100


def test_every_statement_that_binds_has_an_id() -> None:
    """Key words such as MUST appear only in rules, and where they are defined."""
    prose = re.sub(r"^- \[[A-Z0-9-]+\] .+(?:\n  .+)*", "", PROTOCOL, flags=re.M)
    lines = [line for line in prose.splitlines() if re.search(r"\b(MUST|SHOULD|MAY)\b", line)]
    defined = "The key words MUST, MUST NOT, SHOULD, SHOULD NOT and MAY are"
    assert [line.split(" to be")[0] for line in lines] == [defined]


@pytest.mark.parametrize("name", ["protocol.md", "conformance.md"])
def test_links_lead_to_headings_and_files(name: str) -> None:
    def anchors(text: str) -> set[str]:
        headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
        return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    spec = ROOT / "spec"
    links = re.findall(r"\]\((?!https:)([^)#]*)(?:#([^)]*))?\)", (spec / name).read_text())
    assert links
    for file, anchor in links:
        assert not anchor or anchor in anchors((spec / (file or name)).read_text()), anchor
        assert (spec / file).exists(), file


# -- what cites the ids -----------------------------------------------------------------------------------------------


def test_cited_ids_exist() -> None:
    for source in SOURCES:
        for each in cited(source.read_text()):
            pattern = each.replace("*", "[A-Z0-9-]+")
            assert any(re.fullmatch(pattern, known) for known in IDS), f"{source}: no rule is {each}"


def test_citations_are_found() -> None:
    found = {each for source in SOURCES for each in cited(source.read_text())}
    assert {"LINK-LEN-MAX", "HANDSHAKE-ORDER", "JSON-*"} <= found
    assert list(cited("[AB-C] [AB-C, DE-F-*] [A-Z] [A-Z0-9] [AB] AB-C [AB-C DE-F]")) == ["AB-C", "AB-C", "DE-F-*"]


def test_every_must_is_tested() -> None:
    rows = coverage.matrix()
    assert [row.requirement for row in rows] == RULES
    assert [row.requirement.id for row in rows if row.is_open] == []


def test_what_a_test_cites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its docstring, comments and decorators count; other text does not, nor does a whole family of ids."""
    monkeypatch.setattr(coverage, "_TESTS", tmp_path)
    (tmp_path / "test_x.py").write_text(
        '"""[SEAL-NONCE]"""\n# [SEAL-LIMIT]\n@mark  # [JSON-TEXT]\ndef test_one():\n    """[LINK-EOF, KEY-LOG]"""\n'
        "def helper():\n    pass  # [FRAME-TYPE]\n\n\nasync def test_two():\n    pass  # [LINK-EOF] [JSON-*]\n"
    )
    (tmp_path / "helpers.py").write_text("def test_three() -> None:\n    pass  # [LINK-EOF]\n")
    tests = {row.requirement.id: row.tests for row in coverage.matrix() if row.tests}
    one = f"{tmp_path.name}/test_x.py::test_one"
    assert tests == {"LINK-EOF": (one, one.replace("one", "two")), "KEY-LOG": (one,), "JSON-TEXT": (one,)}


def test_a_must_without_a_test_is_seen() -> None:
    must = next(rule for rule in RULES if rule.level is Level.MUST)
    may = next(rule for rule in RULES if rule.level is Level.MAY)
    assert Coverage(must, (), 0, 0).is_open
    assert Coverage(must, (), 0, 1).is_open  # a case tests other peers
    assert not Coverage(must, ("a",), 0, 0).is_open
    assert not Coverage(must, (), 1, 0).is_open
    assert not Coverage(may, (), 0, 0).is_open


def test_the_table_of_coverage() -> None:
    must = next(rule for rule in RULES if rule.level is Level.MUST)
    lines = table([Coverage(must, ("a", "b"), 3, 4)])
    assert [line.split() for line in lines[:2]] == [
        ["requirement", "level", "tests", "vectors", "cases"],
        [must.id, "MUST", "2", "3", "4"],
    ]
    assert lines[2:] == ["1 rules; every MUST is tested"]
    assert table([Coverage(must, (), 0, 4)])[-1] == f"1 rules; MUST without a test: {must.id}"


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_as_the_code_is() -> None:
    assert with_diagrams(PROTOCOL) == PROTOCOL, "run: make spec"


@pytest.mark.parametrize("name", DRAWN)
def test_everything_is_drawn_somewhere(name: str) -> None:
    assert PROTOCOL.count(f"<!-- drawn: {name} -->\n") == 1


def test_a_stale_drawing_is_seen() -> None:
    for was, other in (
        ("│ u64 LE │", "│ u32 LE │"),
        ("hello_sent --> established", "hello_sent --> idle"),
        (
            "| jacclBootstrap | `port` | integer from 0 to 65,535 |",
            "| jacclBootstrap | `port` | integer from 1 to 65,535 |",
        ),
        ("| 0x07 | jacclBootstrap | 0 → 1 |", "| 0x07 | jacclBootstrap | 1 → 0 |"),
    ):
        stale = PROTOCOL.replace(was, other, 1)
        assert stale != PROTOCOL == with_diagrams(stale)


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
        if spec.extension is None
    ]


def test_table_of_extension_frames() -> None:
    rows = re.findall(r"^\| (0x[0-9A-F]{2}) \| (\w+) \| (\d . \d) \| (\w+).* \| `([a-z-]+/\d)` \|$", PROTOCOL, re.M)
    assert rows == [
        (
            f"0x{spec.msg_type:02X}",
            spec.msg_type.wire_name,
            spec.direction.value,
            spec.kind.value.split()[0],
            spec.extension,
        )
        for spec in REGISTRY
        if spec.extension
    ]


def test_every_code_has_a_meaning() -> None:
    assert all(meaning for _, meaning in ERROR_CODES.values())
