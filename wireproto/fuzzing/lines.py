"""Line coverage of the functions of some modules."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Lines:
    """The lines of the functions of modules, and the number of covered ones."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._unseen: dict[tuple[str, int], set[int]] = {}
        """Uncovered lines by function. A fully covered function is no longer traced."""
        for name in modules:
            file = importlib.import_module(name).__file__ or ""
            for function in _functions(compile(Path(file).read_bytes(), file, "exec")):
                lines = {line for _, _, line in function.co_lines() if line is not None}
                self._unseen.setdefault(_place(function), set()).update(lines - {function.co_firstlineno})
        self.total = self._left()

    @property
    def seen(self) -> int:
        return self.total - self._left()

    def run(self, call: Callable[[], _Result]) -> tuple[_Result, bool]:
        """Return the result of a call, and whether it covered a new line."""
        before = self._left()
        sys.settrace(self._enter)
        try:
            result = call()
        finally:
            sys.settrace(None)
        return result, self._left() < before

    def _left(self) -> int:
        return sum(map(len, self._unseen.values()))

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if self._unseen.get(_place(frame.f_code)) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._unseen[_place(frame.f_code)].discard(frame.f_lineno)
        return self._line


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_filename, code.co_firstlineno


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions in a code object, at any depth, without class bodies."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_OPTIMIZED:
                yield constant
            yield from _functions(constant)
