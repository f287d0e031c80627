"""What a table's model is to predict: a class, a number, a place in an order, or when it happens.

Each says what the model's outputs are, their loss (a mean of terms of one example, so that clipping
means what it says), figures, and the answer of a model that says the same of everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from privet.metrics import ACCURACY, Metric
from privet.tasks import figures as of
from privet.tasks.figures import Confusion, ScoreCounts, TrueAgainst

Picture = Confusion | ScoreCounts | TrueAgainst
Columns = Mapping[str, npt.NDArray[np.generic]]
_MOST_DRAWN = 6
"""Classes up to which each has its curves."""
_TINY = 1e-6


class Objective(Protocol):
    """How outputs (n, width) are meant; targets are (n,)."""

    @property
    def width(self) -> int:
        """Outputs of one example."""
        ...

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        """What the figures are, the headline first."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch of a term of each example."""
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Figures by name."""
        ...

    def constant(self, targets: Tensor) -> Tensor:
        """The outputs of a model that says of everybody what is true of `targets` on the whole."""
        ...

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        """Counts to draw."""
        ...

    def answers(self, outputs: Tensor) -> Columns:
        """What the outputs say, by column of a table, (n,)."""
        ...


@dataclass(frozen=True)
class Classes:
    """One of several classes: cross entropy. Of two, the second is the one that scores are of."""

    names: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.names)

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        lower = Metric("ece", higher_is_better=False)
        overall = (ACCURACY, Metric("auc"), Metric("average_precision"), Metric("f1"))
        each = [Metric(f"{kind}_{name}") for kind in ("recall", "precision") for name in self.names]
        return (*overall, Metric("balanced_accuracy"), lower, *each)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        shares, truth = _shares(outputs), targets.numpy()
        said = outputs.argmax(dim=1)
        found = _class_figures(self.names, shares, said.numpy(), truth)
        # The same bits as of every other classifier here.
        found["accuracy"] = (said == targets).float().mean().item()
        scored = (len(self.names) - 1,) if len(self.names) == 2 else range(len(self.names))
        pairs = [(shares[:, place], truth == place) for place in scored if (truth == place).any()]
        for name, figure in (("auc", of.auc), ("average_precision", of.average_precision)):
            values = [figure(*pair) for pair in pairs]
            found[name] = float(np.mean(values)) if values else float("nan")
        return found

    def constant(self, targets: Tensor) -> Tensor:
        counts = torch.bincount(targets, minlength=len(self.names)).double()
        return (counts / counts.sum()).clamp(min=1e-9).log().float().expand(len(targets), -1)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        shares, truth = _shares(outputs), targets.numpy()
        counts = of.confusion(truth, outputs.argmax(dim=1).numpy(), len(self.names))
        many = len(self.names)
        scored = [1] if many == 2 else range(many if many <= _MOST_DRAWN else 0)
        scores = [
            of.score_counts(shares[:, p], truth == p, name=self.names[p], bins=of.SCORE_BINS)
            for p in scored
        ]
        return [Confusion([*self.names], counts.tolist()), *scores]

    def answers(self, outputs: Tensor) -> Columns:
        shares = torch.softmax(outputs.detach(), dim=1).numpy()
        likeliest = np.array(self.names, dtype=object)[outputs.argmax(dim=1).numpy()]
        named = zip(self.names, shares.T, strict=True)
        return {"prediction": likeliest, **{f"probability_{name}": each for name, each in named}}


def _shares(outputs: Tensor) -> of.Floats:
    return torch.softmax(outputs.detach().double(), dim=1).numpy()


def _class_figures(
    names: tuple[str, ...], shares: of.Floats, predicted: of.Ints, truth: of.Ints
) -> dict[str, float]:
    precision, recall, f1 = of.by_class(counts := of.confusion(truth, predicted, len(names)))
    there = counts.sum(axis=1) > 0
    right = predicted == truth
    return {
        "accuracy": float(right.mean()),
        "f1": float(f1[-1]) if len(names) == 2 else float(f1.mean()),
        "balanced_accuracy": float(recall[there].mean()) if there.any() else float("nan"),
        "ece": of.calibration_error(shares[np.arange(len(shares)), predicted], right),
        **of.labels(names, "recall", recall),
        **of.labels(names, "precision", precision),
    }


@dataclass(frozen=True)
class Number:
    """A number, in a declared range: targets are scaled by it and never clipped.

    "squared" and "absolute" predict (y - middle) / half of the range, "poisson" the logarithm of
    y / highest, of values that are not negative.
    """

    kind: Literal["squared", "absolute", "poisson"]
    low: float
    high: float
    unit: str = ""

    @property
    def width(self) -> int:
        return 1

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        rmse = Metric("rmse", higher_is_better=False, unit=self.unit)
        mae = Metric("mae", higher_is_better=False, unit=self.unit)
        first, second = (mae, rmse) if self.kind == "absolute" else (rmse, mae)
        return (first, second, Metric("r2"))

    def scaled(self, values: of.Floats) -> of.Floats:
        """Targets as the loss takes them."""
        if self.kind == "poisson":
            return values / self.high
        return (values - (self.low + self.high) / 2) / ((self.high - self.low) / 2)

    def meant(self, scaled: of.Floats) -> of.Floats:
        """The reverse."""
        if self.kind == "poisson":
            return scaled * self.high
        return scaled * ((self.high - self.low) / 2) + (self.low + self.high) / 2

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        said = outputs[:, 0]
        if self.kind == "squared":
            return F.mse_loss(said, targets)
        if self.kind == "absolute":
            return F.l1_loss(said, targets)
        return F.poisson_nll_loss(said, targets, log_input=True)

    def _said(self, outputs: Tensor) -> of.Floats:
        values = outputs[:, 0].double()
        return self.meant((values.exp() if self.kind == "poisson" else values).detach().numpy())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return of.regression(self.meant(targets.double().numpy()), self._said(outputs))

    def constant(self, targets: Tensor) -> Tensor:
        mean = targets.double().mean()
        said = mean.clamp(min=_TINY).log() if self.kind == "poisson" else mean
        return said.expand(len(targets), 1)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        truth = self.meant(targets.double().numpy())
        return [of.against(truth, self._said(outputs), unit=self.unit)]

    def answers(self, outputs: Tensor) -> Columns:
        return {"prediction": self._said(outputs)}


@dataclass(frozen=True)
class Ordinal:
    """A class in an order: output k is the log odds of more than class k, once it is not less.

    A continuation-ratio model: the terms of an example are those of the steps that it took, and the
    probabilities of the classes are in order whatever the outputs are.
    """

    names: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.names) - 1

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        steps = Metric("mean_steps", higher_is_better=False, unit="steps")
        return (steps, *Classes(self.names).declared_metrics)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        steps = torch.arange(self.width, device=outputs.device)
        further = (targets[:, None] > steps).to(outputs.dtype)
        taken = (targets[:, None] >= steps).to(outputs.dtype)
        terms = F.binary_cross_entropy_with_logits(outputs, further, reduction="none")
        return (terms * taken).sum(dim=1).mean()

    def _log_shares(self, outputs: Tensor) -> Tensor:
        values = outputs.double()
        stay = F.logsigmoid(-values)
        go = F.pad(F.logsigmoid(values).cumsum(dim=1), (1, 0))
        return go + F.pad(stay, (0, 1))

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        logs = self._log_shares(outputs)
        steps = (logs.argmax(dim=1) - targets).abs().double().mean().item()
        return {"mean_steps": steps, **Classes(self.names).metrics(logs, targets)}

    def constant(self, targets: Tensor) -> Tensor:
        least = torch.arange(self.width)
        there = (targets[:, None] >= least).sum(dim=0)
        further = (targets[:, None] > least).sum(dim=0)
        odds = (further / there.clamp(min=1)).clamp(_TINY, 1 - _TINY).logit()
        return odds.expand(len(targets), -1)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:
        return Classes(self.names).pictures(self._log_shares(outputs), targets)

    def answers(self, outputs: Tensor) -> Columns:
        return Classes(self.names).answers(self._log_shares(outputs))


@dataclass(frozen=True)
class Survival:
    """When an event comes, in intervals that end at `edges`: output k is the log odds of it in
    interval k for who reached that.

    Targets are 2 k + 1 for an event in interval k, 2 k for one who left in it, and count as there
    up to its start; 2 T for who was there at the last edge. The loss is the discrete-time
    likelihood (Singer and Willett 1993).
    """

    edges: tuple[float, ...]

    @property
    def width(self) -> int:
        return len(self.edges)

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        return (Metric("c_index"), Metric("brier", higher_is_better=False))

    def targets(self, times: of.Floats, event: of.Flags) -> of.Ints:
        """Times and whether it happened then, as one number each."""
        interval = np.searchsorted(self.edges, times, side="right")
        found: of.Ints = 2 * interval + (event & (interval < self.width))
        return found

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        until, event = targets[:, None] // 2, (targets[:, None] % 2).to(outputs.dtype)
        interval = torch.arange(self.width, device=outputs.device)
        now = (interval == until).to(outputs.dtype) * event
        there = (interval < until).to(outputs.dtype) + now
        terms = F.binary_cross_entropy_with_logits(outputs, now, reduction="none")
        return (terms * there).sum(dim=1).mean()

    def _survival(self, outputs: Tensor) -> of.Floats:
        return F.logsigmoid(-outputs.detach().double()).cumsum(dim=1).exp().numpy()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        until, event = targets.numpy() // 2, targets.numpy() % 2 == 1
        survival = self._survival(outputs)
        return {
            "c_index": of.concordance(-survival.sum(axis=1), until, event),
            "brier": of.brier(survival, until, event),
        }

    def constant(self, targets: Tensor) -> Tensor:
        until, event = targets[:, None] // 2, targets[:, None] % 2 == 1
        interval = torch.arange(self.width)
        now = ((interval == until) & event).sum(dim=0)
        there = (interval < until).sum(dim=0) + now
        hazard = (now / there.clamp(min=1)).clamp(_TINY, 1 - _TINY)
        return hazard.logit().expand(len(targets), -1)

    def pictures(self, outputs: Tensor, targets: Tensor) -> list[Picture]:  # noqa: ARG002
        return []

    def answers(self, outputs: Tensor) -> Columns:
        survival = self._survival(outputs)
        named = zip(self.edges, survival.T, strict=True)
        expected = {"prediction": survival.sum(axis=1)}
        return {**expected, **{f"survival_{edge:g}": each for edge, each in named}}
