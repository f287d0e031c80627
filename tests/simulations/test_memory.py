"""Data sets and batches that are larger than the memory there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BATCH_OF_2000 = """
import resource, sys
import torch
from torch import nn
from privet import Examples, Execution, Experiment
from privet.simulations.run import simulate


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(2))
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.short(x))


class Wide:
    def __init__(self, **options):
        pass

    def model(self):
        # ResNet-18: 11.3 million weights, all trained.
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        blocks = [
            Block(a, b, 2 if a < b else 1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        stem = nn.Conv2d(3, 64, 3, 1, 1)
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)
        return nn.Sequential(stem, *blocks, *head)

    def train_data(self):
        generator = torch.Generator().manual_seed(1)
        return Examples(torch.rand((2000, 3, 8, 8), generator=generator), torch.arange(2000) % 10)

    def test_data(self):
        return None

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs, targets):
        return {}


if __name__ == "__main__":
    settings = {
        "task": "wide_task:Wide",
        "rounds": 1,
        "federation": {"silos": 1},
        "training": {"batch_size": 2000, "steps": 1},
        "privacy": {"noise_multiplier": 1.0},
    }
    simulate(Experiment.from_mapping(settings), out=sys.argv[1])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_poisson_batch_of_2000_through_a_resnet_18_takes_less_than_2_gb(tmp_path: Path) -> None:
    script = tmp_path / "wide_task.py"
    script.write_text(
        BATCH_OF_2000.replace("out=sys.argv[1]", "out=__import__('pathlib').Path(sys.argv[1])")
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2000


FOLDER = """
import resource, sys
from pathlib import Path
from privet import Experiment
from privet.simulations.run import simulate
import privet.simulations.apps, privet.privacy.mechanisms.per_example  # loaded before the limit

used = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")][0] * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
settings = {
    "task": "lazy_tasks:Folder",
    "rounds": 1,
    "federation": {"silos": 2},
    "training": {"batch_size": 256, "steps": 4, "augmentations": 2},
    "privacy": {"noise_multiplier": 1.0},
    "evaluation": {"holdout": 0.1},
}
told = simulate(
    Experiment.from_mapping(settings), out=Path(sys.argv[1]), data_dir=Path(sys.argv[2])
)
print(told["rounds"])
"""


def test_a_folder_of_20_000_images_that_is_larger_than_the_processs_memory(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for place in range(20_000):  # 49 kB each: 983 MB in all
        np.save(
            folder / f"{place:05d}-{place % 2}.npy", rng.integers(0, 256, (3, 128, 128), np.uint8)
        )
    try:
        done = subprocess.run(
            [sys.executable, "-c", FOLDER, tmp_path / "run", folder],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # tests/support as well
        )
    finally:
        for path in folder.iterdir():
            path.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"
