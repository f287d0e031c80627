"""The whole framework against a bare for-loop doing the same training.

An MLP with 51k parameters, 20 clients x 600 examples, 20 rounds, batch 50; without differential
privacy and with it (Opacus hooks, sampling rate 1/12, 12 steps a round). The loop trains, averages
and evaluates; it sends no messages, keeps no accounts and writes nothing.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import torch
from pairs import in_turn, median, ratio
from torch import Tensor, nn

CLIENTS, EXAMPLES, ROUNDS, BATCH, LR = 20, 600, 20, 50, 0.1


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """Training pictures of all clients, then 1,000 to test on."""
    generator = torch.Generator().manual_seed(1)
    n = CLIENTS * EXAMPLES + 1000
    return torch.randn(n, 784, generator=generator), torch.randint(0, 10, (n,), generator=generator)


class Pictures:
    """Random pictures of 28 x 28 in ten classes, and the MLP."""

    def __init__(self, *, model: str | None, data_dir: Path | None) -> None:
        self.inputs, self.targets = pictures()

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    def train_data(self) -> object:
        from privet import Examples

        return Examples(self.inputs[:-1000], self.targets[:-1000])

    def test_data(self) -> object:
        from privet import Examples

        return Examples(self.inputs[-1000:], self.targets[-1000:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}


def framework(private: bool) -> float:
    """Seconds of a run through `simulate`."""
    from privet import Experiment
    from privet.simulations.run import simulate

    sys.path.insert(0, str(Path(__file__).parent))
    settings = {
        "task": "overhead:Pictures",
        "rounds": ROUNDS,
        "federation": {"silos": CLIENTS},
        "training": {"batch_size": BATCH, "lr": LR},
    }
    if private:
        settings["privacy"] = {"noise_multiplier": 1.0}
    experiment = Experiment.from_mapping(settings)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        simulate(experiment, out=Path(folder) / "run")
        return time.perf_counter() - start


def bare_loop(private: bool) -> float:
    """Seconds of the plainest code that does the same training."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    task = Pictures(model=None, data_dir=None)
    order = torch.randperm(CLIENTS * EXAMPLES)
    silos = [(task.inputs[part], task.targets[part]) for part in order.split(EXAMPLES)]
    model = task.model()
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    local = task.model()
    wrapped = GradSampleModule(local) if private else local
    for _ in range(ROUNDS):
        total = torch.zeros_like(weights)
        for inputs, targets in silos:
            nn.utils.vector_to_parameters(weights.clone(), local.parameters())
            optimizer: torch.optim.Optimizer = torch.optim.SGD(local.parameters(), lr=LR)
            if private:
                optimizer = DPOptimizer(
                    optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH
                )
                batches = [
                    torch.nonzero(torch.rand(EXAMPLES) < BATCH / EXAMPLES).flatten()
                    for _ in range(EXAMPLES // BATCH)
                ]
            else:
                batches = list(torch.randperm(EXAMPLES).split(BATCH))
            for batch in batches:
                optimizer.zero_grad()
                task.loss(wrapped(inputs[batch]), targets[batch]).backward()
                optimizer.step()
            total += nn.utils.parameters_to_vector(local.parameters()).detach()
        weights = total / CLIENTS
        nn.utils.vector_to_parameters(weights.clone(), model.parameters())
        with torch.no_grad():
            task.metrics(model(task.inputs[-1000:]), task.targets[-1000:])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--way", choices=["framework", "loop"])
    parser.add_argument("--private", action="store_true")
    options = parser.parse_args()
    if options.way:
        run = framework if options.way == "framework" else bare_loop
        print(json.dumps({"seconds": run(options.private)}))
        return
    for name, flag in (("without privacy", []), ("with DP-SGD", ["--private"])):
        ways = {way: ["--way", way, *flag] for way in ("framework", "loop")}
        rows = in_turn(__file__, ways, runs=options.runs)
        print(
            f"{name:<16} framework {median(rows['framework'], 'seconds'):6.2f} s"
            f"   loop {median(rows['loop'], 'seconds'):6.2f} s"
            f"   ratio {ratio(rows['framework'], rows['loop'], 'seconds'):.2f}"
        )


if __name__ == "__main__":
    main()
