"""Loss and accuracy of a classifier, shared by the built-in tasks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class Classification:
    """Cross entropy and accuracy for outputs (n, classes) and int64 targets (n,)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a privacy figure for this task leaves out; nothing here."""
        return ()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over the batch, in nats."""
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """ "accuracy": the share of examples whose largest output is their class."""
        return {"accuracy": (outputs.argmax(dim=1) == targets).float().mean().item()}
