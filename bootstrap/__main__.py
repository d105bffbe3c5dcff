"""`jaccl-bootstrap`, also as `python -m bootstrap`."""

from typing import TYPE_CHECKING, NoReturn

from bootstrap.files import prepare_standard_streams
from wireproto.cli.console import run

if TYPE_CHECKING:
    from typer import Typer


def _load() -> "Typer":
    from bootstrap.cli.app import app

    return app


def main() -> NoReturn:
    prepare_standard_streams()
    run(_load, "jaccl-bootstrap", extra="bootstrap")


if __name__ == "__main__":
    main()
