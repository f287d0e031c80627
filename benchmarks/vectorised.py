"""Many clients' local training at once, against loops over the clients; then whole runs.

An MLP 784-64-10 with 50,890 weights; clients of 600 examples in the shape of MNIST, batch 50, 12
steps; DP-SGD with noise multiplier 1 and clip 1 over Poisson batches.

    python benchmarks/vectorised.py             50 clients: updates per second in one process
    python benchmarks/vectorised.py --whole     `privet simulate` from start to end: 100 clients,
                                                20 a round, 20 rounds; MNIST if PRIVET_DATA is set

Torch's operations run in one thread each; training together draws its noise in one more (`taskset
-c 0` takes that away). The loops with Opacus are the usual one, with a new PrivacyEngine and its
data loader in every round, and the quickest one, with a model that is wrapped once and records that
are indexed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pairs import in_turn, median, ratio
from torch import Tensor, nn
from torch.nn import functional as F

CLIENTS, EXAMPLES, BATCH, STEPS, LR = 50, 600, 50, 12, 0.1
AT_ONCE = 10

Silos = list[tuple[Tensor, Tensor]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))


def pictures(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 1, 28, 28, generator=generator)
    return inputs, torch.randint(0, 10, (n,), generator=generator)


class Pictures:
    """Random pictures of 28 x 28 in ten classes, for 100 clients and a test, and the MLP."""

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:
        self.inputs, self.targets = pictures(70_000)

    def model(self) -> nn.Module:
        return mlp()

    def train_data(self) -> object:
        from privet import Examples

        return Examples(self.inputs[:60_000], self.targets[:60_000])

    def test_data(self) -> object:
        from privet import Examples

        return Examples(self.inputs[60_000:], self.targets[60_000:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}


def ours(silos: Silos, *, private: bool, together: bool) -> Callable[[], None]:
    """privet's own training, of ten clients at a time or of one."""
    from privet import Examples
    from privet.client.training import LocalPlan, LocalTraining, loss_of, train
    from privet.experiment import TrainingSettings
    from privet.privacy.mechanisms import DpSgd, SeededNoise
    from privet.privacy.mechanisms.batched import chain_of
    from privet.randomness import numpy_generator, stream
    from privet.simulations.vectorised import ways_to_train
    from privet.vectors import FlatModel

    task, flat = Pictures.__new__(Pictures), FlatModel(mlp())
    plan = DpSgd.over(EXAMPLES, batch_size=BATCH, epochs=1, noise_multiplier=1.0, clip=1.0)
    chain, weights = chain_of(flat.module, silos[0][0]), flat.vector()

    def work(silo: int) -> LocalTraining:
        return LocalTraining(
            lambda: flat,
            loss_of(task, TrainingSettings()),  # type: ignore[arg-type]
            Examples(*silos[silo]),
            weights,
            plan=LocalPlan(STEPS, BATCH, plan if private else None),
            training=TrainingSettings(),
            lr=LR,
            noise=partial(SeededNoise, stream(1, "noise", silo)),
            draws=numpy_generator(stream(1, "batches", silo)),
        )

    def run() -> None:
        works = [work(silo) for silo in range(len(silos))]
        if not together:
            for each in works:
                train(each)
        for start in range(0, len(works) if together else 0, AT_ONCE):
            for trained in ways_to_train(chain, works[start : start + AT_ONCE]):
                trained()

    return run


def usual_opacus(silos: Silos) -> Callable[[], None]:
    """A new engine, wrapper and loader for every client, as in Flower's example."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    def run() -> None:
        for inputs, targets in silos:
            model = mlp()
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            loader = DataLoader(TensorDataset(inputs, targets), batch_size=BATCH)
            wrapped, private, batches = PrivacyEngine().make_private(
                module=model,
                optimizer=optimizer,
                data_loader=loader,
                noise_multiplier=1.0,
                max_grad_norm=1.0,
            )
            for x, y in batches:
                private.zero_grad()
                F.cross_entropy(wrapped(x), y).backward()
                private.step()

    return run


def quickest_opacus(silos: Silos) -> Callable[[], None]:
    """One wrapped model for all clients, and no loader."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(mlp())
    start = nn.utils.parameters_to_vector(wrapped.parameters()).detach()

    def run() -> None:
        for inputs, targets in silos:
            nn.utils.vector_to_parameters(start.clone(), wrapped.parameters())
            optimizer = DPOptimizer(
                torch.optim.SGD(wrapped.parameters(), lr=LR),
                noise_multiplier=1.0,
                max_grad_norm=1.0,
                expected_batch_size=BATCH,
            )
            for _ in range(STEPS):
                batch = torch.nonzero(torch.rand(EXAMPLES) < BATCH / EXAMPLES).flatten()
                optimizer.zero_grad()
                F.cross_entropy(wrapped(inputs[batch]), targets[batch]).backward()
                optimizer.step()

    return run


def plain_loop(silos: Silos) -> Callable[[], None]:
    """SGD without privacy."""
    model = mlp()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def run() -> None:
        for inputs, targets in silos:
            nn.utils.vector_to_parameters(start.clone(), model.parameters())
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            for batch in torch.randperm(EXAMPLES).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()

    return run


def compare_training(runs: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    inputs, targets = pictures(CLIENTS * EXAMPLES)
    silos = list(zip(inputs.split(EXAMPLES), targets.split(EXAMPLES), strict=True))
    ways = {
        "DP-SGD, together": ours(silos, private=True, together=True),
        "DP-SGD, one by one": ours(silos, private=True, together=False),
        "DP-SGD, Opacus as usual": usual_opacus(silos),
        "DP-SGD, Opacus at its quickest": quickest_opacus(silos),
        "plain, together": ours(silos, private=False, together=True),
        "plain, one by one": ours(silos, private=False, together=False),
        "plain, loop": plain_loop(silos),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if number:  # the first is to get warm
                seconds[name].append(time.perf_counter() - start)
    first = seconds["DP-SGD, together"]
    for name, taken in seconds.items():
        times = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        rate = CLIENTS / statistics.median(taken)
        print(f"{name:<31} {rate:6.1f} updates/s   {times:5.2f} x the time of the first")


def whole_run(engine: str, workers: str) -> float:
    """Seconds of the command, as a shell would measure them."""
    task = '"mnist"\nmodel = "mlp"' if "PRIVET_DATA" in os.environ else '"vectorised:Pictures"'
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "experiment.toml"
        file.write_text(
            f"task = {task}\nrounds = 20\n"
            "[federation]\nsilos = 100\nparticipation = 0.2\n"
            f"[training]\nbatch_size = {BATCH}\nlr = {LR}\n"
            "[privacy]\nnoise_multiplier = 1.0\nclip = 1.0\n"
        )
        command = [sys.executable, "-m", "privet", "simulate", str(file), "--quiet"]
        options = ["--engine", engine, "--workers", workers, "--out", f"{folder}/run"]
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        start = time.perf_counter()
        subprocess.run([*command, *options], check=True, env=path)
        return time.perf_counter() - start


def compare_whole_runs(runs: int) -> None:
    pairs = [(engine, workers) for workers in "12" for engine in ("vectorised", "in-process")]
    ways = {f"{e}, workers {w}": ["--way", e, "--workers", w] for e, w in pairs}
    rows = in_turn(__file__, ways, runs=runs)
    for name, taken in rows.items():
        times = ratio(taken, rows["vectorised, workers 1"], "seconds")
        print(f"{name:<24} {median(taken, 'seconds'):6.2f} s   {times:5.2f} x the first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--way")
    parser.add_argument("--workers", default="1")
    options = parser.parse_args()
    if options.way:
        print(json.dumps({"seconds": whole_run(options.way, options.workers)}))
    elif options.whole:
        compare_whole_runs(options.runs)
    else:
        compare_training(options.runs)


if __name__ == "__main__":
    main()
