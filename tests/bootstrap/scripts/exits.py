"""A worker that exits silently."""

import sys

sys.exit(7)
