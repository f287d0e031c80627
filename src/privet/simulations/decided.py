"""What decides a simulation beside its settings: it names the noise, and `--resume` compares it.

Two runs of one seed that share their noise but nothing else would give the noise away: the
difference of their models holds none. So a private run's streams are named by everything that
changes what it releases: all settings, canaries, policy, the model's base and the records
themselves.

A run that is given more rounds keeps its names. Those of a run that had as many from the start are
others: the two have other models by then, and their difference would hold no noise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from privet.client.silo import LocalData
from privet.errors import DataError, ExperimentError
from privet.experiment import Experiment
from privet.files import read_file
from privet.tasks import Examples


@dataclass(frozen=True)
class Decided:
    """Canaries, policy, records and first plan of a run, as `silos.json` keeps them."""

    canaries: int
    """Coordinates for canaries beside every silo's model."""
    policy: str | None
    """SHA-256 of the policy's file."""
    data: tuple[str, ...]
    """SHA-256 of every silo's records, in their order."""
    first_rounds: int
    """Rounds with which the run was begun, whatever it was given since."""
    base: str | None = None
    """The digest of what the model does not train."""
    validation_records: str | None = None
    """SHA-256 of the records for validation, which choose the result and change no release."""

    @classmethod
    def of(
        cls, place: LocalData, *, canaries: int, policy: Path | None, first_rounds: int
    ) -> Decided:
        """Everything but the experiment, of a run that begins."""
        content = None if policy is None else hashlib.sha256(policy.read_bytes()).hexdigest()
        silos = range(len(place.silos))
        records = tuple(
            _content(place.silos[index], *place.held_out[index : index + 1]) for index in silos
        )
        base = place.model_cache.model().base.digest
        apart = None if place.validation is None else _content(place.validation)
        return cls(canaries, content, records, first_rounds, base, apart)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        records = hashlib.sha256("".join(self.data).encode()).hexdigest()
        return {**asdict(self), "data": records}

    def going_on(self, folder: Path, *, private: bool) -> Decided:
        """The same, of the run in `folder`; ExperimentError naming what it was begun with
        otherwise.

        A `private` run of a version that kept none of this cannot be gone on with: its noise had
        other names.
        """
        path = folder / "silos.json"
        try:
            begun = dict(json.loads(read_file(path))) if path.exists() else {}
        except (TypeError, ValueError):
            raise DataError(f"{path} is damaged: it is not a JSON object") from None
        # Earlier versions sent all of a model, and set no records apart.
        begun = {"base": None, "validation_records": None, **begun}
        for name, value in self.plain().items():
            if name not in begun and private:
                raise ExperimentError(
                    f"{folder} was begun by a version of privet that did not keep its "
                    f"{name.replace('_', ' ')}, "
                    "which --resume compares; choose another --out"
                )
            if name != "first_rounds" and begun.get(name, value) != value:
                raise ExperimentError(
                    f"{folder} was begun with {_told(name, begun[name])}, not with "
                    f"{_told(name, value)}; --resume needs the same"
                )
        first_rounds = begun.get("first_rounds", self.first_rounds)
        if not isinstance(first_rounds, int):
            raise DataError(f"{path} is damaged: first_rounds = {first_rounds!r} is no number")
        return replace(self, first_rounds=first_rounds)

    def streams(self, experiment: Experiment) -> tuple[str, ...]:
        """What names each silo's random streams; empty texts without differential privacy.

        Runs that promise nothing keep the streams of their seed, so that two strategies or learning
        rates are compared on the same batches.
        """
        if experiment.privacy is None:
            return ("",) * len(self.data)
        begun = experiment.model_copy(update={"rounds": self.first_rounds})
        base = [] if self.base is None else [self.base]
        settings = json.dumps([begun.to_toml(), self.canaries, self.policy, *base])
        return tuple(
            hashlib.sha256(f"{settings} {records}".encode()).hexdigest() for records in self.data
        )


def _content(*parts: Examples) -> str:
    found = hashlib.sha256()
    for part in parts:
        for tensor in part.raw():
            # Type and shape as well: the same bytes can be other records.
            found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _told(name: str, value: Any) -> str:
    if name == "canaries":
        return f"canaries = {value}"
    said = name.replace("_", " ")
    if value is None:
        return f"no {said}"
    return f"the {said} of digest {value[:12]}"
