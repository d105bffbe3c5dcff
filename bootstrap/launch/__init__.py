"""Starts all ranks of a group from one host, over ssh."""
