"""A worker that writes what is no event."""

import sys

sys.stdout.write('{"event": "group-ready"}\n')
sys.stdout.flush()
sys.stdin.read()
