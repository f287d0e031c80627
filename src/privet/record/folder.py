"""The run folder: what a run leaves behind, readable at every moment.

experiment.toml    resolved settings
history.jsonl      a line a round, flushed; its schema is `RoundRecord`
checkpoint.safetensors   what `--resume` goes on from, replaced as a whole after every round
model.safetensors  the final model, without its base and what stays in silos
own-parts.safetensors    of a simulation with federation.local: what each silo has of its own
summary.json       the outcome (`RunSummary`); written last, so its presence means "finished"
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from privet.errors import DataError, ExperimentError
from privet.experiment import Experiment, dotted
from privet.files import demand_file, leftovers, read_file, replacing, write_whole
from privet.privacy.mechanisms.canaries import CANARIES
from privet.record.card import CARD, ModelCard, read_card
from privet.record.history import HISTORY, RoundRecord, read_rounds, whole_rounds
from privet.record.summary import SUMMARY, RunSummary

SETTINGS = "experiment.toml"
CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
OWN_PARTS = "own-parts.safetensors"

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """The state after a whole round."""

    round: int
    tensors: dict[str, np.ndarray]
    base: str | None = None
    """The digest of the base of the model, which is not among the tensors."""


class RunFolder:
    """One run's folder. Files appear whole or not at all, except history, which grows by lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, experiment: Experiment, *, note: str = "") -> None:
        """Begin a run, with a note above its settings; ExperimentError when the folder holds
        another run."""
        self.check_free(resume=False)
        above = f"# {note}\n" if note else ""
        write_whole(self.path / SETTINGS, (above + experiment.to_toml()).encode())
        # Empty: not a run yet (`holds_a_run`), so that a start that failed can be repeated.
        demand_file(self.path / HISTORY).touch()

    def check_free(self, *, resume: bool) -> None:
        """Make the folder; ExperimentError when it cannot be, or holds a run not to be resumed."""
        if self.holds_a_run() and not resume:
            raise ExperimentError(
                f"{self.path} holds a run already; choose another --out, or go on with --resume"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExperimentError(f"cannot write to {self.path}: {error.strerror}") from None

    def holds_a_run(self) -> bool:
        """Whether a run stands here that got as far as its first entry."""
        history = self.path / HISTORY
        return (self.path / SETTINGS).exists() and history.exists() and history.stat().st_size > 0

    def reopen(self, experiment: Experiment) -> Checkpoint | None:
        """Go back to the last whole round; ExperimentError when the settings are not the same,
        DataError for a history that is damaged up to there.

        More rounds than the run had make it unfinished again."""
        if self.check_settings(experiment):
            # The outcome first: it says "finished", and must not stand beside the new settings.
            for name in (SUMMARY, MODEL, OWN_PARTS):
                (self.path / name).unlink(missing_ok=True)
            write_whole(self.path / SETTINGS, experiment.to_toml().encode())
        # What a killed process left half written is as large as a model.
        for name in (CHECKPOINT, MODEL, OWN_PARTS):
            for part in leftovers(self.path / name):
                part.unlink(missing_ok=True)
        checkpoint = self._checkpoint()
        # Round 0 has a line too.
        count = checkpoint.round + 1 if checkpoint else 0
        # As they were written: an older version of privet may have been at work so far.
        kept = read_file(self.path / HISTORY).split(b"\n")[:-1][:count]
        if len(whole_rounds(kept)) < count:
            raise DataError(f"{HISTORY} has {len(kept)} lines, and the checkpoint {count} rounds")
        write_whole(self.path / HISTORY, b"".join(line + b"\n" for line in kept))
        return checkpoint

    def check_settings(self, experiment: Experiment) -> bool:
        """Whether they give the finished run here more rounds; else they are those of the run.

        ExperimentError naming all settings with which the run was begun otherwise, and why it
        cannot be given more rounds where only they differ.
        """
        written = Experiment.from_file(demand_file(self.path / SETTINGS))
        # With all defaults: a setting that is written out equals one that is left out.
        before, now = (dotted(tomllib.loads(each.to_toml())) for each in (written, experiment))
        keys = dict.fromkeys([*now, *before])
        told = [_differing(key, before, now) for key in keys if before.get(key) != now.get(key)]
        if not told:
            return False
        only_more = len(told) == 1 and experiment.rounds > written.rounds
        why = self._bound(written) if only_more else ""
        if why is None:
            return True
        refusal = f"{self.path} was begun with {told[0]}; --resume needs the same"
        others = f"; it was also begun with {'; with '.join(told[1:])}" if told[1:] else ""
        raise ExperimentError(refusal + others + (f": {why}" if why else ""))

    def _bound(self, written: Experiment) -> str | None:
        """Why the run here cannot be given more rounds."""
        ran = self.last_whole()
        if ran < written.rounds:
            return (
                f"a run is given more rounds at its end, and this one has {max(ran, 0)} of "
                f"{written.rounds}"
            )
        return written.bound_to_rounds()

    def rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds so far; a line torn by a kill is left out. DataError for a damaged one."""
        begun = (self.path / HISTORY).exists()
        return read_rounds(self.path, finished=False) if begun else ()

    def last_whole(self) -> int:
        """The round of the checkpoint, which a run that is resumed keeps; -1 before the first."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return -1
        with safe_open(demand_file(path), framework="np") as file:
            return int(file.metadata()["round"])

    def append(self, entry: RoundRecord) -> None:
        """Add a round to the history and push it to the operating system."""
        # No fsync, which every round would wait for: a killed process loses nothing by that.
        with (self.path / HISTORY).open("a", encoding="utf-8") as file:
            file.write(entry.line() + "\n")

    def check_base(self, checkpoint: Checkpoint, base: str | None) -> None:
        """ExperimentError when the run here was begun with a model of another base, or with other
        tensors that stay in their silos."""
        if checkpoint.base != base:
            raise ExperimentError(
                f"{self.path} was begun with {_base(checkpoint.base)}, and the task now loads "
                f"{_base(base)}; --resume needs the same"
            )

    def save_checkpoint(self, round_: int, tensors: Tensors, *, base: str | None = None) -> None:
        """Replace the checkpoint by the state after `round_`; `base` is the digest of the base."""
        self._replace_tensors(CHECKPOINT, tensors, {"round": str(round_), **_named_base(base)})

    def save_model(self, tensors: Tensors, *, card: ModelCard | None = None) -> None:
        """Write what trained of the final model, a tensor for each name of its state dict.

        `card` says how to use it, and of what base the rest is, which the task loads.
        """
        self._replace_tensors(MODEL, tensors, model_metadata(card) if card else {"format": "pt"})

    def save_own_parts(self, tensors: Tensors) -> None:
        """Write what each silo has of its own, a tensor for "silo/name"."""
        self._replace_tensors(OWN_PARTS, tensors, {"format": "pt"})

    def complete_model(self, **claim: Any) -> None:
        """Put what is known by now in the claim of the model that stands here, if one does."""
        path = self.path / MODEL
        if not path.exists():
            return
        with safe_open(demand_file(path), framework="np") as file:
            card = read_card(file.metadata(), name=MODEL)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = card.model_copy(update={"claim": card.claim.model_copy(update=claim)})
        self.save_model(tensors, card=told)

    def save_summary(self, summary: RunSummary) -> None:
        """Write the outcome, which ends the run."""
        self.save_json(SUMMARY, summary.plain())

    def save_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `content` as a JSON file."""
        write_whole(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def _checkpoint(self) -> Checkpoint | None:
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        with safe_open(demand_file(path), framework="np") as file:
            # safetensors' file has keys() and cannot be iterated over.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
            return Checkpoint(int(facts["round"]), tensors, facts.get("base"))

    def _replace_tensors(self, name: str, tensors: Tensors, metadata: dict[str, str]) -> None:
        # safetensors writes memory as it lies.
        whole = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
        save_tensors(self.path / name, whole, metadata)


def digests_of(folder: Path) -> dict[str, str]:
    """The SHA-256, hexadecimal, of what a finished run's folder holds, by relative names.

    Of what nothing changes afterwards: settings, history, summary, model, and what was seen of
    canaries. A simulation's ledger names them when it ends.
    """
    names = (SETTINGS, HISTORY, SUMMARY, MODEL, OWN_PARTS, "silos.json", "policy.toml")
    files = [folder / name for name in names if (folder / name).exists()]
    files += sorted((folder / CANARIES).rglob("*.jsonl"))
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with demand_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_metadata(card: ModelCard) -> dict[str, str]:
    """Metadata of a model's file, with the mark that loaders of PyTorch models look for."""
    return {"format": "pt", CARD: card.line(), **_named_base(card.base)}


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Write a safetensors file as a whole; equal content makes equal bytes."""
    with replacing(path) as part:  # a copy of a model in memory is saved
        save_file(dict(tensors), part, metadata=metadata)
        if len(metadata) > 1:
            _order(part)


def _order(path: Path) -> None:
    """Put the metadata in order: safetensors writes several facts in an order of chance."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        written = json.loads(file.read(size))
        written["__metadata__"] = dict(sorted(written["__metadata__"].items()))
        header = json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()
        if len(header) <= size:  # as ever, but for names that JSON may write in two ways
            file.seek(8)
            file.write(header.ljust(size))


def _named_base(digest: str | None) -> dict[str, str]:
    return {} if digest is None else {"base": digest}


def _base(digest: str | None) -> str:
    return "a model without a base" if digest is None else f"a base of digest {digest[:12]}"


def _differing(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{_setting(key, before)}, not with {_setting(key, now)}"


def _setting(key: str, settings: Mapping[str, Any]) -> str:
    return f"{key} = {settings[key]!r}" if key in settings else f"no {key}"
