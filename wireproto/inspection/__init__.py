"""The contents of a capture: packets, byte streams, link frames, messages, and pictures of them.

`reading` reads a file. It uses `source` (bytes), `captures` (packets), `packets` (TCP segments, with `link_layer` and
`fragments`) and `connections`, which turns segments into entries: `tcp` assembles byte streams, `frames` cuts them into
link frames, and `sessions` decodes those with the keys of `keys`. `timeline`, `hexdump`, `sequence`, `opened` and
`report` show entries. `pcapng` writes captures. `formats` names unsupported formats.
"""
