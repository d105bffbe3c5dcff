"""A user's program that runs until it is stopped."""

import time

time.sleep(60)
