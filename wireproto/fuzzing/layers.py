"""All harnesses of this package, by name of the layer."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from wireproto.fuzzing.codec_layers import frame_harness, link_harness, schema_harness
from wireproto.fuzzing.device_layer import device_file_harness
from wireproto.fuzzing.harness import Harness
from wireproto.fuzzing.inspection_layer import inspection_harness
from wireproto.fuzzing.session_harness import session_harness
from wireproto.fuzzing.session_layers import handshake_harness, seal_harness

LAYERS: Final[dict[str, Callable[[], Harness]]] = {
    "link": link_harness,
    "frame": frame_harness,
    "schema": schema_harness,
    "handshake": handshake_harness,
    "seal": seal_harness,
    "session": session_harness,
    "inspection": inspection_harness,
    "device_file": device_file_harness,
}


def harness_of(layer: str) -> Harness:
    """Return the harness of a layer or of `package.module:function`. Raise ValueError for another name."""
    module, colon, name = layer.partition(":")
    try:
        make = getattr(import_module(module), name) if colon else LAYERS[layer]
    except (KeyError, ImportError, AttributeError, ValueError) as error:
        known = ", ".join(LAYERS)
        raise ValueError(f"{layer!r} is not a layer; use one of {known}, or MODULE:FUNCTION") from error
    harness = make() if callable(make) else None
    if not isinstance(harness, Harness):
        raise ValueError(f"{layer!r} is not a function that returns a Harness; correct the name or the function")
    return harness
