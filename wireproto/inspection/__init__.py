"""What a capture says: packets, byte streams, link frames, messages, and the pictures of them.

`packets` reads the file, `tcp` puts the byte streams together, `frames` cuts them, and `sessions` makes entries of a
time line of them, with the keys that `keys` finds; `connections` does all that in a row. `timeline`, `hexdump`,
`sequence`, `opened` and `report` show entries. `pcapng` writes captures.
"""
