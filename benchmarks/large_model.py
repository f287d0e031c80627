"""A model of 25 million parameters (100 MB) going round three real silos.

    python benchmarks/large_model.py [--rounds 3] [--ways clear encrypted]

Server and silos are processes that talk over TLS on loopback. Measured: seconds a round, and how
far the memory of the server and of a silo (its worker included) rises at the highest above what
they hold after the same job with a small model, in units of the model. Pages of files, such as
libraries, are left out: the system drops and reads them again as it likes. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from privet.deployment.admin import AdminClient
    from privet.record.history import RoundRecord

MODEL_MB = 100.0
POLICY = """\
version = 1
[data.{name}]
requesters = ["admin"]
tasks = []
code = {code}
[data.{name}.budget]
epsilon = inf
delta = 1e-5
[data.{name}.training]
units = ["record"]
mechanisms = ["dp-sgd"]
plain = true
[data.{name}.sending]
records_public = true
"""
LARGE, SMALL = "large_task:Large", "large_task:Small"


def run(*, encrypted: bool, rounds: int) -> None:
    from privet.client.guard import code_hash
    from privet.deployment.trial import SERVER, Trial

    settings: dict[str, Any] = {
        "rounds": rounds,
        "federation": {"silos": 3},
        "training": {"batch_size": 8, "steps": 1, "lr": 0.1},
    }
    if encrypted:
        settings["encryption"] = {"scheme": "bfv"}
    folder = Path(tempfile.mkdtemp(prefix="privet-large-"))
    try:
        with Trial.create(folder, plain=True) as trial:
            code = json.dumps([code_hash(LARGE), code_hash(SMALL)])
            for name in trial.silos:
                text = POLICY.format(name=name, code=code)
                (trial.kit(name) / "policy.toml").write_text(text)
            kit = trial.kit(SERVER) / "server.toml"
            kit.write_text(kit.read_text().replace("tasks = []", f'tasks = ["{LARGE}", "{SMALL}"]'))
            trial.start()
            trial.wait_until_online()
            with trial.client() as client:
                finished(client, {"task": SMALL, **settings})
                time.sleep(3)
                peaks = Peaks({name: each.pid for name, each in trial.processes.items()})
                seen = finished(client, {"task": LARGE, **settings})
            rises = peaks.stop()
        took = statistics.median(entry.seconds.total or 0.0 for entry in seen[1:])
        silo = max(rise for name, rise in rises.items() if name != SERVER)
        way = "encrypted" if encrypted else "in the clear"
        print(
            f"{way:<14}{took:>8.1f} s a round{rises[SERVER] / MODEL_MB:>8.1f} models at the server"
            f"{silo / MODEL_MB:>8.1f} at a silo"
            f"{seen[-1].bytes.up / 3e6:>8.1f} MB up a silo"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finished(client: AdminClient, settings: dict[str, Any]) -> list[RoundRecord]:
    """The history of a job, once it is done."""
    from privet import Experiment

    job = client.submit(Experiment.from_mapping(settings))
    while (told := client.job(job))["state"] not in ("finished", "failed"):
        time.sleep(0.2)
    if told["state"] == "failed":
        raise SystemExit(client.log(job, start=0))
    return client.history(job, start=0)[0]


class Peaks:
    """The highest rise of the resident memory of each process with its children, in MB."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._before = {name: self._now(name) for name in pids}
        self._highest = dict(self._before)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._done.set()
        self._thread.join()
        return {name: self._highest[name] - self._before[name] for name in self._before}

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            for name in self._processes:
                self._highest[name] = max(self._highest[name], self._now(name))

    def _now(self, name: str) -> float:
        top = self._processes[name]
        family = [top, *top.children(recursive=True)]
        return sum(map(_own_memory, family)) / 1e6


def _own_memory(process: psutil.Process) -> int:
    """Resident bytes that no file stands behind."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["clear", "encrypted"])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    for way in options.ways:
        run(encrypted=way == "encrypted", rounds=options.rounds)


if __name__ == "__main__":
    main()
