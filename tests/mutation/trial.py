"""One trial: whether a module's tests detect a mutant."""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Generator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from multiprocessing.connection import Connection
from types import CodeType

import pytest

_PYTEST = [
    *("-x", "-q", "--assert=plain"),
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:unraisableexception"),
    *("-o", "timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
]
_FORK = multiprocessing.get_context("fork")  # a child starts with pytest and the libraries loaded


def seconds_of_each(files: list[str]) -> dict[str, float]:
    """Return the processor time of each test in these files. Raise RuntimeError unless all pass."""
    mine, its = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_run, args=(files, _Clock(its)))
    child.start()
    its.close()
    seconds: dict[str, float] = mine.recv()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"the tests do not pass as it is: {files}")
    return seconds


def notices(module: str, code: CodeType, files: list[str], order: list[str], seconds: int) -> bool:
    """Return whether any of these tests fails in a process whose `module` has this code.

    The system ends it after so many seconds of processor time: endless is failed.
    """
    child = _FORK.Process(target=_run, args=(files, _Order(order), _Finder(module, code), seconds))
    child.start()
    child.join()
    return child.exitcode != 0


def _run(files: list[str], plugin: object, finder: MetaPathFinder | None = None, seconds: int | None = None) -> None:
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    if finder is not None:
        sys.meta_path.insert(0, finder)
    os._exit(pytest.main([*_PYTEST, *files], [plugin]))


class _Clock:
    """A plugin that sends how much processor time each test took."""

    def __init__(self, to: Connection) -> None:
        self._to = to
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = time.process_time()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.process_time() - began

    def pytest_sessionfinish(self) -> None:
        self._to.send(self._seconds)


class _Order:
    """A plugin that runs these tests, in this order."""

    def __init__(self, order: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(order)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._place), key=lambda item: self._place[item.nodeid]
        )


class _Finder(MetaPathFinder):
    """Finds one module, with code that differs from its file."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._module = module
        self._code = code

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._code)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, code: CodeType) -> None:
        super().__init__(fullname, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code
