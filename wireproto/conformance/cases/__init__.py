"""The cases, one module per section."""

from importlib import import_module

from wireproto.conformance.case import SECTIONS, Case, case

for _section in SECTIONS:
    import_module(f"{__name__}.{_section}")
for _section in ("generated", "contents"):
    import_module(f"{__name__}.{_section}")

CASES: dict[str, Case] = case.cases
"""All cases by id, in order of the sections."""
