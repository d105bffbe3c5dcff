"""The fuzzing kit: harnesses, one a layer, a mutator that knows the structure, and what fuzzes others' parsers.

`harness` says what a harness is, `layers` has those that are here, `engine` runs one, `watch` sees to time and memory,
`mutations` and `sealed` change inputs. `differential` sets a codec against this one over a pipe, `corpus` writes seeds
and a dictionary for other fuzzers, `peer` talks to a live peer.
"""
