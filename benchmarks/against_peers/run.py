"""Seconds of whole processes on the same workloads: privet, bare loops, and the peers installed.

python benchmarks/against_peers/run.py --peers ~/peers
python benchmarks/against_peers/run.py --workloads AB --only privet bare --runs 5
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workloads import CLIP, NOISE_MULTIPLIER, WORKLOADS, Workload

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE)}
PEERS = {
    "pfl": ("pfl_simulation.py", "ABD"),
    "flower": ("flower_ray.py", "ABCD"),
    "nvflare": ("nvflare_simulator.py", "ABD"),
}
"""By name of the virtual environment: its script, and the workloads that it can do."""


@dataclass(frozen=True)
class Figures:
    """Of one run of one way: wall clock and processor seconds, and the accuracy at the end."""

    seconds: float
    processor: float
    accuracy: float


Way = Callable[[], Figures]


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall clock and processor seconds of a command and what it waited for, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used, done.stdout


def script(python: str, name: str, *arguments: str) -> Way:
    """A peer's script, which says its accuracy in the last line."""

    def run() -> Figures:
        seconds, used, said = timed([python, str(HERE / name), *arguments])
        return Figures(seconds, used, json.loads(said.splitlines()[-1])["accuracy"])

    return run


def privet(workload: Workload, workers: int) -> Way:
    def run() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "experiment.toml", Path(folder) / "run"
            file.write_text(settings(workload))
            options = ["--quiet", "--workers", str(workers), "--out", str(out)]
            command = [sys.executable, "-m", "privet", "simulate", str(file), *options]
            seconds, used, _ = timed(command)
            summary = json.loads((out / "summary.json").read_text())
        return Figures(seconds, used, summary["accuracy"])

    return run


def settings(workload: Workload) -> str:
    """The experiment file."""
    private = f"[privacy]\nnoise_multiplier = {NOISE_MULTIPLIER}\nclip = {CLIP}\n"
    return (
        f'task = "task:Clients"\nrounds = {workload.rounds}\n'
        f'[data]\nworkload = "{workload.name}"\n'
        f"[federation]\nparticipation = {workload.cohort / workload.clients}\n"
        f"[training]\nbatch_size = {workload.batch}\nlr = {workload.lr}\n"
        + (private if workload.private else "")
    )


def ways_of(workload: Workload, peers: Path | None) -> dict[str, Way]:
    """All that can be measured here."""
    ways: dict[str, Way] = {}
    for number in (1, 2):
        ways[f"privet, {number} process{'es' * (number - 1)}"] = privet(workload, number)
    for number in (1, 2):
        name = f"{number} process{'es' * (number - 1)}"
        bare = ("bare.py", workload.name, "--processes", str(number))
        ways[f"bare, {name}"] = script(sys.executable, *bare)
        if workload.private:
            ways[f"bare as Opacus's examples, {name}"] = script(sys.executable, *bare, "--usual")
    for peer, (file, able) in PEERS.items():
        python = peers / peer / "bin" / "python" if peers else None
        if python and python.exists() and workload.name in able:
            ways[peer] = script(str(python), file, workload.name)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder that install.sh filled")
    parser.add_argument("--workloads", default="ABCD")
    parser.add_argument("--only", nargs="+", help="first words of the ways to measure")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    for name in options.workloads:
        ways = {
            each: way
            for each, way in ways_of(WORKLOADS[name], options.peers).items()
            if not options.only or each.split(",")[0].split()[0] in options.only
        }
        found: dict[str, list[Figures]] = {each: [] for each in ways}
        for _ in range(options.runs):
            for each, way in ways.items():
                found[each].append(way())
        for each, figures in found.items():
            seconds = statistics.median(f.seconds for f in figures)
            processor = statistics.median(f.processor for f in figures)
            right = statistics.median(f.accuracy for f in figures)
            print(
                f"{name}  {each:<40}{seconds:7.1f} s{processor:7.1f} s of processor"
                f"   accuracy {right:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
