"""Tasks whose records are read when they are asked for: task = "lazy_tasks:Sentences"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from privet import LazyExamples
from tree_tasks import LENGTH, Tokens


def padded(items: list[tuple[Tensor, int]], length: int = LENGTH) -> tuple[Any, Tensor]:
    """Sentences up to `length`, whatever is among the items."""
    ids = torch.zeros((len(items), length), dtype=torch.int64)
    for row, (words, _) in zip(ids, items, strict=True):
        row[: len(words)] = words
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    return inputs, torch.tensor([target for _, target in items])


class Unpadded(Dataset[tuple[Tensor, int]]):
    def __init__(self, examples: Any) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        ids = self.examples.inputs["input_ids"][index]
        return ids[ids > 0], int(self.examples.targets[index])


class Sentences(Tokens):
    """As `Tokens`, read one by one and padded then."""

    def _sentences(self, n: int, seed: int) -> Any:
        return LazyExamples(Unpadded(super()._sentences(n, seed)), collate_fn=padded)


class Arrays(Dataset[tuple[Tensor, int]]):
    """Images of bytes, a file each; the class is in the name."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        return torch.from_numpy(np.load(path)), int(path.stem.rpartition("-")[2])


def shifted(image: Tensor) -> Tensor:
    return image.roll(int(torch.randint(-2, 3, ())), -1)


class Folder(Tokens):
    """A folder of images, shifted at every reading."""

    def model(self) -> nn.Module:
        class Scaled(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.float().div(255)

        pooled = nn.AdaptiveAvgPool2d(4)
        return nn.Sequential(Scaled(), pooled, nn.Flatten(), nn.Linear(3 * 16, 2))

    def train_data(self) -> Any:
        assert self.data_dir is not None
        return LazyExamples(Arrays(self.data_dir), transform=shifted)

    def test_data(self) -> Any:
        return None

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}
