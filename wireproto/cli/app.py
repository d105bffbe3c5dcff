"""The command `wireproto`: one module per subcommand."""

from wireproto.cli import codec, conform, decode, encode, fuzz, inspect, vectors
from wireproto.cli.console import new_app

app = new_app(
    "wireproto",
    "Encode and decode the cluster link protocol; test, fuzz and inspect implementations of it.\n\n"
    "Example: wireproto decode 077b22706f7274223a32393430302c2273657373696f6e4944223a2261227d",
)
for command in (decode, encode, codec, conform, fuzz, inspect, vectors):
    command.register(app)
