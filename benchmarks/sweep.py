"""`privet sweep` against the same runs without it.

    python benchmarks/sweep.py             the bar: 6 epsilons x 5 seeds, without baselines and with
    python benchmarks/sweep.py --overhead  the harness against a bare loop, one process each

Every measurement is a whole process, imports included. The loop prepares and runs each experiment
by the same function, in a folder of its own, and does nothing else; CPU time is that of the process
and its workers.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENT = """\
task = "digits"
rounds = 40
seed = 7
[federation]
silos = 10
[training]
batch_size = 72
lr = 1.0
"""

LOOP = """
import sys
from pathlib import Path
from privet.experiment import Experiment
from privet.record.history import look_away
from privet.simulations.prepare import prepare
from privet.simulations.run import Execution, run_prepared
base = Experiment.from_file(Path(sys.argv[1]))
for epsilon in map(float, sys.argv[3].split(",")):
    for seed in range(7, 7 + int(sys.argv[4])):
        prepared = prepare(base.with_settings({"privacy.epsilon": epsilon, "seed": seed}))
        out = Path(sys.argv[2]) / f"{epsilon}-{seed}"
        run_prepared(prepared, out=out, execution=Execution(), resume=False, watch=look_away)
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, sum(getattr(after, t) - getattr(before, t) for t in ("ru_utime", "ru_stime"))


def sweep(folder: Path, *, epsilons: str, seeds: int, options: list[str]) -> tuple[float, float]:
    out = tempfile.mkdtemp(dir=folder)
    privet = [sys.executable, "-m", "privet", "sweep", str(folder / "experiment.toml")]
    asked = ["--epsilon", epsilons, "--seeds", str(seeds), "--out", out, "--quiet"]
    return measured([*privet, *asked, *options])


def loop(folder: Path, *, epsilons: str, seeds: int) -> tuple[float, float]:
    out = tempfile.mkdtemp(dir=folder)
    file = str(folder / "experiment.toml")
    return measured([sys.executable, "-c", LOOP, file, out, epsilons, str(seeds)])


def bar(folder: Path) -> None:
    print(f"6 epsilons x 5 seeds, digits, 10 silos, 40 rounds, {os.cpu_count()} cores")
    for name in ("none", "all"):
        options = ["--baselines", name]
        wall, cpu = sweep(folder, epsilons="0.5,1,2,4,8,inf", seeds=5, options=options)
        print(f"--baselines {name:<5} {wall:6.1f} s, {cpu:6.1f} s of CPU", flush=True)


def overhead(folder: Path, repetitions: int) -> None:
    epsilons, seeds = "1,8,inf", 3
    ratios: list[tuple[float, float]] = []
    for _ in range(repetitions):
        bare = loop(folder, epsilons=epsilons, seeds=seeds)
        options = ["--baselines", "none", "--workers", "1"]
        whole = sweep(folder, epsilons=epsilons, seeds=seeds, options=options)
        ratios.append((whole[0] / bare[0], whole[1] / bare[1]))
        print(
            f"loop {bare[0]:.1f} s ({bare[1]:.1f} s of CPU), "
            f"sweep {whole[0]:.1f} s ({whole[1]:.1f} s of CPU)",
            flush=True,
        )
    for name, values in zip(("wall", "CPU"), zip(*ratios, strict=True), strict=True):
        print(f"overhead in {name} time: {100 * (statistics.median(values) - 1):+.1f} % (median)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
        if options.overhead:
            overhead(folder, options.repetitions)
        else:
            bar(folder)


if __name__ == "__main__":
    main()
