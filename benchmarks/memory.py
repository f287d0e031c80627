"""Peak memory of the coordinator: 10 against 500 silos in a round, 5 million parameters.

Every strategy that is a sum keeps one running sum, so the ratio stays near one.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

import torch
from pairs import in_turn, median
from torch import Tensor, nn

WIDTH = 2236  # WIDTH^2 is 5.0 million
STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg")


class Wide:
    """A task with next to no data and a model of five million parameters."""

    def __init__(self, *, model: str | None, data_dir: Path | None, silos: int) -> None:
        self._silos = silos

    def model(self) -> nn.Module:
        return nn.Linear(WIDTH, WIDTH, bias=False)

    def train_data(self) -> object:
        from privet import Examples

        return Examples(torch.ones(self._silos, WIDTH), torch.zeros(self._silos, dtype=torch.long))

    def test_data(self) -> None:
        return None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {}


def run(strategy: str, silos: int) -> None:
    from privet import Experiment
    from privet.simulations.run import simulate

    sys.path.insert(0, str(Path(__file__).parent))
    experiment = Experiment.from_mapping(
        {
            "task": "memory:Wide",
            "rounds": 1,
            "data": {"silos": silos},
            "federation": {"silos": silos},
            "strategy": {"name": strategy},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        simulate(experiment, out=Path(folder) / "run")
    print(json.dumps({"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--strategy")
    parser.add_argument("--silos", type=int)
    options = parser.parse_args()
    if options.strategy:
        run(options.strategy, options.silos)
        return
    print("peak RSS, MiB: 5M parameters, all silos in every round")
    for strategy in STRATEGIES:
        ways = {str(silos): ["--strategy", strategy, "--silos", str(silos)] for silos in (10, 500)}
        rows = in_turn(__file__, ways, runs=options.runs)
        few, many = median(rows["10"], "mib"), median(rows["500"], "mib")
        print(
            f"{strategy:<12}10 silos {few:>7.0f}   500 silos {many:>7.0f}   ratio {many / few:.2f}"
        )


if __name__ == "__main__":
    main()
