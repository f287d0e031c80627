"""What every peer computes: four workloads over MNIST, in plain PyTorch and numpy.

All peers take data, clients, initial weights and local training from here, so that what differs is
what stands around it. A client's batches follow from the round and the client alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE_MULTIPLIER, CLIP = 1.0, 1.0
"""Of DP-SGD; batches are then Poisson samples."""


@dataclass(frozen=True)
class Workload:
    """`cohort` of `clients` with `records` each train for one epoch in each of `rounds`."""

    name: str
    model: str
    clients: int
    records: int
    cohort: int
    batch: int
    lr: float
    rounds: int
    private: bool = False

    @property
    def steps(self) -> int:
        """Of a client in a round."""
        return self.records // self.batch


WORKLOADS = {
    each.name: each
    for each in (
        Workload("A", "linear", 1000, 60, 10, 10, 0.03, 100),
        Workload("B", "mlp", 100, 600, 20, 50, 0.1, 20),
        Workload("C", "mlp", 100, 600, 20, 50, 0.1, 20, private=True),
        Workload("D", "lenet", 50, 200, 10, 20, 0.1, 10),
    )
}


def new_model(workload: Workload) -> nn.Module:
    """The model with the initial weights that all peers begin with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _build(workload.model)


def _build(name: str) -> nn.Module:
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    first = (nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    return nn.Sequential(*first, *second, nn.Flatten(), *head)


@cache
def test_set() -> tuple[Tensor, Tensor]:
    """10,000 pictures (n, 1, 28, 28) in [0, 1], and their digits."""
    return _part("t10k", slice(None))


@cache
def clients_of(workload: Workload) -> tuple[Tensor, Tensor]:
    """Records of all clients, inputs (clients, records, 1, 28, 28) and targets."""
    order = np.random.default_rng(1).permutation(60_000)[: workload.clients * workload.records]
    inputs, targets = _part("train", order)
    shape = (workload.clients, workload.records)
    return inputs.view(*shape, 1, 28, 28), targets.view(shape)


def _part(name: str, rows: np.ndarray | slice) -> tuple[Tensor, Tensor]:
    folder = Path(os.environ["PRIVET_DATA"]) / "mnist"
    pictures = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
    digits = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    inputs = np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 1, 28, 28)[rows]
    targets = np.frombuffer(digits, np.uint8, offset=8)[rows]
    return torch.from_numpy(inputs / np.float32(255)), torch.from_numpy(targets.astype(np.int64))


def cohort(workload: Workload, round_: int) -> np.ndarray:
    """The clients of a round, where a peer lets the caller choose them."""
    return np.random.default_rng([1, round_]).choice(
        workload.clients, workload.cohort, replace=False
    )


def batches(workload: Workload, round_: int, client: int) -> list[Tensor]:
    """The record numbers of each step: a shuffled epoch, or Poisson samples."""
    rng = np.random.default_rng([2, round_, client])
    if not workload.private:
        order = torch.from_numpy(rng.permutation(workload.records))
        return list(order.split(workload.batch))
    coins = rng.random((workload.steps, workload.records)) < workload.batch / workload.records
    return [torch.from_numpy(np.flatnonzero(row)) for row in coins]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    records: tuple[Tensor, Tensor],
    indices: list[Tensor],
) -> None:
    """One client's local training."""
    inputs, targets = records
    for batch in indices:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()


def accuracy(model: nn.Module) -> float:
    """On the test set."""
    inputs, targets = test_set()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in inputs.split(500)])
    return float((found == targets).float().mean())


def asked() -> argparse.ArgumentParser:
    """The command line that the scripts of all peers have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    return parser


def say(accuracy: float) -> None:
    """The last line that a script of a peer prints."""
    print(json.dumps({"accuracy": accuracy}), flush=True)
