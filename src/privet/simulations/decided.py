"""What decides a simulation beside its experiment: it names the noise, and `--resume` compares it.

Two runs of one seed that share their noise but nothing else would give the noise away: the
difference of their models holds none. So a private run's streams are named by everything that
changes what it releases: all settings, canaries, policy and the records themselves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from privet.client.silo import LocalData
from privet.errors import DataError, ExperimentError
from privet.experiment import Experiment
from privet.files import read_file


@dataclass(frozen=True)
class Decided:
    """Canaries, policy and records of a run, as `silos.json` keeps them."""

    canaries: int
    """Coordinates for canaries beside every silo's model."""
    policy: str | None
    """SHA-256 of the policy's file."""
    data: tuple[str, ...]
    """SHA-256 of every silo's records, in their order."""

    @classmethod
    def of(cls, place: LocalData, *, canaries: int, policy: Path | None) -> Decided:
        """Everything but the experiment."""
        content = None if policy is None else hashlib.sha256(policy.read_bytes()).hexdigest()
        silos = range(len(place.silos))
        return cls(canaries, content, tuple(_content(place, index) for index in silos))

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        records = hashlib.sha256("".join(self.data).encode()).hexdigest()
        return {"canaries": self.canaries, "policy": self.policy, "data": records}

    def check_same(self, folder: Path, *, private: bool) -> None:
        """ExperimentError naming what `folder`'s run was begun with otherwise.

        A `private` run of a version that kept none of this cannot be gone on with: its noise had
        other names.
        """
        path = folder / "silos.json"
        try:
            begun = dict(json.loads(read_file(path))) if path.exists() else {}
        except (TypeError, ValueError):
            raise DataError(f"{path} is damaged: it is not a JSON object") from None
        for name, value in self.plain().items():
            if name not in begun and private:
                raise ExperimentError(
                    f"{folder} was begun by a version of privet that did not keep its {name}, "
                    "which --resume compares; choose another --out"
                )
            if begun.get(name, value) != value:
                raise ExperimentError(
                    f"{folder} was begun with {_told(name, begun[name])}, not with "
                    f"{_told(name, value)}; --resume needs the same"
                )

    def streams(self, experiment: Experiment) -> tuple[str, ...]:
        """What names each silo's random streams; empty texts without differential privacy.

        Runs that promise nothing keep the streams of their seed, so that two strategies or learning
        rates are compared on the same batches.
        """
        if experiment.privacy is None:
            return ("",) * len(self.data)
        settings = json.dumps([experiment.to_toml(), self.canaries, self.policy])
        return tuple(
            hashlib.sha256(f"{settings} {records}".encode()).hexdigest() for records in self.data
        )


def _content(place: LocalData, index: int) -> str:
    found = hashlib.sha256()
    for part in (place.silos[index], *place.held_out[index : index + 1]):
        for tensor in (part.inputs, part.targets):
            # Type and shape as well: the same bytes can be other records.
            found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _told(name: str, value: Any) -> str:
    if name == "canaries":
        return f"canaries = {value}"
    if value is None:
        return f"no {name}"
    return f"the {name} of digest {value[:12]}"
