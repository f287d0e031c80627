"""Which silo this process speaks for, and where its records are.

The node's own configuration decides, never the job: whoever sends a job cannot make a silo read
another folder, take another's part or seed its noise.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from torch import nn

from privet.base import BaseDiffers
from privet.devices import CPU, Device, chosen
from privet.errors import DataError, ModelError, PrivacyError, words_of
from privet.experiment import Experiment, FederationSettings, PrivacySettings
from privet.privacy.ledger import Fingerprint, SiloKey
from privet.privacy.mechanisms import (
    ExampleLoss,
    ExampleType,
    NoiseSource,
    SeededNoise,
    SystemNoise,
    check_evaluation,
    check_training,
    unreached,
)
from privet.pytrees import Tree, called
from privet.randomness import stream
from privet.tasks import Examples, Task, check_examples, load_task
from privet.tasks.datasets import DatasetDescription, DataUnavailable, SchemaMismatch
from privet.tasks.files import data_folder
from privet.tasks.partitions import partition
from privet.tasks.registry import DATASET
from privet.tasks.task import constant_buffers, occurrences, seeded_model, uncovered
from privet.vectors import FlatModel

DEFAULT_SILOS = 10
_LONGEST_WORDS = 300


class ModelCache:
    """One model that a process's silos train one after the other.

    Making a model anew draws initial weights that are then thrown away, which takes as long as
    several training steps. Weights and float buffers come with every round, the base stays; what
    else a model keeps in buffers is put back here.
    """

    def __init__(
        self, model: nn.Module, constant: Sequence[str] = (), local: Sequence[str] = ()
    ) -> None:
        """`constant`: buffers that the task declares to be of the model's base; `local`: what stays
        in its silo."""
        self._keep(FlatModel(model, constant=constant, local=local))
        self._elsewhere: dict[str, ModelCache] = {}

    def _keep(self, flat: FlatModel) -> None:
        self._flat = flat
        self._counters = [
            (buffer, buffer.clone())
            for buffer in flat.module.buffers()
            if not buffer.is_floating_point() and id(buffer) not in flat.base.ids
        ]

    def model(self) -> FlatModel:
        """The model with its counters as the task made them; weights are the last user's."""
        for buffer, value in self._counters:
            buffer.copy_(value)
        return self._flat

    def on(self, device: Device) -> FlatModel:
        """The same for a model on `device`: on the CPU it is this very one."""
        if device.on_cpu:
            return self.model()
        if device.name not in self._elsewhere:
            other = self._elsewhere[device.name] = copy.copy(self)
            other._keep(self.model().on(device))
        return self._elsewhere[device.name].model()


@dataclass(frozen=True)
class LocalData:
    """A task and all the training records on this machine, partitioned to its silos."""

    task: Task
    names: tuple[str, ...]
    silos: tuple[Examples, ...]
    """To train on: views into one tensor; one silo outside a simulation."""
    model_cache: ModelCache
    held_out: tuple[Examples, ...] = ()
    """To evaluate on, a part for each silo; empty without [evaluation]."""
    validation: Examples | None = None
    """Of a simulation with [validation]: what its coordinator has of all silos' records."""
    _fingerprints: dict[int, Fingerprint] = field(default_factory=dict, repr=False)
    _sound: set[ExampleLoss | None] = field(default_factory=set, repr=False)
    _unreached: dict[ExampleLoss, tuple[str, ...]] = field(default_factory=dict, repr=False)
    _tried: set[Device] = field(default_factory=set, repr=False)
    _resident: dict[int, tuple[Examples, Examples]] = field(default_factory=dict, repr=False)

    @property
    def example_type(self) -> ExampleType:
        """What the task's examples look like: the same at every silo, and nothing of any record."""
        return ExampleType.of(*self.silos[0].batch(slice(0, 0)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many records each silo has, those held out included."""
        out = [len(part) for part in self.held_out] or [0] * len(self.silos)
        return tuple(len(silo) + held for silo, held in zip(self.silos, out, strict=True))

    def check(self, loss: ExampleLoss, privacy: PrivacySettings) -> None:
        """ModelError unless the model and `loss` can be trained with DP-SGD; looked at once.

        PrivacyError for preprocessing that epsilon does not cover, unless the settings allow it.
        """
        if (said := uncovered(self.task)) and not privacy.uncovered_preprocessing:
            raise PrivacyError(
                f"{' '.join(said)} Or allow it: privacy.uncovered_preprocessing = true"
            )
        if loss not in self._sound:
            flat = self.model_cache.model()
            check_training(flat.module, loss, self.example_type, base=flat.base)
            self.demand_gradient(loss)
            self._sound.add(loss)

    def demand_gradient(self, loss: ExampleLoss) -> None:
        """ModelError where made-up examples give no parameter a gradient: nothing would train."""
        if self.unreached(loss) == self.model_cache.model().trained:
            raise ModelError(
                "no parameter gets a gradient from the loss, on made-up examples: nothing would "
                "train (is something detached, or computed without gradients?)"
            )

    def unreached(self, loss: ExampleLoss) -> tuple[str, ...]:
        """Names of trained parameters that get no gradient on made-up examples; found once."""
        if loss not in self._unreached:
            self._unreached[loss] = unreached(
                self.model_cache.model().base, loss, self.example_type
            )
        return self._unreached[loss]

    def check_evaluation(self) -> None:
        """ModelError unless a record moves its own outputs alone, which noise on counts needs."""
        if None not in self._sound:
            flat = self.model_cache.model()
            check_evaluation(flat.module, self.example_type, base=flat.base)
            self._sound.add(None)

    def try_out(self, device: Device) -> None:
        """ModelError where the model takes made-up examples on the CPU, but not on `device`."""
        if device in self._tried or device == CPU:
            return
        model = self.model_cache.model().module
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for inputs in self.example_type.made_up():
                if not _passes(model, inputs):
                    continue
                with _on_device(device), device.passes():
                    called(device.twin(model), device.moved(inputs))
                break
        self._tried.add(device)

    def fingerprint(self, index: int) -> Fingerprint:
        """What all records of silo `index` are recognised by; computed once."""
        if index not in self._fingerprints:
            records = Examples.joined([self.silos[index], *self.held_out[index : index + 1]])
            self._fingerprints[index] = records.fingerprint()
        return self._fingerprints[index]

    def resident(self, index: int, examples: Examples, device: Device) -> Examples:
        """Records of silo `index` on `device`, if they fit there; moved once."""
        if device.on_cpu:
            return examples
        kept, moved = self._resident.get(index, (None, examples))
        if kept is not examples:
            moved = examples.on(device)
            self._resident[index] = examples, moved
        return moved


def _passes(model: nn.Module, inputs: Tree) -> bool:
    with suppress(Exception):  # a task's own model
        called(CPU.twin(model), inputs)
        return True
    return False


@contextmanager
def _on_device(device: Device) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"the model takes made-up examples on the CPU and fails on {device} "
            f"({words_of(error)[:_LONGEST_WORDS]}): what it makes must be on its inputs' device"
        ) from error


@dataclass(frozen=True)
class Silo:
    """One silo's view: its name, its task and its own records."""

    name: str
    index: int
    local: LocalData
    seed: int | None
    """The simulation's seed; None on a real silo, where randomness comes from the system."""
    streams: str = ""
    """With the seed, names a simulated silo's streams: a digest of what decides its releases."""
    device: Device = CPU
    """What it trains and measures on."""

    @property
    def task(self) -> Task:
        """The task that all silos on this machine share."""
        return self.local.task

    @property
    def examples(self) -> Examples:
        """The silo's own records to train on."""
        return self.local.silos[self.index]

    @property
    def n_records(self) -> int:
        """How many records the silo has, those held out included: the one number that it tells."""
        return self.local.sizes[self.index]

    def held_out(self) -> Examples:
        """The silo's own records that are kept out of training, chosen by coins: maybe none.

        DataError where the job keeps none out.
        """
        if not self.local.held_out:
            raise DataError("the job keeps no records for evaluation (evaluation.holdout)")
        return self.local.held_out[self.index]

    def fingerprint(self) -> Fingerprint:
        """What the silo's records, held out or not, are recognised by.

        In a simulation it belongs to the silo's name: silos of one ledger may then hold equal
        records, which real silos, each with a ledger of its own, may as well.
        """
        found = self.local.fingerprint(self.index)
        return found if self.seed is None else found.named(self.name)

    def model(self) -> FlatModel:
        """A model of the task to load weights into; the same object at every call."""
        return self.local.model_cache.model()

    def device_model(self) -> FlatModel:
        """The same on the silo's device: what trains and is measured."""
        return self.local.model_cache.on(self.device)

    def resident(self, examples: Examples) -> Examples:
        """The silo's records to train on, which `examples` are, on its device if they fit there."""
        return self.local.resident(self.index, examples, self.device)

    def demand_base(self, digest: str | None) -> None:
        """BaseDiffers unless what does not travel of the model here has this digest, or nothing
        stays at either end."""
        model = self.model()
        if model.unsent == digest:
            return
        local = f", keeps {', '.join(model.local)} in the silo" if model.local else ""
        raise BaseDiffers(
            f"the task loads {_said_of(model.unsent)} here{local}, and the server names "
            f"{_said_of(digest)}: the files or the code that the model is made of differ"
        )

    def noise(self, round_: int, use: str = "noise") -> NoiseSource:
        """Noise that no other silo, no other round and no other use shares."""
        if self.seed is None:
            return SystemNoise()
        return SeededNoise(self.entropy(round_, use))

    def entropy(self, round_: int, use: str = "training") -> np.random.SeedSequence:
        """Randomness of a round: batches and the like."""
        if self.seed is None:
            return np.random.SeedSequence()
        named = (self.streams,) if self.streams else ()
        return stream(self.seed, use, self.index, round_, *named)


def _said_of(digest: str | None) -> str:
    # Of a server's words a silo's log has no more than of a digest's.
    return "no base" if digest is None else f"a base of digest {digest[:12]!r}"


def is_simulated(context: Context) -> bool:
    """Whether the node is part of a simulation: whoever runs it has all its records anyway.

    Such a node holds a share of one place's records ("num-partitions") and has no ledger, as in
    Flower's own simulation, or has one that privet's simulation gave it ("simulated").
    """
    node = context.node_config
    return bool(node.get("simulated")) or ("num-partitions" in node and "ledger" not in node)


def demand_described(experiment: Experiment, context: Context) -> None:
    """SchemaMismatch unless a real silo's data set is what the job expects; no record is read."""
    if not is_simulated(context):
        as_held(experiment, context.node_config)


def open_silo(experiment: Experiment, context: Context) -> Silo:
    """The silo that `context`'s node configuration names.

    A real silo raises SchemaMismatch for a job that expects other data than its holder describes,
    and DataUnavailable, which says nothing more, for records that it cannot read. A simulation's
    says in a DataError what is unfit about them.
    """
    node = context.node_config
    simulated = "num-partitions" in node
    held = not is_simulated(context)
    if held:
        experiment = as_held(experiment, node)
    local = load_local_data(
        experiment,
        data_dir=data_folder(node.get("data-dir")),
        run_id=context.run_id,
        divided=simulated,
        # A simulation's key is made anew in every run folder, and one seed must hold out the same.
        key=Path(str(node["key"])) if "key" in node and not node.get("simulated") else None,
        held=held,
    )
    index = int(node.get("partition-id", 0))
    if simulated and node["num-partitions"] != len(local.silos):
        raise DataError(
            f"the simulation has {node['num-partitions']} nodes, the experiment "
            f"{len(local.silos)} silos (federation.silos); make them equal"
        )
    return Silo(
        name=str(node.get("name", local.names[index])),
        index=index,
        local=local,
        # The node's word alone: a job that could say "simulated" would choose a real silo's noise.
        seed=experiment.seed if node.get("simulated") else None,
        streams=str(node.get("streams", "")),
        device=device_of(node),
    )


def device_of(node: Mapping[str, Any]) -> Device:
    """Where the node's own configuration has it compute: no job has a say in it."""
    return _device(str(node.get("device", "cpu")), str(node.get("precision", "float32")))


@lru_cache(maxsize=4)
def _device(name: str, precision: str) -> Device:
    device = chosen(name, precision)
    device.enter()
    return device


def as_held(experiment: Experiment, node: Mapping[str, Any]) -> Experiment:
    """The job with the options of the holder's description in the place of its own.

    `node` has the `description` of the data set that the holder calls `dataset`, as JSON. Without
    one it serves tasks whose records need no description, as they come. SchemaMismatch unless that
    is what the job expects.
    """
    name = str(node.get("dataset", ""))
    asked = str(experiment.data.get(DATASET, name))
    if asked != name:
        text = f"data.{DATASET} = {asked[:64]!r} is no data set of this silo"
        raise SchemaMismatch(text, setting=f"data.{DATASET}")
    said = node.get("description")
    if said is None:
        description = DatasetDescription.undescribed(experiment.task)
    else:
        description = DatasetDescription.model_validate_json(str(said))
    description.demand(experiment.task, experiment.data, name=name)
    return experiment.model_copy(update={"data": description.options})


def load_local_data(
    experiment: Experiment,
    *,
    data_dir: Path | None,
    run_id: int,
    divided: bool,
    key: Path | None = None,
    held: bool = False,
) -> LocalData:
    """Load the records and, when `divided`, partition them to silos; cached for a run.

    `held`: they are a data holder's, and what is wrong with them is not for whoever sent the job.

    `key` is the signing key of a real silo. Which of its records are held out follows from it and
    not from the job: whoever chose the coins could ask, job by job, who is among the records.
    """
    # Every message asks. What decides the data is taken apart, since a cache needs it hashable.
    return _load(
        experiment.task,
        experiment.model,
        json.dumps(experiment.data, sort_keys=True),
        experiment.federation if divided else None,
        experiment.federation.local or (),
        experiment.evaluation.holdout if experiment.evaluation else 0.0,
        experiment.validation.share if experiment.validation else 0.0,
        experiment.seed,
        key,
        data_dir,
        run_id,
        held,
    )


# No more than two: each holds all records of a run.
@lru_cache(maxsize=2)
def _load(
    task_name: str,
    model: str | None,
    options: str,
    federation: FederationSettings | None,
    local_parts: tuple[str, ...],
    holdout: float,
    validation: float,
    seed: int,
    key: Path | None,
    data_dir: Path | None,
    run_id: int,  # noqa: ARG001 - a new run reads its data anew
    held: bool,
) -> LocalData:
    task, examples = (_held_records if held else _records)(
        task_name, model, data_dir, json.loads(options)
    )
    coins = f"holdout {seed}".encode() if key is None else SiloKey.load(key).derived("held out")
    model_cache = ModelCache(seeded_model(task, seed), constant_buffers(task), local_parts)
    if federation is None:
        return _held_apart(task, ("silo",), (examples,), model_cache, holdout, coins)
    natural = _is_natural(federation, examples)
    parts = partition(
        examples,
        silos=len(examples.silo_names) if natural else federation.silos or DEFAULT_SILOS,
        how="natural" if natural else federation.partition or "iid",
        alpha=federation.alpha,
        shards_per_silo=federation.shards_per_silo,
        seed=seed,
    )
    names = examples.silo_names if natural else tuple(f"silo-{i}" for i in range(len(parts)))
    dealt, apart = _set_apart(_deal(examples, parts), validation)
    local = _held_apart(task, names, dealt, model_cache, holdout, coins)
    return replace(local, validation=apart)


def _records(
    task_name: str, model: str | None, data_dir: Path | None, options: Mapping[str, Any]
) -> tuple[Task, Examples]:
    task = load_task(task_name, model=model, data_dir=data_dir, options=options)
    examples = task.train_data()
    check_examples(examples, f"the training data of {task_name}")
    return task, examples


def _held_records(
    task_name: str, model: str | None, data_dir: Path | None, options: Mapping[str, Any]
) -> tuple[Task, Examples]:
    """The same of a holder's data set; no error of it can tell one file from another."""
    try:
        task = load_task(task_name, model=model, data_dir=data_dir, options=options, held=True)
    except Exception as error:
        text = f"task = {task_name!r} has no model = {model!r} here, or cannot be made"
        raise SchemaMismatch(text, setting="task") from error
    try:
        examples = task.train_data()
        check_examples(examples, "the data set")
    except Exception as error:
        raise DataUnavailable(
            "the silo cannot use its records; its operator's log says why"
        ) from error
    return task, examples


def _held_apart(
    task: Task,
    names: tuple[str, ...],
    silos: tuple[Examples, ...],
    model_cache: ModelCache,
    holdout: float,
    coins: bytes,
) -> LocalData:
    """The data, with each silo's records divided into those to train on and those held out.

    A record is held out or not by itself (a hash of its content under the key `coins`), so that one
    more or one less moves no other: neighbours stay neighbours.
    """
    if holdout == 0:
        return LocalData(task, names, silos, model_cache)
    chosen = [_coins(silo, coins) < holdout for silo in silos]
    return LocalData(
        task,
        names,
        tuple(s.take(np.flatnonzero(~out)) for s, out in zip(silos, chosen, strict=True)),
        model_cache,
        tuple(s.take(np.flatnonzero(out)) for s, out in zip(silos, chosen, strict=True)),
    )


def _set_apart(
    silos: tuple[Examples, ...], share: float
) -> tuple[tuple[Examples, ...], Examples | None]:
    """The silos without the records for validation, and those; None for a `share` of 0.

    Which records of a silo they are hangs on nothing else, so that runs of all seeds and settings
    are measured on the same ones, and a silo alone on those of its own.
    """
    if share == 0:
        return silos, None
    chosen = [_coins(silo, b"validation") < share for silo in silos]
    parts = [s.take(np.flatnonzero(out)) for s, out in zip(silos, chosen, strict=True)]
    apart = Examples.joined(parts)
    kept = tuple(s.take(np.flatnonzero(~out)) for s, out in zip(silos, chosen, strict=True))
    if len(apart) == 0 or not all(map(len, kept)):
        raise DataError(
            f"validation.share = {share:g} of {sum(map(len, silos))} records: it leaves "
            + ("none to measure on" if len(apart) == 0 else "a silo without records to train on")
        )
    return kept, apart


def _coins(examples: Examples, key: bytes) -> np.ndarray:
    """A number in [0, 1) for each record, by its content and the key alone.

    Equal records have coins of their own, by how many of them came before: which of them is which
    nobody can say.
    """
    contents = examples.contents()
    digests = (
        hashlib.blake2b(content + b"%d" % before * (before > 0), key=key, digest_size=8).digest()
        for content, before in zip(contents, occurrences(contents), strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8") / 2.0**64


def _is_natural(federation: FederationSettings, examples: Examples) -> bool:
    if federation.partition is None:
        return examples.silo is not None and federation.silos is None
    return federation.partition == "natural"


def _deal(examples: Examples, parts: Sequence[np.ndarray]) -> tuple[Examples, ...]:
    # One copy in the order of the silos; each silo is then a view and costs no memory.
    ordered = examples.take(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])
    return tuple(
        ordered.take(slice(int(end) - len(part), int(end)))
        for part, end in zip(parts, ends, strict=True)
    )
