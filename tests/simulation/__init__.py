"""Whole groups in a simulated world.

The real logic of rank, link, control, trust and launch, with the real codec, on a clock, a network, processes and disks
that a seed decides. Signatures and key agreement are real in one world of 20, see `stand_in`. See `world` for what is
simulated, and `invariants` for what must hold.
"""
