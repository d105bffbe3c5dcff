"""Whole groups in a simulated world.

The real logic of rank, link, control, trust and launch, with the real codec and cryptography, on a clock, a network,
processes and disks that a seed decides. See `world` for what is simulated, and `invariants` for what must hold.
"""
