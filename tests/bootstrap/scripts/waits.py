"""A user's program that goes on until it is ended."""

import time

time.sleep(60)
