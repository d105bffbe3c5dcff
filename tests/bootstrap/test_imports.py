"""What `import bootstrap` costs, and what it does without."""

import subprocess
import sys


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


def test_the_worker_loads_neither_typer_nor_rich() -> None:
    assert loaded_after("import bootstrap.worker") & {"typer", "rich", "click"} == set()


def test_help_needs_no_event_loop() -> None:
    """asyncio takes a fifth of the time to start."""
    assert loaded_after("import bootstrap.cli.app") & {"asyncio", "cryptography", "rich", "mlx"} == set()
