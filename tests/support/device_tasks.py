"""Tasks for devices: task = "device_tasks:Stubborn"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import paper_device
from frozen_tasks import CLASSES, drawn
from privet import Examples
from toy_tasks import Tiny


class _Shifted(nn.Linear):
    """Adds what it makes on the CPU wherever it is."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + torch.ones(2)


class Stubborn(Tiny):
    """A model that runs on the CPU only."""

    def model(self) -> nn.Module:
        return _Shifted(2, 2)


class OnPaper(Tiny):
    """Makes the device in every process that imports it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        paper_device.register()


class Convolutions(Tiny):
    """Images, and a model with a bit of everything that images want."""

    shape = 2, 8, 8

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.2),
            nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False),
            nn.Flatten(),
            nn.Linear(4, CLASSES),
        )

    def train_data(self) -> Examples:
        inputs = drawn(3, 80, *self.shape)
        return Examples(inputs, inputs.flatten(1)[:, :CLASSES].argmax(1))

    def test_data(self) -> Examples:  # type: ignore[override]
        inputs = drawn(4, 40, *self.shape)
        return Examples(inputs, inputs.flatten(1)[:, :CLASSES].argmax(1))


class Attention(Convolutions):
    """Sequences of words."""

    def model(self) -> nn.Module:
        return _Encoder()

    def train_data(self) -> Examples:
        words = (drawn(5, 60, 6).abs() * 20).long().clamp(max=30)
        return Examples(words, words[:, 0] % CLASSES)

    def test_data(self) -> Examples:
        words = (drawn(6, 30, 6).abs() * 20).long().clamp(max=30)
        return Examples(words, words[:, 0] % CLASSES)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(31, 8, padding_idx=0)
        self.first, self.second = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        values = self.table(words)
        query, key, value = self.first(self.norm(values)).chunk(3, dim=2)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head((values + self.second(seen)).mean(1))  # type: ignore[no-any-return]


class Recurrent(Attention):
    """The same by a recurrent layer; those with gates have kernels of their own on devices."""

    def model(self) -> nn.Module:
        return _Recurrent()


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells = nn.Embedding(31, 8), nn.RNN(8, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.cells(self.table(words))
        return self.head(states[:, -1])  # type: ignore[no-any-return]
