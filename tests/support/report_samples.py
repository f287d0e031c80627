"""Run folders as a simulation would leave them, made from a seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from dp_accounting import DpEvent

from privet.privacy.accounting import encode_event
from privet.privacy.accounting.events import dp_sgd_event, gaussian_event
from privet.privacy.ledger import Fingerprint, Ledger, SiloKey

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

TRAINED = dp_sgd_event(noise_multiplier=1.5, sampling_rate=0.25, steps=4)
MEASURED = gaussian_event(20.0)
LIMIT = "the limit is epsilon 2 at delta 1e-05 over the life of the data set"

POLICY = """\
version = 1
[data."*"]
requesters = ["*"]
tasks = ["*"]
[data."*".budget]
epsilon = 2.0
delta = 1e-5
[data."*".sending]
records_public = {public}
[data."*".metrics]
accuracy = {{ release = "noised", noise_multiplier = 20.0 }}
"""


@dataclass(frozen=True)
class Use:
    """Something that the ledger of a sample charges; one that is not committed stands."""

    silo: str
    round: int
    event: DpEvent = TRAINED
    use: Literal["training", "evaluation"] = "training"
    committed: bool = True


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
        self.uses: list[Use] | None = None
        """What the ledger charges; None: the folder has no ledger."""
        self.refusals: list[tuple[str, str]] = []
        self.policy: str | None = None

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
        if self.policy is not None:
            (folder / "policy.toml").write_text(self.policy)
        if self.uses is not None:
            self._write_ledger(folder, self.uses)
        return folder

    def _write_ledger(self, folder: Path, uses: Sequence[Use]) -> None:
        """A real one, through the same doors as the guard's."""
        key = SiloKey.create(folder / "ledger.key")
        with Ledger.create(folder / "ledger.sqlite", key, durable=False) as ledger:
            for name in self.names:
                ledger.register(name, Fingerprint(100, "float32", name), who="guard")
            for use in uses:
                reservation = ledger.reserve(
                    dataset=use.silo,
                    job="simulation",
                    round=use.round,
                    event=use.event,
                    who="simulation",
                    use=use.use,
                )
                if use.committed:
                    reservation.records(lambda: None)
                    reservation.commit(use.event)
            for silo, text in self.refusals:
                ledger.note_job(
                    f"refused: {text}", dataset=silo, job="simulation", who="simulation"
                )

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


SEALED = {
    "scheme": "bfv",
    "profile": "default",
    "layout": "seeded",
    "ring_degree": 4096,
    "modulus_bits": 60,
    "security_bits": 192,
    "most_silos": 128,
    "upload_bytes_per_parameter": 47.49846153846154,
    "smallest_sum": 2,
    "pairwise_masks": False,
    "epochs": 3,
    "clipped": 0,
    "model_held_by": "every silo that holds the key, and the host of this simulation",
}
CKKS: dict[str, Any] = {
    **SEALED,
    "scheme": "ckks",
    "layout": "documented",
    "modulus_bits": 109,
    "security_bits": 128,
    "upload_bytes_per_parameter": 101.2,
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


def guarded(names: Sequence[str] = TEN[:4], *, rounds: int = 6, last_affords: int = 3) -> Sample:
    """Silos with a ledger and a policy, measured every other round.

    The last silo's budget has room for `last_affords` rounds only; it refuses the others.
    """
    sample = Sample(names=names, rounds=rounds, faults=0)
    sample.uses, sample.policy = [], POLICY.format(public="true")
    *_, last = sample.names
    sample.history[0]["affordable"] = {**dict.fromkeys(names, rounds), last: last_affords}
    for entry in sample.history:
        number = entry["round"]
        if number > last_affords:
            _refuse(sample, entry, last, f"{LIMIT}; spent so far is 1.9, round {number}")
        entry["events"] = {name: encode_event(TRAINED) for name in entry["participants"]}
        sample.uses += [Use(name, number) for name in entry["participants"]]
        entry["evaluation"] = None if number % 2 or not number else _evaluation(sample, number)
    return sample


def kept() -> Sample:
    """The same where no silo's number of records, and hence no account, may leave."""
    sample = guarded(last_affords=6)
    sample.policy = POLICY.format(public="false")
    sample.history[0]["affordable"] = {}
    for entry in sample.history[1:]:
        entry["epsilon"] = {"max": None, "per_silo": dict.fromkeys(sample.names)}
        for events in (entry["events"], (entry["evaluation"] or {"events": {}})["events"]):
            events |= dict.fromkeys(events)
    return sample


def many_guarded() -> Sample:
    """Forty silos; one round of silo-7 was interrupted, and silo-39 refused the second."""
    sample = guarded([f"silo-{index}" for index in range(40)], rounds=2, last_affords=1)
    assert sample.uses is not None
    sample.uses.append(Use("silo-7", 3, committed=False))
    return sample


def hostile_guarded() -> Sample:
    """Names of silos and metrics, and reasons, that try to become markup or script."""
    names = [
        "<script>window.hacked=1</script>",
        '"><img src=x onerror="window.hacked=1">',
        "{{ 7 * 7 }}",
        "</style></script><svg onload=window.hacked=1>",
    ]
    sample = guarded(names)
    reason = "<img src=x onerror=window.hacked=1>" + "y" * 5000
    for entry in sample.history[4:]:
        entry["refused"] = dict.fromkeys(entry["refused"], reason)
        if entry["evaluation"]:
            _measure(entry["evaluation"], names[0], "<b>share</b>", 0.5, "<i>odd</i>")
    assert sample.summary is not None
    sample.summary["stopped"] = {"round": 6, "reason": reason}
    sample.policy = POLICY.format(public="true").replace('"*"', '"<u>all</u>"')
    return sample


def seal(sample: Sample, *, uniform: bool = False, colluding: int = 1, **told: Any) -> Sample:
    """The same run with `[encryption]`; `told` replaces what its summary says of it."""
    described = {**SEALED, **told}
    masks = str(described["pairwise_masks"]).lower()
    sample.settings += (
        f'\n[encryption]\nscheme = "{described["scheme"]}"\nprofile = "{described["profile"]}"\n'
        f"smallest_sum = {described['smallest_sum']}\npairwise_masks = {masks}\n"
        f"colluding = {colluding}\nrotate_every = 3\n"
    )
    if uniform:
        sample.settings = sample.settings.replace("[strategy]", '[strategy]\nweighting = "uniform"')
    if sample.summary is not None:
        sample.summary["encryption"] = described
    return sample


def sealed() -> Sample:
    """Ten silos under DP-SGD whose updates only their sum can be seen of."""
    return seal(Sample(rounds=8, faults=0))


def sealed_without_privacy() -> Sample:
    return seal(Sample(private=False, rounds=8, faults=0), **CKKS)


def void_rounds() -> Sample:
    """Masked rounds: 3 and 6 lost too many silos, 5 found its model unreadable; values were cut."""
    sample = seal(Sample(rounds=8, faults=0), pairwise_masks=True, clipped=1234)
    for number in (3, 6):
        entry = sample.history[number]
        entry["dropped"] = entry["participants"][2:]
        entry["participants"] = entry["participants"][:2]
        entry["skipped"] = "updates came: 2; the masks need 6"
    entry = sample.history[5]
    entry["participants"].remove("silo-4")
    entry["failures"] = [_failed("silo-4", "decrypt", "the sum is not genuine")]
    entry["skipped"] = "silos could not open the model: the round is void, and the key is changed"
    # One silo has sent its update when it fails at the masks, the other has no key.
    entry = sample.history[7]
    entry["participants"].remove("silo-8")
    entry["failures"] = [_failed(name, "keys", "no answer") for name in ("silo-2", "silo-8")]
    return sample


def hostile_sealed() -> Sample:
    """Whatever a folder says of its encryption tries to become markup."""
    sample = seal(hostile(), scheme="<b>bfv</b>", model_held_by="<img src=x>\x00" + "z" * 500)
    sample.history[3]["skipped"] = "<img src=x onerror=window.hacked=1>" + "y" * 5000
    sample.history[4]["failures"] = [_failed("<i>silo</i>", "keys", "<u>none</u>")]
    return sample


def _failed(silo: str, stage: str, reason: str) -> dict[str, str]:
    return {"silo": silo, "stage": stage, "reason": reason}


def _refuse(sample: Sample, entry: dict[str, Any], silo: str, reason: str) -> None:
    entry["participants"].remove(silo)
    entry["refused"] = {silo: reason}
    sample.refusals.append((silo, reason))


def _evaluation(sample: Sample, number: int) -> dict[str, Any]:
    """The first silo lets accuracy out exactly, the others with noise; the loss is withheld."""
    assert sample.uses is not None
    first, *others = sample.names
    found: dict[str, Any] = {"per_silo": {}, "released": {}, "events": {}, "failures": []}
    for silo in sample.names:
        how = "exact" if silo == first else "noised"
        _measure(found, silo, "accuracy", 0.5 + number / 100, how)
        _measure(found, silo, "loss", None, "withheld")
    found["metrics"] = {"accuracy": 0.5 + number / 100}
    found["events"] = {silo: encode_event(MEASURED) for silo in others}
    sample.uses += [Use(silo, number, MEASURED, "evaluation") for silo in others]
    return found


def _measure(found: dict[str, Any], silo: str, metric: str, value: float | None, how: str) -> None:
    found["released"].setdefault(silo, {})[metric] = how
    if value is not None:
        found["per_silo"].setdefault(silo, {})[metric] = value
