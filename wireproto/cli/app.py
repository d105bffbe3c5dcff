"""The command `wireproto`: one module per subcommand."""

from wireproto.cli import codec, conform, decode, encode, fuzz, inspect, vectors
from wireproto.cli.console import example, new_app

app = new_app(
    "wireproto",
    "Encode and decode the cluster link protocol; test, fuzz and inspect implementations of it.",
    epilog=example("wireproto encode jacclBootstrap", """'{"port": 29400, "sessionID": "a"}' | wireproto decode"""),
)
for command in (decode, encode, codec, conform, fuzz, inspect, vectors):
    command.register(app)
