"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from wireproto.messages import Revision

BackendOption = Annotated[str, typer.Option(metavar="auto|jaccl|ring", help="auto: jaccl where MLX has it.")]
RevisionOption = Annotated[int, typer.Option(min=min(Revision), max=max(Revision), help="Of the link protocol.")]
CaptureOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Record this rank's links (pcapng).")]
KeyLogOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Log the session keys that open them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="A JSON object a line, the last one `done`.")]
