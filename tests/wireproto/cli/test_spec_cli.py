"""`wireproto spec` and `wireproto vectors`, as a child process."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.wireproto.cli.test_cli import lines, run
from wireproto import coverage, specification
from wireproto.cli import spec as spec_cli
from wireproto.conformance import CASES
from wireproto.specification import Level
from wireproto.testing import vectors


def test_coverage() -> None:
    done = run("spec", "coverage")
    rows = done.stdout.decode().splitlines()
    rules = specification.requirements()
    assert rows[0].split() == ["requirement", "level", "tests", "vectors", "cases"]
    assert [row.split()[:2] for row in rows[1:-1]] == [[rule.id, rule.level.value] for rule in rules]
    untested = any(row.is_open for row in coverage.matrix())
    assert rows[-1].startswith(f"{len(rules)} rules; " + ("tested by nothing: " if untested else "each MUST is tested"))
    assert (done.returncode, done.stderr) == (int(untested), b"")


def test_coverage_as_json() -> None:
    rows = {str(row["id"]): row for row in lines(run("spec", "coverage", "--json"))}
    row = rows["LINK-LEN-MAX"]
    assert (row["level"], row["section"], row["revisions"]) == ("MUST", "Link frame", [1, 2])
    assert "tests/wireproto/codec/test_link.py::test_bad_length" in row["tests"]  # type: ignore[operator]
    assert row["cases"] == sum("LINK-LEN-MAX" in case.requirements for case in CASES.values())
    assert row["vectors"] == len(
        [
            test
            for kind in vectors.FILES
            for group in vectors.load(kind).groups
            for test in group.tests
            if "LINK-LEN-MAX" in test.requirements
        ]
    )


@pytest.fixture
def app() -> typer.Typer:
    """As the command makes it; its functions return the exit code."""
    app = typer.Typer()
    spec_cli.register(app)
    return app


def test_a_must_without_a_test(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    must = specification.Requirement("NEW-RULE", Level.MUST, "Session", (2,), "It MUST be new.")
    monkeypatch.setattr(coverage, "matrix", lambda: [coverage.Coverage(must, (), 0, 0)])
    done = CliRunner().invoke(app, ["spec", "coverage"], standalone_mode=False)
    assert done.return_value == 1
    assert done.stdout.splitlines()[-1] == "1 rules; tested by nothing: NEW-RULE"


def test_without_a_checkout(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As from a wheel, which has the vectors, and no tests."""
    monkeypatch.setattr(coverage, "_TESTS", tmp_path / "none")
    done = CliRunner().invoke(app, ["spec", "coverage"], standalone_mode=False)
    assert done.return_value == 0
    assert {row.split()[2] for row in done.stdout.splitlines()[1:-1]} == {"-"}
    assert done.stdout.splitlines()[-1].endswith("so their column needs a checkout")
    done = CliRunner().invoke(app, ["spec", "coverage", "--json"], standalone_mode=False)
    assert {json.loads(row)["tests"] for row in done.stdout.splitlines()} == {None}


def test_export(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    done = run("vectors", "export", str(target))
    written = sorted(target.iterdir())
    assert (done.returncode, done.stdout.decode().splitlines()) == (0, [str(path) for path in written])
    assert [path.name for path in written] == sorted(
        ["schema.json", *(f"{name}.json" for name in vectors.FILES.values())]
    )
    assert all(path.read_bytes() == (vectors.DIRECTORY / path.name).read_bytes() for path in written)
    assert run("vectors", "export", str(target)).returncode == 0


def test_export_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = run("vectors", "export", str(tmp_path / "taken"))
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [("spec",), ("vectors",)])
def test_a_group_alone_is_one_line(command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"wireproto {command[0]}: missing command (see 'wireproto {command[0]} --help')\n"


@pytest.mark.parametrize("command", [("spec", "coverage"), ("vectors", "export")])
def test_help(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert b"Example: " in done.stdout
    assert len(done.stdout.splitlines()) <= 24
