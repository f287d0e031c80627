"""DP-SGD on a GPU: privet, Opacus and a bare loop without privacy, held against the CPU first.

    python benchmarks/gpu.py [--precision bf16] [--device cuda]

    resnet    ResNet-18 with GroupNorm, 11.2 M weights, images 3 x 32 x 32, batches of 256
    adapter   rank-8 adapters on the queries and values of a frozen encoder as large as BERT
              (12 layers of 768), 64 tokens, batches of 32
    silos     a thousand silos' MLPs 784-64-10, stacked and one by one

What privet trains on the CPU and on the device, on a few records and from the same seed, has to
agree to 1 % of the update's norm (10 % in bfloat16); a difference ends the benchmark with 1. Where
there is no GPU a line says so, and the exit code is 2. Figures have not been taken yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privet.client.training import LocalPlan, LocalTraining, train
from privet.devices import CPU, Device, chosen
from privet.errors import PrivetError
from privet.experiment import TrainingSettings
from privet.privacy.mechanisms import DpSgd, ExampleLoss, SeededNoise
from privet.privacy.mechanisms.batched import OptimizerSettings, Row, chain_of, train_rows
from privet.randomness import numpy_generator, stream
from privet.tasks import Examples
from privet.vectors import FlatModel

LR, CLIP, NOISE = 0.05, 1.0, 1.0
LOSS = ExampleLoss(F.cross_entropy, separable=True)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(32, outputs) for _ in range(2))
        same = inputs == outputs
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        inner = F.relu(self.norms[0](self.first(values)))
        return F.relu(self.norms[1](self.second(inner)) + self.short(values))


def resnet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(32, 64)]
    before = 64
    for width in (64, 128, 256, 512):
        stride = 1 if width == 64 else 2
        layers += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Adapted(nn.Module):
    """A frozen linear layer, and a product of two small ones that trains."""

    def __init__(self, width: int, rank: int = 8) -> None:
        super().__init__()
        self.fixed = nn.Linear(width, width).requires_grad_(False)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, values: Tensor) -> Tensor:
        return self.fixed(values) + self.up(self.down(values))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value = Adapted(width), Adapted(width)
        self.key, self.out = (nn.Linear(width, width).requires_grad_(False) for _ in range(2))
        wide = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.wide = nn.Sequential(*wide).requires_grad_(False)
        self.first, self.second = (nn.LayerNorm(width).requires_grad_(False) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        parts = self.query(values), self.key(values), self.value(values)
        split = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts]
        seen = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        values = self.first(values + self.out(seen))
        return self.second(values + self.wide(values))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, layers: int = 12, width: int = 768, words: int = 30_522) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width).requires_grad_(False)
        self.layers = nn.Sequential(*(Layer(width, width // 64) for _ in range(layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layers(self.table(words)).mean(1))  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))


def images(n: int) -> Examples:
    return Examples(torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,)))


def texts(n: int) -> Examples:
    return Examples(torch.randint(0, 30_522, (n, 64)), torch.randint(0, 2, (n,)))


def seconds(run: Callable[[], object], device: Device, *, steps: int) -> float:
    """Of a step: the median of three runs, after one that warms up."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        if not device.on_cpu:
            torch.accelerator.synchronize()
        taken.append((time.perf_counter() - start) / steps)
    return statistics.median(taken[1:])


def private(
    flat: FlatModel, examples: Examples, device: Device, *, batch: int, steps: int
) -> np.ndarray:
    """privet's local training from the seed; its update."""
    plan = DpSgd(NOISE, CLIP, sampling_rate=batch / len(examples), steps=steps, batch_size=batch)
    work = LocalTraining(
        lambda: flat,
        LOSS,
        examples.on(device),
        flat.vector(),
        LocalPlan(steps, batch, plan),
        TrainingSettings(),
        LR,
        noise=lambda: SeededNoise(stream(1, "noise")),
        draws=numpy_generator(stream(1, "batches")),
        device=device,
    )
    found = train(work).update
    flat.load(work.weights)
    return found


def bare(
    model: nn.Module, examples: Examples, device: Device, *, batch: int, steps: int, opacus: bool
) -> None:
    """The usual loop, without privacy or with Opacus' engine."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, lr=LR)
    inputs, targets = device.moved((examples.inputs, examples.targets))
    if opacus:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model = GradSampleModule(model)
        optimizer = DPOptimizer(
            optimizer, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=batch
        )
    for step in range(steps):
        rows = torch.arange(step * batch, (step + 1) * batch, device=inputs.device) % len(inputs)
        optimizer.zero_grad()
        with device.passes():
            outputs = model(inputs[rows])
        F.cross_entropy(device.told(outputs), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if isinstance(model, nn.Module) and hasattr(model, "to_standard_module"):
        model.to_standard_module()


def agree(name: str, own: np.ndarray, its: np.ndarray, device: Device) -> None:
    off = float(np.linalg.norm(own - its) / np.linalg.norm(own))
    most = 0.01 if device.precision == "float32" else 0.1
    print(f"{name}: update against the CPU's, relative: {off:.1e}")
    if not off < most:
        sys.exit(
            f"{name}: {off:.1e} is more than {most:g}: the device does not do what the CPU does"
        )


def compare(
    name: str,
    make: Callable[[], nn.Module],
    records: Callable[[int], Examples],
    device: Device,
    *,
    batch: int,
    steps: int,
) -> None:
    torch.manual_seed(0)
    here, few, many = FlatModel(make()), records(16), records(4 * batch)
    there = here.on(device)
    small = partial(private, examples=few, batch=4, steps=2)
    agree(name, small(here, device=CPU), small(there, device=device), device)
    how = {"examples": many, "device": device, "batch": batch, "steps": steps}
    ways: dict[str, Callable[[], object]] = {
        "bare loop": partial(bare, device.twin(here.module), opacus=False, **how),  # type: ignore[arg-type]
        "Opacus": partial(bare, device.twin(here.module), opacus=True, **how),  # type: ignore[arg-type]
        "privet": partial(private, there, **how),  # type: ignore[arg-type]
    }
    found = {way: seconds(run, device, steps=steps) for way, run in ways.items()}
    for way, taken in found.items():
        print(f"{name}: {way:9} {1e3 * taken:8.2f} ms a step, {taken / found['bare loop']:.2f} x")


def silos(device: Device, *, count: int) -> None:
    """Stacked, and silo by silo with the model that is there."""
    torch.manual_seed(0)
    model, per_silo, batch, steps = mlp(), 600, 50, 12
    flat, chain = FlatModel(model), chain_of(model, torch.zeros(2, 784))
    inputs = torch.randn(count, per_silo, 784)
    targets = torch.randint(0, 10, (count, per_silo))
    plan = DpSgd(NOISE, CLIP, sampling_rate=batch / per_silo, steps=steps, batch_size=batch)

    def rows(where: Device, some: int) -> list[Row]:
        placed = [where.moved((inputs[n], targets[n])) for n in range(some)]
        return [
            Row(
                flat.vector(),
                *placed[n],
                list(plan.batches(per_silo, numpy_generator(stream(1, "batches", n)))),
                LR,
                plan=plan,
                noise=SeededNoise(stream(1, "noise", n)),
            )
            for n in range(some)
        ]

    def stacked(where: Device, some: int, size: int) -> list[np.ndarray]:
        every, found = rows(where, some), []
        for first in range(0, some, size):
            part = every[first : first + size]
            done = train_rows(chain, part, LOSS, optimizer=OptimizerSettings(), device=where)
            found += [each.update for each in done]
        return found

    own, its = stacked(CPU, 8, 8), stacked(device, 8, 8)
    agree("silos", np.concatenate(own), np.concatenate(its), device)
    for size in (1, 10, 256):
        taken = seconds(partial(stacked, device, count, size), device, steps=1)
        print(f"silos: {size:3} at once  {count / taken:10,.0f} updates a second")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--device", default="auto")
    options.add_argument("--precision", default="float32")
    options.add_argument("--silos", type=int, default=1000)
    given = options.parse_args()
    try:
        device = chosen(given.device, given.precision)
    except PrivetError as error:
        print(f"privet: {error}", file=sys.stderr)
        sys.exit(2)
    if device.on_cpu:
        print("There is no GPU here: nothing is measured.", file=sys.stderr)
        sys.exit(2)
    device.enter()
    print(f"{device}, torch {torch.__version__}")
    compare("resnet", resnet, images, device, batch=256, steps=8)
    compare("adapter", Encoder, texts, device, batch=32, steps=8)
    silos(device, count=given.silos)


if __name__ == "__main__":
    main()
