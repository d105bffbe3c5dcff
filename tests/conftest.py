"""Hypothesis profiles: `ci` looks long, `local` answers at once. HYPOTHESIS_PROFILE picks one; CI=true means `ci`."""

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile(
    "ci", max_examples=1000, deadline=None, derandomize=False, print_blob=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile("local", max_examples=60, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "local"))
