"""Tasks of silos that differ, for models of which a part stays: task = "local_tasks:Turned"."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from privet import Examples
from toy_tasks import Tiny

WIDTH, CLASSES, SILOS = 8, 2, ("east", "north", "south", "west")


class Turned(Tiny):
    """Half of the silos call yes what the others call no: one head for all cannot be right."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            OrderedDict(body=nn.Linear(WIDTH, 6), norm=nn.LayerNorm(6), head=nn.Linear(6, CLASSES))
        )

    def train_data(self) -> Examples:
        return _examples(1, 60)

    def test_data(self) -> Examples:  # type: ignore[override]
        return _examples(2, 40)


class Statistics(Turned):
    """A BatchNorm, whose buffers are averaged where they travel."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                body=nn.Linear(WIDTH, 6), norm=nn.BatchNorm1d(6), head=nn.Linear(6, CLASSES)
            )
        )


class Renamed(Turned):
    """The same sizes under other names: another silo's code."""

    def __init__(self, *, model: str | None, data_dir: Path | None, old: bool = False) -> None:
        super().__init__(model=model, data_dir=data_dir)
        self.old = old

    def model(self) -> nn.Module:
        body, norm, head = super().model().children()
        name = "head_old" if self.old else "head"
        return nn.Sequential(OrderedDict([("body", body), ("norm", norm), (name, head)]))


def _examples(seed: int, each: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((each * len(SILOS), WIDTH), generator=generator)
    silo = np.repeat(np.arange(len(SILOS)), each)
    turned = torch.from_numpy(silo % 2)
    right: Tensor = (inputs[:, :3].sum(1) > 0).long()
    return Examples(inputs, right ^ turned, silo, SILOS)
