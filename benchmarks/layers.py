"""A DP-SGD step over a plain one, for each kind of layer, and over Opacus' ways of the same step.

python benchmarks/layers.py [--pairs 15]

One thread, processor time. A plain step, ours and each of Opacus' follow each other, and ratios are
medians over such rounds. Ours draws its noise as a silo does, Opacus with torch's generator. Opacus
has its hooks, vmap and ghost clipping (which takes two backward passes, and not every layer).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from privet.privacy.mechanisms import DpSgd, ExampleLoss, SystemNoise, privatise

CLASSES, BATCH = 10, 64
Step = Callable[[], None]


class Lstm(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = kind(64, 128, batch_first=True), nn.Linear(128, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs)[0][:, -1])


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        n, places, width = inputs.shape
        parts = self.mix(self.first(inputs)).view(n, places, 3, self.heads, -1)
        seen = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        inputs = inputs + self.out(seen.transpose(1, 2).reshape(n, places, width))
        return inputs + self.outer(F.gelu(self.inner(self.second(inputs))))


class Last(nn.Module):
    """The mean over all places, to classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.mean(1))


def cnn() -> tuple[nn.Module, nn.Module, Tensor]:
    """Three convolutions with group norm on images of 32 x 32."""
    parts: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        norm = nn.GroupNorm(8, after)
        parts += [nn.Conv2d(before, after, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(1024, CLASSES))
    return model, model, torch.randn(BATCH, 3, 32, 32)


def lstm() -> tuple[nn.Module, nn.Module, Tensor]:
    """64 sequences of 50 steps, 128 units; Opacus has a layer of its own."""
    return Lstm(nn.LSTM), Lstm(DPLSTM), torch.randn(BATCH, 50, 64)


def transformer() -> tuple[nn.Module, nn.Module, Tensor]:
    """Two blocks of width 128."""
    model = nn.Sequential(nn.Linear(16, 128), Block(128, 4), Block(128, 4), Last(128))
    return model, model, torch.randn(32, 64, 16)


def embedding() -> tuple[nn.Module, nn.Module, Tensor]:
    """A table of 5,000 rows that trains, 40 words an example."""
    model = nn.Sequential(nn.Embedding(5000, 64), nn.Tanh(), Last(64))
    return model, model, torch.randint(0, 5000, (BATCH, 40))


def plain(model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def ours(model: nn.Module, inputs: Tensor, targets: Tensor, stack: ExitStack) -> Step:
    plan = DpSgd(noise_multiplier=1.0, clip=1.0, sampling_rate=0.1, steps=999, batch_size=BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    private = stack.enter_context(privatise(model, optimizer, plan=plan, noise=SystemNoise()))
    loss = ExampleLoss(F.cross_entropy, separable=True)

    def step() -> None:
        private.optimizer.zero_grad()
        private.backward(loss, private.model(inputs), targets)
        private.optimizer.step()

    return step


def opacus(model: nn.Module, inputs: Tensor, targets: Tensor, *, vmap: bool) -> Step:
    wrapped = GradSampleModule(model, force_functorch=vmap)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=BATCH,
    )
    return plain_with(wrapped, optimizer, F.cross_entropy, inputs, targets)


def ghost(model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=0.01),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=BATCH,
    )
    loss = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss())
    return plain_with(wrapped, optimizer, loss, inputs, targets)


def plain_with(
    model: nn.Module, optimizer: DPOptimizer, loss: Callable, inputs: Tensor, targets: Tensor
) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()

    return step


def ways(make: Callable, stack: ExitStack) -> Iterator[tuple[str, Step]]:
    """All that can take a step, the plain one first."""
    torch.manual_seed(0)
    model, theirs, inputs = make()
    targets = torch.randint(0, CLASSES, (len(inputs),))
    yield "plain", plain(copy.deepcopy(model), inputs, targets)
    yield "ours", ours(copy.deepcopy(model), inputs, targets, stack)
    for name, way in (
        ("hooks", lambda copied: opacus(copied, inputs, targets, vmap=False)),
        ("vmap", lambda copied: opacus(copied, inputs, targets, vmap=True)),
        ("ghost", lambda copied: ghost(copied, inputs, targets)),
    ):
        try:
            step = way(copy.deepcopy(theirs))
            step()
        except Exception as error:  # Opacus has not every layer in every mode
            print(f"  {name}: {type(error).__name__}")
        else:
            yield name, step


def measure(make: Callable, pairs: int) -> str:
    with ExitStack() as stack:
        steps = dict(ways(make, stack))
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(pairs + 2):
            for name, step in steps.items():
                began = time.process_time()
                step()
                if turn > 1:
                    seconds[name].append(time.process_time() - began)
    shown = [f"plain {statistics.median(seconds['plain']) * 1e3:7.1f} ms"]
    for name in list(seconds)[1:]:
        ratios = [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        shown.append(f"{name} x{statistics.median(ratios):.2f}")
    return "  ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for make in (cnn, lstm, transformer, embedding):
        if arguments.only in make.__name__:
            print(f"{make.__name__:12} {measure(make, arguments.pairs)}", flush=True)


if __name__ == "__main__":
    main()
