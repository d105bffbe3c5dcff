"""Hypothesis profiles: `ci` looks long, `local` answers at once, `mutation` looks at the same few examples each time.

HYPOTHESIS_PROFILE picks one; CI=true means `ci`.
"""

import os
import signal

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile(
    "ci", max_examples=80, deadline=None, derandomize=False, print_blob=True, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile("local", max_examples=60, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.register_profile(
    "mutation", max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "local"))

for number, handler in ((signal.SIGHUP, lambda number, frame: None), (signal.SIGINT, signal.default_int_handler)):
    # Under nohup, or in the background of a script, the commands that are tested would inherit that it is ignored; a
    # handler is reset when they start.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
