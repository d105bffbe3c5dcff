"""The files of spec/vectors/ match the schema and the generator exactly."""

import json
from collections import Counter
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.vectors import generate
from tests.vectors.writing import BEYOND_LAYOUT, FLAGS
from wireproto import ERROR_CODES
from wireproto.messages import REGISTRY
from wireproto.testing import vectors
from wireproto.testing.requirements import requirements
from wireproto.testing.vectors import FILES, ClusterFrameTest, LinkStreamTest, VectorFile

EACH_KIND = pytest.mark.parametrize("kind", FILES, ids=FILES.values())
SCHEMA = json.loads((vectors.DIRECTORY / "schema.json").read_text())


def every(kind: type[Any]) -> list[Any]:
    return [test for group in vectors.load(kind).groups for test in group.tests]


def definition(kind: type) -> dict[str, Any]:
    """Return the part of the schema for one kind of file."""
    return {"$ref": f"#/$defs/VectorFile_{kind.__name__}_", "$defs": SCHEMA["$defs"]}


def contents(kind: type) -> Any:
    return json.loads(vectors.path(kind).read_bytes())


# -- the schema -------------------------------------------------------------------------------------------------------


def test_the_schema_is_that_of_the_classes() -> None:
    assert generate.schema_text() == (vectors.DIRECTORY / "schema.json").read_text(), "run: make vectors"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [one["$ref"] for one in SCHEMA["oneOf"]] == [definition(kind)["$ref"] for kind in FILES]


@EACH_KIND
def test_a_file_is_what_the_schema_allows(kind: type) -> None:
    jsonschema.validate(contents(kind), definition(kind))


def test_the_whole_schema_tells_the_files_apart() -> None:
    jsonschema.validate(contents(LinkStreamTest), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(contents(LinkStreamTest), definition(ClusterFrameTest))


@pytest.mark.parametrize(
    "change",
    [
        lambda test: test.update(note="x"),
        lambda test: test.pop("comment"),
        lambda test: test.update(result="acceptable"),
        lambda test: test.update(result="invalid"),
        lambda test: test.update(error={"code": "truncated", "offset": 0}),
        lambda test: test.update(id="two words"),
        lambda test: test.update(stream="0"),
        lambda test: test.update(stream="0A"),
        lambda test: test.update(requirements=["link-eof"]),
        lambda test: test.update(maxLength="64"),
    ],
    ids=["unknown property", "no comment", "no result", "no error", "error of a valid one", "id", "odd hex",
         "capital hex", "requirement", "number"],
)  # fmt: skip
def test_what_the_schema_forbids(change: Any) -> None:
    file = contents(LinkStreamTest)
    change(file["groups"][0]["tests"][0])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, definition(LinkStreamTest))


def test_an_unknown_property_is_not_loaded() -> None:
    file = contents(LinkStreamTest)
    file["groups"][0]["tests"][0]["note"] = "x"
    with pytest.raises(msgspec.ValidationError, match="unknown field `note`"):
        vectors.decode(LinkStreamTest, json.dumps(file).encode())


# -- the generator ----------------------------------------------------------------------------------------------------


@EACH_KIND
def test_a_file_is_as_it_is_made(kind: type) -> None:
    assert vectors.encode(generate.MAKERS[kind]()) == vectors.path(kind).read_bytes(), "run: make vectors"


def test_an_id_keeps_its_meaning() -> None:
    file = vectors.load(LinkStreamTest)
    first, *rest = file.groups[0].tests

    def with_first(test: LinkStreamTest) -> VectorFile[Any]:
        group = msgspec.structs.replace(file.groups[0], tests=(test, *rest))
        return msgspec.structs.replace(file, groups=(group, *file.groups[1:]))

    other = msgspec.structs.replace
    assert generate.changed(file, file) == []
    assert generate.changed(file, with_first(other(first, comment="better", requirements=("LINK-EOF",)))) == []
    assert generate.changed(file, with_first(other(first, bodies=(first.stream,)))) == [first.id]
    assert generate.changed(file, with_first(other(first, id="renamed"))) == [first.id]
    assert generate.changed(with_first(other(first, id="new")), file) == ["new"]


# -- the tests --------------------------------------------------------------------------------------------------------


def test_there_are_enough() -> None:
    assert sum(len(every(kind)) for kind in FILES) >= 400


@EACH_KIND
def test_a_file_is_whole(kind: type) -> None:
    """Ids are unique; both results occur; every flag, code and requirement is known, and every flag is used."""
    file, tests = vectors.load(kind), every(kind)
    rules = {rule.id for rule in requirements()}
    assert [each for each, count in Counter(test.id for test in tests).items() if count > 1] == []
    assert {test.result for test in tests} == {"valid", "invalid"}
    assert set(file.flags) == {flag for test in tests for flag in test.flags}
    assert file.flags.items() <= FLAGS.items()
    for test in tests:
        assert test.requirements, test.id
        assert rules.issuperset(test.requirements), test.id
        assert len(set(test.requirements)) == len(test.requirements), test.id
        assert (test.error is None) is (test.result == "valid"), test.id
        assert test.error is None or test.error.code in ERROR_CODES, test.id
        assert BEYOND_LAYOUT not in test.flags or test.result == "invalid", test.id


def test_every_type_is_there_in_every_revision() -> None:
    tests = [test for test in every(ClusterFrameTest) if test.result == "valid"]
    for revision in (1, 2):
        types = {test.frame[0] for test in tests if test.revision == revision}
        assert types == {spec.msg_type for spec in REGISTRY if spec.revision <= revision}


def test_rejections_are_of_every_kind() -> None:
    """Each code that bytes can cause is in some vector; the rest are the caller's mistakes, or need 2^24 boxes."""
    codes = {test.error.code for kind in FILES for test in every(kind) if test.error is not None}
    callers = {
        "link-not-drained", "session-state", "activation-size", "activation-dtype", "activation-shape",
        "seal-exhausted", "jaccl-state", "jaccl-gather-limit", "jaccl-result",
    }  # fmt: skip
    assert set(ERROR_CODES) - codes == callers
