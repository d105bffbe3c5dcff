"""Sessions from a grammar: what a peer makes of a script is compared with what our own `Session` makes of it.

drawing         scripts from a seed: valid, nearly valid, in any order
contents        frames of a script: ports and texts at their limits, JSON with a fault
introductions   the hello or ack of a script: signatures, keys, nonces and texts, valid or not
script          a script as data, and its bytes for one connection
rules           our `Session` as the model: what the rules allow a peer after each act
play            a script with a live peer, and where the two disagree
shrink          the smallest script that shows a disagreement, and the rule that it breaks
"""
