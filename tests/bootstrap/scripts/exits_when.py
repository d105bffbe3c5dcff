"""A worker that ends without a word when the file is there that EXIT_WHEN names."""

import os
import sys
import time
from pathlib import Path

while not Path(os.environ["EXIT_WHEN"]).exists():
    time.sleep(0.02)
sys.exit(7)
