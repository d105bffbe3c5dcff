"""Sessions from a grammar: compares a peer's reaction to a script with that of our own `Session`.

drawing         scripts from a seed: valid, nearly valid, in any order
contents        frames of a script: ports and texts at their limits, faulty JSON
introductions   the hello or ack of a script: signatures, keys, nonces and texts, valid or not
script          a script as data, and its bytes for one connection
rules           our `Session` as the model: a peer's allowed reactions to each act
play            plays a script to a live peer, and finds disagreements
shrink          reduces a script that shows a disagreement, and finds the broken rule
"""
