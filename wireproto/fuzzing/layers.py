"""Every harness of this package, by the name of its layer."""

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
    """The harness of a layer; or, for `package.module:function`, the one that a function elsewhere makes.

    ValueError for neither.
    """
    module, colon, name = layer.partition(":")
    try:
        make = getattr(import_module(module), name) if colon else LAYERS[layer]
    except (KeyError, ImportError, AttributeError, ValueError) as error:
        known = ", ".join(LAYERS)
        raise ValueError(f"{layer!r} is no layer; take one of {known}, or MODULE:FUNCTION") from error
    harness: Harness = make()
    return harness
