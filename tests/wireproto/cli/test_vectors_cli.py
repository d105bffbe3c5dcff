"""`wireproto vectors`, as a child process."""

from pathlib import Path

from tests.forks import run
from wireproto.testing import vectors


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


def test_the_group_alone_is_one_line() -> None:
    done = run("vectors")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == "wireproto vectors: missing command (see 'wireproto vectors --help')\n"


def test_help() -> None:
    done = run("vectors", "export", "--help")
    assert done.returncode == 0
    assert b"Example: " in done.stdout
    assert len(done.stdout.splitlines()) <= 24
