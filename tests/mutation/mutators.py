"""The mutants of a module: its code with one small change each.

Changed are comparisons, operators, conditions, numbers, strings, bytes, slices, keywords, elements of tables, the
exceptions that are caught, and statements that can be left out. What a test should not hang on stays as it is:
docstrings, annotations, texts for people (those with a space in them, and what is formatted for an error), and what
is told to the garbage collector.
"""

import ast
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import CodeType

_WIDTH = 100
"""The most characters of code shown around a change."""

_COMPARED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CHECKED = (ast.Compare, ast.BoolOp, ast.UnaryOp)
"""Conditions that have mutants of their own."""

_OF_THEIR_OWN = (ast.Subscript, ast.ExceptHandler)
"""Places in which a row has another meaning, or mutants of its own."""


@dataclass(frozen=True)
class Mutant:
    name: str
    """Module, function, original and changed code."""
    code: CodeType


def mutants(module: str, source: str, path: str, only: Collection[str] | None = None) -> Iterator[Mutant]:
    """Return all mutants of a module, or `only` these names, in code order.

    A change that does not compile is none.
    """
    tree = ast.parse(source)
    for around, replace in _places(tree, [], None):
        place = ".".join(node.name for node in around if isinstance(node, ast.FunctionDef | ast.ClassDef))
        for new in _variants(around[-1], around[-2]):
            shown = _shown(around)
            was = ast.unparse(shown)
            replace(ast.fix_missing_locations(ast.copy_location(new, around[-1])))
            becomes = ast.unparse(new if shown is around[-1] else shown)
            name = f"{module} {place}: {was} => {becomes}".replace("\n", " ")
            try:
                code = compile(tree, path, "exec") if only is None or name in only else None
            except (SyntaxError, ValueError):
                continue
            finally:
                replace(around[-1])
            if code is not None:
                yield Mutant(name, code)


_Replace = Callable[[ast.AST], None]


def _places(node: ast.AST, around: list[ast.AST], replace: _Replace | None) -> Iterator[tuple[list[ast.AST], _Replace]]:
    """Yield each changeable node, last in the row of its ancestors, and a function that replaces it."""
    around = [*around, node]
    if replace is not None:
        yield around, replace
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        if isinstance(value, ast.AST):
            if not _is_left_alone(value, node):
                yield from _places(value, around, lambda new, node=node, field=field: setattr(node, field, new))
        elif isinstance(value, list):
            for index, child in enumerate(value):
                if isinstance(child, ast.AST) and not _is_left_alone(child, node):
                    yield from _places(
                        child, around, lambda new, value=value, index=index: value.__setitem__(index, new)
                    )


def _is_left_alone(node: ast.AST, parent: ast.AST) -> bool:
    match node, parent:
        case ast.Expr(value=ast.Constant()), _:
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.keyword(arg="gc"), _:
            return True
        case ast.Constant(), ast.JoinedStr():
            return True
        case ast.JoinedStr(), ast.Assign(targets=[ast.Name(id="detail" | "shown" | "limit")]):
            return True
        case ast.JoinedStr(), ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name.endswith("Error") or name in ("fail", "syntax", "join")
    return False


def _shown(around: list[ast.AST]) -> ast.AST:
    """Return the widest piece of code around the change that is short enough to show."""
    shown = around[-1]
    for node in reversed(around[:-1]):
        if isinstance(node, ast.expr | ast.stmt | ast.keyword):
            if len(ast.unparse(node)) > _WIDTH:
                break
            shown = node
    return shown


def _variants(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """Return the replacements of a node."""
    if isinstance(parent, ast.If | ast.While | ast.IfExp | ast.comprehension) and _is_condition(node, parent):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Compare(left, operators, comparators):
            for index, operator in enumerate(operators):
                for other in _COMPARED[type(operator)]:
                    yield ast.Compare(left, [*operators[:index], other(), *operators[index + 1 :]], comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, operator, right):
            if type(operator) in _OPERATORS:
                yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.Constant(value):
            yield from map(ast.Constant, _constants(value))
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(None, upper, step)
            if upper is not None:
                yield ast.Slice(lower, None, step)
        case ast.Call(function, arguments, keywords):
            yield from (ast.Call(function, arguments, rest) for rest in _shorter(keywords))
        case ast.Dict(keys, values):
            for index in range(len(keys)):
                yield ast.Dict(keys[:index] + keys[index + 1 :], values[:index] + values[index + 1 :])
        case ast.Tuple(elements, ast.Load()) if len(elements) > 1 and not isinstance(parent, _OF_THEIR_OWN):
            yield from (ast.Tuple(rest, ast.Load()) for rest in _shorter(elements))
        case ast.Set(elements) if len(elements) > 1:
            yield from map(ast.Set, _shorter(elements))
        case ast.ExceptHandler(kind, name, body):
            kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
            yield from (ast.ExceptHandler(ast.Tuple(rest, ast.Load()), name, body) for rest in _shorter(kinds))
        case ast.Match(subject, cases):
            yield from (ast.Match(subject, rest) for rest in _shorter(cases))
        case ast.Return(value) if value is not None and not isinstance(value, ast.Constant):
            yield ast.Return(None)
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()


def _is_condition(node: ast.AST, parent: ast.If | ast.While | ast.IfExp | ast.comprehension) -> bool:
    tests = parent.ifs if isinstance(parent, ast.comprehension) else [parent.test]
    return node in tests and not isinstance(node, _CHECKED)


def _constants(value: object) -> list[object]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1] if value else [1]
        case str() if " " not in value:
            return [value + "~"]
        case bytes():
            return [value + b"~"]
    return []


def _shorter(row: list) -> list[list]:
    """Yield the row without each element in turn."""
    return [row[:index] + row[index + 1 :] for index in range(len(row))]
