"""A worker that ends without a word."""

import sys

sys.exit(7)
