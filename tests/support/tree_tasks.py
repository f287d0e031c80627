"""Tasks whose examples are not one float tensor: task = "tree_tasks:Tokens"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from privet import Examples
from toy_tasks import Tiny

WORDS, LENGTH = 12, 6
RECORDS = 60


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Scored:
    """As Hugging Face's models return it."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    loss: Tensor | None = None


class Reader(nn.Module):
    """The mean of the words that are no padding, and what it says of them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scored:
        weights = attention_mask.unsqueeze(-1).to(self.words.weight.dtype)
        read = self.words(input_ids % WORDS)
        mean = (read * weights).sum(1) / weights.sum(1).clamp(min=1)
        return Scored(self.head(mean), (mean,))


class Tokens(Tiny):
    """Sentences of different lengths, padded to one; a dict in, an object with `logits` out."""

    def __init__(
        self, *, model: str | None = None, data_dir: Path | None = None, **options: Any
    ) -> None:
        super().__init__(model=model, data_dir=data_dir)
        self.options = options

    def model(self) -> nn.Module:
        return Reader()

    def train_data(self) -> Examples:
        return self._sentences(RECORDS, 1)

    def test_data(self) -> Examples:  # type: ignore[override]
        return self._sentences(30, 2)

    def _sentences(self, n: int, seed: int) -> Examples:
        lengths = torch.randint(1, LENGTH + 1, (n, 1), generator=chance(seed))
        mask = (torch.arange(LENGTH) < lengths).long()
        words = torch.randint(1, WORDS, (n, LENGTH), generator=chance(seed + 10)) * mask
        return Examples({"input_ids": words, "attention_mask": mask}, (words[:, 0] > 5).long())

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, targets)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        return {"accuracy": float((outputs.logits.argmax(1) == targets).float().mean())}


class Pixels(Tokens):
    """Images of bytes; the model makes numbers of them."""

    def model(self) -> nn.Module:
        class Scaled(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.float().div(255)

        return nn.Sequential(
            Scaled(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        )

    def _sentences(self, n: int, seed: int) -> Examples:
        images = torch.randint(0, 256, (n, 3, 6, 6), generator=chance(seed), dtype=torch.uint8)
        return Examples(images, (images[:, 0].float().mean((1, 2)) > 127).long())

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}


class Measured(Tokens):
    """A tuple of doubles and of truth values in; a dict out, against targets of two kinds."""

    def model(self) -> nn.Module:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.amount, self.kind = nn.Linear(5, 2), nn.Linear(5, 3)

            def forward(self, numbers: Tensor, known: Tensor) -> dict[str, Tensor]:
                given = torch.where(known, numbers, 0.0).float()
                return {"amount": self.amount(given), "kind": self.kind(given)}

        return Two()

    def _sentences(self, n: int, seed: int) -> Examples:
        numbers = torch.randn((n, 5), generator=chance(seed), dtype=torch.float64)
        known = torch.rand((n, 5), generator=chance(seed + 10)) < 0.7
        targets = {"amount": numbers[:, :2].float(), "kind": numbers[:, :3].argmax(1)}
        return Examples((numbers, known), targets)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        amounts = nn.functional.mse_loss(outputs["amount"], targets["amount"])
        return amounts + nn.functional.cross_entropy(outputs["kind"], targets["kind"])

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        right = outputs["kind"].argmax(1) == targets["kind"]
        return {"accuracy": float(right.float().mean())}


class Tagged(Tokens):
    """A class for every word: targets (n, length)."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 5))

    def _sentences(self, n: int, seed: int) -> Examples:
        words = torch.randint(0, WORDS, (n, LENGTH), generator=chance(seed))
        return Examples(words, words % 5)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.transpose(1, 2), targets)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(2) == targets).float().mean())}


class Longest(Tokens):
    """Cuts a batch where its longest sentence ends, and counts what is left: others' padding."""

    def model(self) -> nn.Module:
        class Cut(Reader):
            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scored:
                longest = int(attention_mask.sum(1).max().clamp(min=1))
                return Scored(self.head(self.words(input_ids[:, :longest] % WORDS).mean(1)))

        return Cut()


class Judging(Tokens):
    """The model gives the loss of the batch besides, as Hugging Face's do that are given labels."""

    def model(self) -> nn.Module:
        class Judge(Reader):
            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scored:
                found = super().forward(input_ids, attention_mask)
                return Scored(found.logits, loss=found.logits.mean())

        return Judge()


KINDS = (Tokens, Pixels, Measured, Tagged)
