"""Output of the system's tools from the files in `outputs/`, fake tools that print it, and a fake MLX.

None of the files was recorded on this project's own hardware. They are written after rdma-core's sources of
`ibv_devices` and `ibv_devinfo` (layout, RoCE suffixes), after Apple's TN3205 and outputs that owners of Macs have
published (Thunderbolt transport and link layer, `rdma_ctl`, speeds in `system_profiler`, empty lists), and after the
manuals of `sw_vers`, `networksetup` and `ifconfig`. Names, addresses and identifiers are made up.
"""

from pathlib import Path

INIT = "init(strict: bool = False, backend: str = 'any'{}) -> Group"
FACTORY = ", *, all_gather_factory: Callable | None = None"
OUTPUTS = Path(__file__).parent / "outputs"


def fake_mlx(directory: Path, *backends: str, factory: bool = True, before: str = "") -> str:
    """Put a Python MLX with these backends into `directory`; return the PYTHONPATH for it."""
    package = directory / "mlx"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "core.py").write_text(
        f"{before}\n__version__ = '0.32.4'\nclass distributed:\n"
        f"    def is_available(name): return name in {backends!r}\n"
        f"    def init(): {INIT.format(FACTORY if factory else '')!r}\n"
    )
    return str(directory)


def output(name: str) -> str:
    return (OUTPUTS / name).read_text()


class Tools:
    """A directory of tools that is the whole PATH."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        directory.mkdir()

    def prints(self, tool: str, name: str, status: int = 0) -> None:
        """`tool` prints the file `name`, on stderr if its status is not 0."""
        self.runs(tool, f"/bin/cat '{OUTPUTS / name}' {'>&2' if status else ''}\nexit {status}")

    def hangs(self, tool: str, before: str = ":") -> None:
        """`tool` ignores TERM, and has a child that keeps its output open."""
        self.runs(tool, f"trap '' TERM\n{before}\n/bin/sleep 300 &\n/bin/sleep 300\n")

    def runs(self, tool: str, script: str) -> None:
        file = self.path / tool
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
