"""A worker whose output is not an event."""

import sys

LOADED = '{"event": "loaded", "backend": "ring", "version": "1", "gather_factory": false, "rank": 0, "t_ms": 0}'
sys.stdout.write(LOADED + "\n")
sys.stdout.write('{"event": "group-ready"}\n')
sys.stdout.flush()
sys.stdin.read()
