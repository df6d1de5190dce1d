"""A whole run in one process: the real law and the real honest actor over simulated time, network, disks and training.

Pure and seeded: no torch, no clock, no socket; the same seed gives the same log head anywhere.
"""
