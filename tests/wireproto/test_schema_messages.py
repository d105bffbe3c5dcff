"""`messages` agrees with the schema, field by field: name, wire key, type, bounds, optionality."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import pytest
import yaml
from msgspec import Meta, Struct, inspect

from spec.tools import fields as declared
from spec.tools.fields import Facts, Field, snake
from tests.wireproto.payloads import JSON_FIELDS, TYPE_BYTE
from wireproto import (
    EXTENSIONS,
    MAX_LINK_LENGTH,
    REGISTRY,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Program,
    PromptTokensPayload,
    Versions,
    schema,
)
from wireproto.codec.json_scanner import MAX_NESTING
from wireproto.testing.vectors import DIRECTORY

LAYOUTS: Final = {each.number: each for each in declared.messages()}


def facts_of(kind: inspect.Type) -> Facts:
    """Return the limits of an annotation in the schema's terms."""
    match kind:
        case inspect.BoolType():
            return Facts("boolean")
        case inspect.IntType(ge=low, le=high):
            return Facts("integer", low=low, high=high)
        case inspect.BytesType(min_length=least, max_length=most):
            return Facts("bytes", min=least, max=most)
        case inspect.StrType(max_length=most, pattern=pattern):
            return Facts("string", max=most, pattern=pattern and pattern.removeprefix("^").removesuffix(r"\Z"))
        case inspect.EnumType(cls=members):
            return Facts("string", values=tuple(member.value for member in members))
        case inspect.VarTupleType(item_type=item, max_length=most):
            return Facts("array", max=most, item=facts_of(item), unique=isinstance(item, inspect.StrType))
    return Facts(repr(kind))


def differences(cls: type[Struct], wanted: tuple[Field, ...]) -> Iterator[str]:
    """Return the differences between a class and its layout, one line per field, starting with its name."""
    info: Any = inspect.type_info(cls)
    ours = {field.name: field for field in info.fields}
    names = [field.name for field in wanted]
    yield from (f"{name}: the layout has no such field" for name in ours if name not in names)
    yield from (f"{name}: the class has no such field" for name in names if name not in ours)
    if sorted(ours) == sorted(names) and list(ours) != names:
        yield f"{', '.join(ours)}: another order than {', '.join(names)}"
    for field in wanted:
        if (our := ours.get(field.name)) is not None:
            if our.encode_name != field.key:
                yield f"{field.name}: the key is {our.encode_name}, not {field.key}"
            facts = facts_of(_without_none(our.type) if field.optional and field.absent is None else our.type)
            if facts != field.facts:
                yield f"{field.name}: {facts} is not {field.facts}"
            if our.required is field.optional or (field.optional and our.default != field.absent):
                yield f"{field.name}: whether it may be absent, or what that means, differs"


def _without_none(kind: inspect.Type) -> inspect.Type:
    match kind:
        case inspect.UnionType(types=(other, inspect.NoneType())):
            return other
    return kind


@pytest.mark.parametrize("cls", TYPE_BYTE, ids=lambda cls: cls.__name__)
def test_class_has_the_fields_of_its_layout(cls: type[Message]) -> None:
    assert [*differences(cls, LAYOUTS[TYPE_BYTE[cls]].fields)] == []


def test_registry_has_the_types_of_the_schema() -> None:
    rows = [(each.number, each.name, each.revision, each.extension, each.limit) for each in LAYOUTS.values()]
    for spec, row in zip(REGISTRY, rows, strict=True):
        assert (spec.msg_type, spec.msg_type.wire_name, spec.revision, spec.extension, spec.max_length) == row
    assert [spec.kind.name.lower() for spec in REGISTRY] == [each.kind for each in LAYOUTS.values()]
    assert {int(number) for number in schema.ClusterMsgType.encmapping.values()} == set(LAYOUTS)
    assert {each.extension for each in LAYOUTS.values()} - {None} <= {*EXTENSIONS}


def test_limits_are_those_of_the_schema() -> None:
    assert declared.LINK_LIMIT == MAX_LINK_LENGTH
    assert schema.MAX_NESTING == MAX_NESTING


def test_kaitai_has_the_types_of_the_schema() -> None:
    kaitai = yaml.safe_load((DIRECTORY.parent / "cluster_link.ksy").read_text())
    assert kaitai["enums"] == {"msg_type": {each.number: snake(each.name) for each in LAYOUTS.values()}}
    assert kaitai["seq"][0]["type"] == f"link_stream({declared.LINK_LIMIT})"


# -- the check can fail, and names the field ---------------------------------------------------------------------------


def changed(cls: type[Struct], name: str, kind: Any, key: str | None = None, default: Any = msgspec.NODEFAULT) -> Any:
    """Return the class with another field `name`, or without it if `kind` is None."""
    fields = []
    renames = {}
    for field in msgspec.structs.fields(cls):
        renames[field.name] = field.encode_name
        if field.name == name and kind is not None:
            fields.append((name, kind) if default is msgspec.NODEFAULT else (name, kind, default))
            renames[name] = key or field.encode_name
        elif field.name != name:
            fields.append((field.name, field.type) if field.required else (field.name, field.type, field.default))
    return msgspec.defstruct(cls.__name__, fields, rename=renames)


U16: Final = Annotated[int, Meta(ge=0, le=0xFFFF)]
NAMES: Final = JacclBootstrapPayload.__annotations__["extensions"]


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("port", None, {}),
        ("port", Annotated[int, Meta(ge=1, le=0xFFFF)], {}),
        ("port", Annotated[int, Meta(ge=0, le=0xFFFE)], {}),
        ("port", int, {}),
        ("port", str, {}),
        ("port", U16, {"key": "Port"}),
        ("session_id", str, {"key": "sessionId"}),
        ("session_id", Annotated[str, Meta(max_length=1024)], {}),
        ("session_id", bytes, {}),
        ("extensions", NAMES, {}),
        ("extensions", NAMES, {"default": ("a/1",)}),
        ("extensions", tuple[str, ...], {"default": ()}),
        (
            "extensions",
            Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=32)],
            {"default": ()},
        ),
    ],
)
def test_other_field_is_named(name: str, kind: Any, more: dict[str, Any]) -> None:
    other = changed(JacclBootstrapPayload, name, kind, **more)
    (found,) = differences(other, LAYOUTS[0x07].fields)
    assert found.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (None, {}),
        (Program | None, {}),
        (Program, {}),
        (Program, {"default": Program.HOLD}),
        (str | None, {"default": None}),
        (Program | int | None, {"default": None}),
        (MemoryPressure | None, {"default": None}),
        (Program | None, {"default": None, "key": "Program"}),
    ],
)
def test_other_program_is_named(kind: Any, more: dict[str, Any]) -> None:
    (found,) = differences(changed(Versions, "program", kind, **more), LAYOUTS[0x43].fields)
    assert found.startswith("program: ")


def test_field_too_many_is_named() -> None:
    other = msgspec.defstruct("Other", [("uid", str), ("more", int)])
    assert [*differences(other, LAYOUTS[0x0A].fields)] == ["more: the layout has no such field"]


def test_another_order_is_seen() -> None:
    other = msgspec.defstruct("Other", [("token", PromptTokensPayload.__annotations__["max_tokens"]), ("uid", str)])
    assert [*differences(other, LAYOUTS[0x09].fields)] == ["token, uid: another order than uid, token"]


@pytest.mark.parametrize("cls", JSON_FIELDS, ids=lambda cls: cls.__name__)
def test_unchanged_class_passes(cls: type[Message]) -> None:
    assert [*differences(changed(cls, "", None), LAYOUTS[TYPE_BYTE[cls]].fields)] == []
