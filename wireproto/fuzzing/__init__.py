"""The fuzzing kit: a harness for each layer, a structure-aware mutator, and fuzzers of other parsers and peers.

| module | content |
| --- | --- |
| `harness` | the interface of a harness |
| `layers` | the harnesses of this package |
| `engine` | runs a harness |
| `watch` | limits of time and memory for each input |
| `corpus` | seeds and a dictionary for other fuzzers |
| `differential` | compares another codec with this one |
| `peer` | plays random sessions to a live peer |
"""
