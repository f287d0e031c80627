"""Which runs a sweep consists of: the grid, the seeds, and the baselines beside them.

A cell is recognised by its address: a hash over everything that decides its result.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import privet
from privet.base import Base
from privet.client.silo import LocalData
from privet.client.training import plan_round
from privet.errors import ExperimentError, nearest
from privet.experiment import Experiment, StartSettings
from privet.server.start import with_digest
from privet.sweeps.dealing import Dealt, OneSilo, dealt, task_settings
from privet.sweeps.results import Axis, Cell, Kind, Settings, described
from privet.tasks import Examples, load_task
from privet.tasks.defaults import completed
from privet.tasks.task import array_of, constant_buffers, seeded_model

Buffer: TypeAlias = bytes | memoryview

FORMAT = 1
"""Raised when runs of the same settings begin to come out otherwise; old cells are run again."""


def address(experiment: Experiment, *, engine: str, data: str) -> str:
    """The name of a run: a hash over its resolved settings, seed included, the engine and the data.

    `data` is what `data_identity` says; equal settings and equal data give equal addresses,
    whatever the order of the keys and whether defaults are written down.
    """
    # With the version: results of two versions are not put into one interval.
    parts = (f"privet {privet.__version__} cell {FORMAT}", engine, data, experiment.to_toml())
    return _digest(*(part.encode() for part in parts))


def setting(experiment: Experiment) -> str:
    """What is recognised as the same setting: everything but the seed."""
    return _digest(experiment.with_settings({"seed": 0}).to_toml().encode())


def data_identity(experiment: Experiment, *, data_dir: Path | None) -> str:
    """A hash over the task's records, for training and testing, the source of its class, and what
    it loads of a model without training it."""
    task = load_task(
        experiment.task, model=experiment.model, data_dir=data_dir, options=experiment.data
    )
    # A task of one's own may change without its data: its source is part of what decides a result.
    source = inspect.getsourcefile(type(getattr(task, "_task", task)))
    code = Path(source).read_bytes() if source else b""
    model = seeded_model(task, experiment.seed)
    base = Base.of(model, constant_buffers(task)).digest
    known = [] if base is None else [base.encode()]
    return _digest(
        code, str(model).encode(), *known, *_content(task.train_data()), *_content(task.test_data())
    )


def _content(examples: Examples | None) -> Iterator[Buffer]:
    if examples is None:
        return
    for each in examples.raw():
        # The memory itself: to copy a data set only to hash it may be too much.
        yield np.ascontiguousarray(array_of(each)).data
    yield ",".join(examples.silo_names).encode()
    if examples.silo is not None:
        yield np.ascontiguousarray(examples.silo).data


def _digest(*parts: Buffer) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        # With their lengths, so that no two lists of parts are the same bytes.
        whole.update(memoryview(part).nbytes.to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()


BASELINES = ("no-dp", "alone", "pooled")

_PRIVACY = ("privacy.",)
_LEFT_OUT = ("privacy.", "strategy.", "encryption.")
"""Tables that do not matter to a silo alone and to pooled data: cells that differ in nothing else
share these baselines."""


@dataclass(frozen=True)
class Planned:
    """A cell and the experiment that it runs."""

    cell: Cell
    experiment: Experiment
    setting: str
    """The same for cells that differ in their seeds alone."""


def grid(axes: Sequence[Axis], listed: Sequence[Settings] = ()) -> list[Settings]:
    """Every combination of the axes' values, the last axis fastest, and then the listed ones.

    >>> grid([Axis("a", (1, 2)), Axis("b", (3,))])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    combinations = itertools.product(*(axis.values for axis in axes)) if axes or not listed else ()
    keys = [axis.key for axis in axes]
    found = [dict(zip(keys, values, strict=True)) for values in combinations]
    return [*found, *(dict(each) for each in listed if dict(each) not in found)]


def seeds_of(seeds: int | Sequence[int], experiment: Experiment) -> tuple[int, ...]:
    """A number of seeds, from the experiment's own upwards, or the seeds themselves."""
    if isinstance(seeds, int):
        if seeds < 1:
            raise ExperimentError(f"seeds = {seeds}: at least one is needed")
        return tuple(range(experiment.seed, experiment.seed + seeds))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ExperimentError(f"seeds = {list(seeds)}: they must be different, and at least one")
    return tuple(seeds)


def baselines_of(names: str | Iterable[str]) -> tuple[str, ...]:
    """Those that are named: "all", "none", or some of them, as a list or with commas."""
    wanted = [names] if isinstance(names, str) else list(names)
    wanted = [part.strip() for name in wanted for part in name.split(",")]
    if wanted == ["all"]:
        return BASELINES
    if wanted in ([], ["none"]):
        return ()
    for name in wanted:
        if name not in BASELINES:
            known = ("all", "none", *BASELINES)
            raise ExperimentError(
                f"baselines = '{name}': it is one of {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(name for name in BASELINES if name in wanted)


class Planner:
    """Makes cells of settings; reads the data where an address or a baseline depends on them."""

    def __init__(self, experiment: Experiment, *, engine: str, data_dir: Path | None) -> None:
        self._experiment = experiment
        self._engine = engine
        self._data_dir = data_dir
        self._data: dict[str, str] = {}
        self._starts: dict[StartSettings, str | None] = {}

    def check(self, settings: Settings) -> None:
        """ExperimentError, naming the cell, for settings that no run can have."""
        if "seed" in settings:
            raise ExperimentError("a sweep has seeds beside its settings: leave 'seed' out of them")
        try:
            self._with(settings)
        except ExperimentError as error:
            raise ExperimentError(f"cell {described(settings)}: {error}") from None

    def plan(
        self, settings: Sequence[Settings], seeds: Sequence[int], baselines: Sequence[str]
    ) -> list[Planned]:
        """The cells requested, then the baselines; what is both is there once."""
        requested = [self.federated(each, seed) for each in settings for seed in seeds]
        cells = list(requested)
        if "no-dp" in baselines:
            cells += [
                plain for each in _first_of_each(requested, _PRIVACY) for plain in self._no_dp(each)
            ]
        for each in _first_of_each(requested, _LEFT_OUT):
            if "alone" in baselines:
                cells += self._alone(each)
            if "pooled" in baselines:
                cells += self._pooled(each)
        found: dict[str, Planned] = {}
        for planned in cells:
            # The one requested comes before the baseline, so it stays a result and not only a
            # comparison.
            found.setdefault(planned.cell.address, planned)
        return list(found.values())

    def federated(self, settings: Settings, seed: int, *, baseline: bool = False) -> Planned:
        """The experiment with `settings` and `seed`."""
        experiment = self._with({**settings, "seed": seed})
        return self._planned("federated", settings, experiment, of=experiment, baseline=baseline)

    def fixed(self, settings: Settings, *, seed: int) -> Planned:
        """`federated` on silos that are dealt by the experiment's own seed, whatever `seed`."""
        whole = self._with(settings)
        raw = whole.model_dump(exclude_unset=True) | task_settings(Dealt, whole) | {"seed": seed}
        raw["federation"] = {
            key: value for key, value in raw.get("federation", {}).items() if key != "silos"
        } | {"partition": "natural"}
        experiment = Experiment.from_mapping(raw)
        return self._planned("federated", settings, experiment, of=whole, baseline=False)

    def _with(self, settings: Settings) -> Experiment:
        """With the digest of the weights to begin with: a file that changes is none of the cells'
        any more, and the address of a cell says which it was."""
        # Here, and not in the run alone: what choosing spends is counted by these settings.
        experiment = completed(self._experiment.with_settings(settings)).experiment
        if (start := experiment.start) is None:
            return experiment
        if start not in self._starts:
            found = with_digest(experiment, data_dir=self._data_dir).start
            self._starts[start] = found.sha256 if found else None
        return experiment.with_settings({"start.sha256": self._starts[start]})

    def dealt(self, planned: Planned) -> LocalData:
        """The cell's silos and their records; DataError when they cannot be read or dealt."""
        return dealt(planned.experiment, data_dir=self._data_dir)

    @property
    def seed(self) -> int:
        """The experiment's own."""
        return self._experiment.seed

    def _no_dp(self, requested: Planned) -> Iterator[Planned]:
        """The same federation without differential privacy."""
        if requested.experiment.privacy is None:
            return
        kept, seed = _without(requested.cell.settings, _PRIVACY), requested.cell.seed
        yield self.federated({**kept, "privacy.epsilon": math.inf}, seed, baseline=True)

    def _alone(self, requested: Planned) -> Iterator[Planned]:
        """Every silo on its own records, without differential privacy: it hands nothing out.

        It trains with as many local steps as it would in the federation: as many in a round, in
        every round in which a coin of the same bias says so.
        """
        experiment = requested.experiment
        chances = ("participation", "dropout")
        federation = {name: getattr(experiment.federation, name) for name in chances}
        for silo in self._names_and_sizes(requested):
            task = task_settings(OneSilo, experiment, silo=silo)
            yield self._single(requested, "alone", federation, silo=silo, **task)

    def _pooled(self, requested: Planned) -> Iterator[Planned]:
        """One silo that holds everybody's records, without differential privacy: the ceiling.

        In a round it takes as many local steps as all silos of the federation together are expected
        to take, so it goes over the records as often as they do, in batches of the same size.
        """
        experiment = requested.experiment.model_copy(update={"privacy": None})
        sizes = self._names_and_sizes(requested).values()
        if not sizes:
            return
        steps = sum(plan_round(experiment, n_records=size).steps for size in sizes)
        expected = experiment.federation.participation * (1 - experiment.federation.dropout) * steps
        training = experiment.training.model_dump(exclude_unset=True, exclude={"epochs"})
        training["steps"] = max(1, round(expected))
        yield self._single(requested, "pooled", {}, training=training)

    def _names_and_sizes(self, requested: Planned) -> dict[str, int]:
        """Of the silos; empty where data cannot be read or dealt: the cell itself will say why."""
        try:
            data = self.dealt(requested)
        except Exception:  # a task of one's own may raise anything
            return {}
        return dict(zip(data.names, data.sizes, strict=True))

    def _single(
        self,
        requested: Planned,
        kind: Kind,
        federation: Mapping[str, Any],
        *,
        silo: str | None = None,
        **replaced: Any,
    ) -> Planned:
        """One silo that averages with nobody: no strategy, nothing to protect on the way."""
        raw = requested.experiment.model_dump(
            exclude_unset=True, exclude={"privacy", "strategy", "encryption", "federation"}
        )
        raw |= {"federation": {"silos": 1, "partition": "iid", **federation}, **replaced}
        settings = _without(requested.cell.settings, _LEFT_OUT)
        experiment = Experiment.from_mapping(raw)
        return self._planned(
            kind, settings, experiment, of=requested.experiment, baseline=True, silo=silo
        )

    def _planned(
        self,
        kind: Kind,
        settings: Settings,
        experiment: Experiment,
        *,
        of: Experiment,
        baseline: bool,
        silo: str | None = None,
    ) -> Planned:
        """`of`: the federation whose data it trains on."""
        privacy = experiment.privacy
        cell = Cell(
            address(experiment, engine=self._engine, data=self._identity(of)),
            kind,
            baseline,
            settings,
            experiment.seed,
            silo=silo,
            asked_epsilon=privacy.epsilon if privacy else None,
            delta=privacy.delta if privacy else None,
        )
        return Planned(cell, experiment, setting(experiment))

    def _identity(self, experiment: Experiment) -> str:
        """That of the data; of data that cannot be read, none: the run will say why."""
        # Whatever else differs between cells, such as seeds and partitions, leaves the data as they
        # are.
        key = repr((experiment.task, experiment.model, experiment.data))
        if key not in self._data:
            try:
                self._data[key] = data_identity(experiment, data_dir=self._data_dir)
            except Exception:  # a task of one's own may raise anything
                self._data[key] = "unreadable"
        return self._data[key]


def _first_of_each(cells: Sequence[Planned], tables: tuple[str, ...]) -> list[Planned]:
    """Cells that differ in more than their settings in `tables`, the first of each."""
    found: dict[str, Planned] = {}
    for planned in cells:
        kept = _without(planned.cell.settings, tables)
        found.setdefault(repr((sorted(kept.items()), planned.cell.seed)), planned)
    return list(found.values())


def _without(settings: Settings, tables: tuple[str, ...]) -> Settings:
    return {key: value for key, value in settings.items() if not key.startswith(tables)}
