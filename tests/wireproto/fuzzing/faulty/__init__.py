"""Parsers with one planted fault each, for fuzzers to find.

`base` has a correct decoder of cluster frames, made to be broken; `frames` breaks it, and `layers` breaks this
package's own link decoder, records, handshake, seal and session. `python -m tests.wireproto.fuzzing.faulty NAME` runs
a faulty `wireproto codec`.
"""
