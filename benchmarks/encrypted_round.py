"""A round in which the server sees sums only, against the same round in the clear.

LeNet with 62k parameters, 10 silos x 600 pictures of 32 x 32 x 3, batch 50, without differential
privacy, so that training is as quick as it gets. Seconds of a round at the median of the rounds
after the first, in which keys are made.

    python benchmarks/encrypted_round.py [--rounds 8]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from pairs import in_turn, median, ratio
from torch import Tensor, nn

SILOS, EXAMPLES = 10, 600
WAYS = {
    "clear": {},
    "sealed": {"encryption.scheme": "bfv", "encryption.pairwise_masks": False},
    "masked": {"encryption.scheme": "bfv"},
    "compact": {"encryption.scheme": "bfv", "encryption.profile": "compact"},
    "ckks": {"encryption.scheme": "ckks"},
}


class Pictures:
    """Random pictures in ten classes, and LeNet-5 for three colours."""

    def __init__(self, *, model: str | None, data_dir: Path | None) -> None:
        generator = torch.Generator().manual_seed(1)
        n = SILOS * EXAMPLES
        self.inputs = torch.randn(n, 3, 32, 32, generator=generator)
        self.targets = torch.randint(0, 10, (n,), generator=generator)

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip

    def train_data(self) -> object:
        from privet import Examples

        return Examples(self.inputs, self.targets)

    def test_data(self) -> None:
        return None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}


def run(way: str, rounds: int) -> None:
    from privet import Experiment
    from privet.record.folder import RunFolder
    from privet.simulations.run import simulate

    sys.modules["encrypted_round"] = sys.modules["__main__"]
    base = {"task": "encrypted_round:Pictures", "rounds": rounds}
    settings = {"federation.silos": SILOS, "training.batch_size": 50, "training.lr": 0.02}
    experiment = Experiment.from_mapping(base).with_settings({**settings, **WAYS[way]})
    with tempfile.TemporaryDirectory() as folder:
        simulate(experiment, out=Path(folder) / "run")
        entries = RunFolder(Path(folder) / "run").rounds()[2:]
    figures = {
        "round": statistics.median(entry.seconds.total or 0.0 for entry in entries),
        "up": entries[-1].bytes.up / SILOS,
        "down": entries[-1].bytes.down / SILOS,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way:
        run(options.way, options.rounds)
        return
    ways = {way: ["--way", way, "--rounds", str(options.rounds)] for way in WAYS}
    rows = in_turn(__file__, ways, runs=options.runs)
    print("                 round   ratio    up, bytes per silo   down")
    for way in WAYS:
        print(
            f"{way:<10}{1000 * median(rows[way], 'round'):9.0f} ms"
            f"{ratio(rows[way], rows['clear'], 'round'):8.2f}"
            f"{median(rows[way], 'up'):16,.0f}{median(rows[way], 'down'):14,.0f}"
        )


if __name__ == "__main__":
    main()
