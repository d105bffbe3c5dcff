"""Two sessions, and an attacker who controls the connection: every short schedule, and random longer ones.

`python -m tests.simulation.session` runs it. No sockets, clocks or event loop: only `Session`, with real cryptography
and random bytes that a seed decides.
"""
