"""A user's command that prints its input, arguments and variables as one JSON object."""

import json
import os
import sys
from pathlib import Path

file = Path(os.environ["MLX_HOSTFILE"])
told = {
    "arguments": sys.argv[1:],
    "stdin": sys.stdin.read(),
    "variables": {name: value for name, value in os.environ.items() if name.startswith(("JACCL_", "MLX_"))},
    "file": file.read_text(),
    "mode": file.stat().st_mode & 0o777,
    "kept": os.environ.get("KEPT"),
}
sys.stdout.write(json.dumps(told) + "\n")
