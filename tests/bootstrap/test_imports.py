"""The cost of `import bootstrap`, and the modules that it does not load."""

import subprocess
import sys

import pytest


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_needs_neither_mlx_nor_the_command_line() -> None:
    assert loaded_after("import bootstrap") & {"mlx", "mlx.core", "typer", "rich", "hypothesis"} == set()


def test_the_supervisor_does_not_load_mlx() -> None:
    assert (
        loaded_after("import bootstrap.control.run, bootstrap.cli.demo, bootstrap.rank, bootstrap.cli.display")
        & {"mlx", "mlx.core", "rich"}
        == set()
    )


def test_the_worker_loads_little() -> None:
    """RDMA devices took a tenth of its time, and only a pair over JACCL without a matrix needs them."""
    loaded = loaded_after("import bootstrap.worker")
    assert loaded & {"typer", "rich", "click", "bootstrap.doctor.rdma", "subprocess"} == set()


def test_help_needs_little() -> None:
    """It took 120 ms beyond the start of Python, a fifth of it for asyncio, and a quarter for forming a group."""
    loaded = loaded_after("import bootstrap.cli.app")
    assert loaded & {"asyncio", "cryptography", "rich", "mlx", "logging", "tempfile"} == set()
    assert loaded & {"bootstrap.group", "bootstrap.plan", "bootstrap.system.network", "wireproto.jaccl"} == set()


def test_names_of_the_package() -> None:
    """Most of them are imported on first use."""
    import bootstrap

    for name in bootstrap.__all__:
        assert getattr(bootstrap, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Plann'"):
        _ = bootstrap.Plann
