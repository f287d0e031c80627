"""Whole federations on one machine: the apps of a deployment on the in-process grid, or on Ray.

prepare       everything that can be found wrong before a run writes its first byte
run           from a prepared experiment to a finished run folder
apps          the ClientApp with simulated silos: their configuration, keys and dropout
grid, pool    messages answered in this process, or by worker processes
vectorised    silos that train as one batched computation
ray           the same on Flower's Ray simulation
ledger        one ledger for all silos of a run
"""

from typing import Literal

Engine = Literal["auto", "in-process", "vectorised", "ray"]
"""What trains the silos. Here, so that the command line knows it without importing torch."""
