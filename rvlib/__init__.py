"""Adversarial robustness you can run, read and check: attacks, training, smoothing, certificates.

Every concept has its own small room; ``docs/rooms.md`` is the map.
"""

__version__ = "0.1.0"
