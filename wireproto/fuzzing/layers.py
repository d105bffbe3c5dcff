"""All harnesses of this package, by name of the layer."""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Final, TypeGuard

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
    make = _function(module, name) if colon else LAYERS.get(layer)
    if make is None:
        raise ValueError(f"{layer!r} is not a layer; use one of {', '.join(LAYERS)}, or MODULE:FUNCTION")
    harness = make() if _needs_nothing(make) else None
    if not isinstance(harness, Harness):
        raise ValueError(f"{layer!r} is not a function that returns a Harness; correct the name or the function")
    return harness


def _function(module: str, name: str) -> object:
    """Return what a module has by this name; None if there is no such module, or no such name in it."""
    if not module or module.startswith("."):
        return None
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            return None
        raise  # the module is there, but one that it imports is not


def _needs_nothing(make: object) -> TypeGuard[Callable[[], object]]:
    """Return whether it can be called without arguments."""
    try:
        signature(make).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
