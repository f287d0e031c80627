"""A round over real silos: privet's own server and silos against stock Flower's.

Digits in three silos: processes of their own, TLS and node keys on loopback, policies and ledgers.
The same kits, ServerApp and ClientApp on both sides; stock Flower's are flower-superlink, three
flower-supernode and `flwr run`. Each side runs alone, in turn with the other. A round is
`seconds.total` of the run's history, at the median of all rounds after each run's first.

    python benchmarks/real_silos.py [--rounds 20] [--stock-rounds 4] [--encrypted]

With `--without-privacy` nothing is random (each silo's whole share is one batch), and the two
sides' models are compared number by number.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from stock_flower import StockFlower

from privet import Experiment
from privet.deployment import follow
from privet.deployment.trial import Trial
from privet.record.folder import MODEL, RunFolder
from privet.record.history import RoundRecord

SLOWEST, LEAST_RATIO = 1.5, 5.0
Entries = tuple[RoundRecord, ...]


def experiment(options: argparse.Namespace, rounds: int) -> Experiment:
    settings: dict[str, Any] = {
        "task": "digits",
        "rounds": rounds,
        "seed": 7,
        "federation": {"silos": 3, "min_silos": 3},
        "training": {"batch_size": 72, "lr": 1.0},
        "privacy": {"noise_multiplier": options.noise, "clip": 1.0},
    }
    if options.without_privacy:
        settings["training"] = {"batch_size": 2000, "lr": 1.0}
        del settings["privacy"]
    if options.encrypted:
        settings["encryption"] = {"scheme": "bfv"}
    return Experiment.from_mapping(settings)


def on_privet(trial: Trial, settings: Experiment, out: Path) -> None:
    """The job on privet's server and silos; its history and model are then in `out`."""
    out.mkdir()
    with trial:
        trial.start()
        trial.wait_until_online()
        with trial.client() as client:
            job = client.submit(settings)
            told = follow(client, job, watch=lambda _: None, say=lambda _: None)
            if told["state"] != "finished":
                raise RuntimeError(f"privet: {told['state']} {told['detail']}")
            for name in set(told["files"]) & {"history.jsonl", MODEL}:
                client.fetch(job, name, out / name, progress=lambda *_: None)


def on_stock(trial: Trial, settings: Experiment, out: Path, poll: float | None) -> None:
    """The same on stock Flower."""
    more = {} if poll is None else {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{poll:g}"}
    with StockFlower(trial, more) as flower:
        flower.start()
        flower.run(settings, out)


def row(name: str, runs: list[Entries]) -> float:
    rounds = [entry for entries in runs for entry in entries[2:]]
    seconds: dict[str, float] = {
        kind: statistics.median(getattr(entry.seconds, kind) for entry in rounds)
        for kind in ("total", "training", "aggregation", "evaluation")
    }
    slowest = max(entry.seconds.total or 0.0 for entry in rounds)
    first = statistics.median(entries[1].seconds.total or 0.0 for entries in runs)
    print(
        f"{name:<8}{len(rounds):7}{seconds['total']:9.3f} s{slowest:9.3f} s{first:9.3f} s"
        f"{seconds['training']:11.3f} s{1000 * seconds['aggregation']:10.1f} ms"
        f"{1000 * seconds['evaluation']:10.1f} ms"
    )
    for entries in runs:
        silos = {len(entry.participants) for entry in entries[1:]}
        if silos != {3}:
            sys.exit(f"{name}: rounds with {silos} silos: {[e['failures'] for e in entries]}")
    return seconds["total"]


def accuracy(entries: Entries, round_: int) -> str:
    found = entries[round_].accuracy
    return "(sealed)" if found is None else f"{found:.4f}"


def compare_models(folder: Path) -> None:
    ours, theirs = load_file(folder / "privet-0" / MODEL), load_file(folder / "stock-0" / MODEL)
    apart = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
    print(f"largest difference between the two final models: {apart:.2g}")


def compare(options: argparse.Namespace, folder: Path) -> bool:
    plain = options.without_privacy
    sides = {name: Trial.create(folder / name, plain=plain) for name in ("privet", "stock")}
    runs: dict[str, list[Entries]] = {"privet": [], "stock": []}
    for turn in range(options.turns):
        for name, trial in sides.items():
            rounds = options.stock_rounds if plain or name == "stock" else options.rounds
            settings = experiment(options, rounds)
            out, start = folder / f"{name}-{turn}", time.monotonic()
            if name == "privet":
                on_privet(trial, settings, out)
            else:
                on_stock(trial, settings, out, options.poll)
            took = time.monotonic() - start
            print(f"  {name}: {took:.1f} s with start and end", file=sys.stderr, flush=True)
            runs[name].append(RunFolder(out).rounds())
    print("         rounds     median    slowest      first   exchange(s)   adding up  evaluation")
    ours, theirs = row("privet", runs["privet"]), row("stock", runs["stock"])
    same = min(options.stock_rounds, options.rounds)
    told = ", ".join(f"{name} {accuracy(found[0], same)}" for name, found in runs.items())
    print(f"accuracy after {same} rounds: {told}")
    if plain and not options.encrypted:
        compare_models(folder)
    good = ours < SLOWEST and theirs / ours >= LEAST_RATIO
    print(
        f"stock / privet: {theirs / ours:.1f}   (to reach: {LEAST_RATIO:g}, and a round under "
        f"{SLOWEST:g} s: {'reached' if good else 'MISSED'})"
    )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of a run on privet")
    parser.add_argument("--stock-rounds", type=int, default=4, help="of a run on stock Flower")
    parser.add_argument("--turns", type=int, default=1, help="runs of each side")
    parser.add_argument("--encrypted", action="store_true", help="with encryption.scheme = bfv")
    parser.add_argument("--without-privacy", action="store_true", help="compare the models")
    parser.add_argument("--noise", type=float, default=2.0, help="noise multiplier")
    parser.add_argument("--poll", type=float, help="stock: FLWR_SUPEREXEC_TASK_POLL_INTERVAL")
    parser.add_argument("--keep", type=Path, help="a new folder to keep runs and logs in")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends everything on its way out
    if options.keep:
        options.keep.mkdir(parents=True)
        sys.exit(not compare(options, options.keep.absolute()))
    with tempfile.TemporaryDirectory(prefix="real-silos-") as folder:
        sys.exit(not compare(options, Path(folder)))


if __name__ == "__main__":
    main()
