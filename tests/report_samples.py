"""Run folders as a simulation would leave them, made from a seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = """\
task = "{task}"
rounds = {rounds}
seed = 7

[federation]
silos = {silos}
partition = "dirichlet"
alpha = 0.5
participation = {participation}
dropout = 0.05

[training]
epochs = 1
batch_size = 64
optimizer = "sgd"
lr = 0.5

[strategy]
name = "fedavg"
"""
PRIVACY = """
[privacy]
unit = "record"
epsilon = 4.0
delta = {delta}
clip = 1.0
calibrate = "per-silo"
"""
TEN = tuple(f"silo-{index}" for index in range(10))


class Sample:
    """A run folder under construction: change its parts, then `write` it."""

    def __init__(
        self,
        *,
        task: str = "digits",
        names: Sequence[str] = TEN,
        rounds: int = 40,
        labels: int = 10,
        private: bool = True,
        participation: float = 1.0,
        faults: float = 0.03,
        natural: bool = False,
        delta: str = "1e-5",
        seed: int = 1,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.names, self.private, self.natural = list(names), private, natural
        self.settings = SETTINGS.format(
            task=task, rounds=rounds, silos=len(names), participation=participation
        ) + (PRIVACY.format(delta=delta) if private else "")
        self.delta = float(delta)
        self.labels = [str(label) for label in range(labels)]
        self.silos = [self._silo(name) for name in names]
        self.accuracy_at_end = 0.912 if private else 0.968
        self.history = [self._round(r, rounds, participation, faults) for r in range(rounds + 1)]
        self.summary: dict[str, Any] | None = self._summary(task, rounds)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experiment.toml").write_text(self.settings)
        held = {
            "silos": self.silos,
            "labels": self.labels if self.silos[0]["labels"] else None,
            "test_records": 360,
        }
        (folder / "silos.json").write_text(json.dumps(held))
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        (folder / "history.jsonl").write_text(lines)
        if self.summary is not None:
            (folder / "summary.json").write_text(json.dumps(self.summary))
        return folder

    def interrupt(self, *, after: int) -> None:
        """Leave the folder as a kill after round `after` would."""
        self.history = self.history[: after + 1]
        self.summary = None

    def _silo(self, name: str) -> dict[str, Any]:
        records = int(self.random.lognormal(5, 0.45)) + 8
        counts: list[int] = []
        if self.labels:
            shares = self.random.dirichlet([0.5] * len(self.labels))
            counts = self.random.multinomial(records, shares).tolist()
        return {
            "name": name,
            "records": records,
            "labels": dict(zip(self.labels, counts, strict=True)) if self.labels else None,
            "sampling_rate": min(1.0, 64 / records) if self.private else None,
            "steps_per_round": math.ceil(records / 64),
            "noise_multiplier": round(1.4 + 60 / records, 3) if self.private else None,
        }

    def _round(
        self, number: int, rounds: int, participation: float, faults: float
    ) -> dict[str, Any]:
        learnt = 1 - math.exp(-5 * number / rounds)
        accuracy = 0.1 + (self.accuracy_at_end - 0.1) * learnt / (1 - math.exp(-5))
        accuracy += float(self.random.normal(0, 0.006)) if 0 < number < rounds else 0
        drawn = [n for n in self.names if number and self.random.random() < participation]
        fate = {name: self.random.random() for name in drawn}
        failures = [name for name in drawn if fate[name] < faults]
        dropped = [name for name in drawn if faults <= fate[name] < 3 * faults]
        arrived = [name for name in drawn if fate[name] >= 3 * faults]
        return {
            "round": number,
            "loss": 2.3 - 2.0 * learnt + float(self.random.normal(0, 0.012)),
            "accuracy": accuracy,
            "metrics": {"accuracy": accuracy},
            "per_silo": self._per_silo(accuracy) if self.natural else None,
            "participants": arrived,
            "failures": [
                {"silo": name, "stage": "train", "reason": "RuntimeError: out of memory"}
                for name in failures
            ],
            "dropped": dropped,
            "epsilon": self._epsilon(number / rounds) if self.private else None,
            "events": {name: {"sigma": 1.0} for name in arrived} if self.private else None,
            "bytes": {"down": 205_000 * len(drawn), "up": 205_000 * len(arrived)},
            "seconds": {"total": 1.1, "training": 0.9, "aggregation": 0.01, "evaluation": 0.05},
        }

    def _per_silo(self, accuracy: float) -> dict[str, Any]:
        shifts = np.linspace(-0.08, 0.06, len(self.names))
        noise = self.random.normal(0, 0.01, len(self.names))
        return {
            name: {"loss": 0.5, "accuracy": min(1.0, accuracy + float(shift + wobble))}
            for name, shift, wobble in zip(self.names, shifts, noise, strict=True)
        }

    def _epsilon(self, share: float) -> dict[str, Any]:
        spent = {
            silo["name"]: 3.987 * math.sqrt(share) * (1 - 0.3 * index / len(self.silos))
            for index, silo in enumerate(self.silos)
        }
        return {"max": max(spent.values()), "per_silo": spent}

    def _summary(self, task: str, rounds: int) -> dict[str, Any]:
        last = self.history[-1]
        updates = sum(len(entry["participants"]) for entry in self.history)
        epsilon: Mapping[str, Any] | None = None
        if self.private:
            checks = {"pld": 3.987, "rdp": 4.31, "prv": 3.996, "agree": True, "problems": []}
            epsilon = last["epsilon"] | {
                "unit": "record",
                "delta": self.delta,
                "accountant": "PLD (dp-accounting), grid 1e-3, add-or-remove-one-record adjacency",
                "cross_checks": checks,
            }
        return {
            "schema": 1,
            "task": task,
            "rounds": rounds,
            "seed": 7,
            "accuracy": last["accuracy"],
            "loss": last["loss"],
            "metrics": last["metrics"],
            "epsilon": epsilon,
            "encryption": None,
            "seconds": {
                "total": 46.2,
                "training": 0.9 * rounds,
                "aggregation": 0.01 * rounds,
                "encryption": None,
            },
            "client_updates": updates,
            "client_updates_per_second": updates / 46.2,
        }


HOSPITALS = ("Cleveland", "Hungarian", "Switzerland", "V.A. Long Beach")


def with_privacy() -> Sample:
    """Ten silos under DP-SGD, with failures and dropouts."""
    return Sample()


def without_privacy() -> Sample:
    return Sample(private=False, faults=0.0)


def many_silos() -> Sample:
    return Sample(
        names=[f"silo-{index}" for index in range(500)], participation=0.1, labels=10, delta="1e-6"
    )


def hospitals() -> Sample:
    """Four natural silos, each with its own accuracy."""
    return Sample(
        task="heart-disease", names=HOSPITALS, labels=2, natural=True, faults=0.0, rounds=30
    )


def hostile() -> Sample:
    """Names and reasons that try to become markup, script or formulas."""
    names = [
        "<script>window.hacked=1</script>",
        '"><img src=x onerror="window.hacked=1">',
        "$\\frac{1}{0$",
        "{{ 7 * 7 }}",
        "</style></script><svg onload=window.hacked=1>",
        "_hidden\x00\ud800" + "long" * 60,
    ]
    sample = Sample(names=names, rounds=6, faults=0.15, natural=True, seed=3)
    sample.history[2]["failures"].append(
        {
            "silo": names[0],
            "stage": "<b>train</b>",
            "reason": "<img src=https://example.org/x onerror=window.hacked=1>" + "x" * 5000,
        }
    )
    sample.labels = ["<i>0</i>", *sample.labels[1:]]
    for silo in sample.silos:
        silo["labels"]["<i>0</i>"] = silo["labels"].pop("0")
    return sample
