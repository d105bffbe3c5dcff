"""The command `wireproto`, also run by `python -m wireproto`."""

from typing import TYPE_CHECKING, NoReturn

from wireproto.cli.console import run

if TYPE_CHECKING:
    from typer import Typer


def _load() -> "Typer":
    from wireproto.cli.app import app

    return app


def main() -> NoReturn:
    run(_load, "wireproto", extra="cli")


if __name__ == "__main__":
    main()
