"""A worker that exits silently once the file named by EXIT_WHEN exists."""

import os
import sys
import time
from pathlib import Path

while not Path(os.environ["EXIT_WHEN"]).exists():
    time.sleep(0.02)
sys.exit(7)
