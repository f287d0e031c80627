"""What a finished (or half finished) sweep is: axes, cells, what follows from them, in words too.

`sweep.json` is this record, field for field. Absent parts are null, and an infinite epsilon (no
differential privacy) is the text "inf", as JSON has no infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from privet.errors import DataError
from privet.metrics import ACCURACY, Metric, names_in_order

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1

Kind = Literal["federated", "alone", "pooled"]
"""All silos together; one silo on its own records; one silo that holds everybody's."""


_Record = TypeVar("_Record")


def _infinity(value: Any) -> Any:
    return math.inf if value == "inf" else value


Value = Annotated[bool | int | float | str, BeforeValidator(_infinity)]
Settings = Mapping[str, Value]
"""Dotted keys and the values that a cell gives them."""


@dataclass(frozen=True)
class Axis:
    """A key of the experiment file and the values it takes, in the order of the request."""

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Measured:
    """A figure of a cell that is not accuracy: the task's headline, or what was asked for."""

    metric: Metric
    value: float | None
    """As `Cell.accuracy` is of accuracy, and the others likewise."""
    validation: float | None = None
    per_silo: Mapping[str, float] | None = None
    by_round: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run: a setting with a seed, and what came of it once it is done."""

    address: str
    """Follows from everything that decides the result; also the name of its folder in `cells`."""
    kind: Kind
    baseline: bool
    """Not one of the axes' combinations: there to compare with."""
    settings: Settings
    """What the axes (or the listed cell) set; of a baseline, only what matters to it."""
    seed: int
    silo: str | None = None
    """Of kind "alone": whose records."""
    status: Literal["waiting", "done", "failed"] = "waiting"
    reason: str | None = None
    """Why it failed, in a line."""
    asked_epsilon: float | None = None
    """The target; None where there is none: no differential privacy, or noise that was set."""
    epsilon: float | None = None
    """What the ledger says, of the silo that spent most; None: no guarantee."""
    epsilon_per_silo: Mapping[str, float | None] | None = None
    delta: float | None = None
    accuracy: float | None = None
    """After the last round, or of the model that validation chose, on the task's test records."""
    validation: float | None = None
    """With [validation], the accuracy by which the round's model was chosen."""
    loss: float | None = None
    accuracy_per_silo: Mapping[str, float] | None = None
    """As far as silos let it out ([evaluation]), else on each natural silo's test records."""
    accuracies: tuple[float | None, ...] = ()
    """After each round, beginning with the initial model as round 0; on records for validation
    where there are some."""
    seconds: float | None = None
    """Of the run itself, in its process."""
    bytes_up: int | None = None
    bytes_down: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All figures on test records but the loss."""
    measured: Measured | None = None
    """What this sweep shows of the cell; None: accuracy."""

    @property
    def metric(self) -> Metric:
        """What `value` and the three after it are about."""
        return self.measured.metric if self.measured else ACCURACY

    @property
    def value(self) -> float | None:
        """After the last round, or of the model that validation chose."""
        return self.measured.value if self.measured else self.accuracy

    @property
    def chosen_by(self) -> float | None:
        """With [validation], the value on the records for it."""
        return self.measured.validation if self.measured else self.validation

    @property
    def value_per_silo(self) -> Mapping[str, float]:
        """As far as it is known."""
        return (self.measured.per_silo if self.measured else self.accuracy_per_silo) or {}

    @property
    def values(self) -> tuple[float | None, ...]:
        """By round, beginning with the initial model."""
        return self.measured.by_round if self.measured else self.accuracies

    @property
    def folder(self) -> str:
        """The run folder of a cell that is done, seen from the sweep's folder."""
        return f"cells/{self.address}"

    def rounds_to(self, target: float) -> int | None:
        """The first round after which the model was at least so good; None: never."""
        reached = (i for i, v in enumerate(self.values) if self.metric.reached(v, target))
        return next(reached, None)


@dataclass(frozen=True)
class Estimate:
    """The sweep's metric of one setting over its seeds."""

    kind: Kind
    baseline: bool
    settings: Settings
    seeds: tuple[int, ...]
    """Of the cells that are done; a seed of kind "alone" counts when every silo is done."""
    mean: float
    """Over seeds; of kind "alone", of the mean over silos."""
    half_width: float | None
    """Of the 95 % confidence interval, Student t over the seeds; None with one seed."""
    lowest: float | None = None
    """Of kind "alone": of the silo with the smallest value, mean over seeds."""
    highest: float | None = None
    asked_epsilon: float | None = None
    epsilon: float | None = None
    """The largest that a ledger says, over seeds and silos."""


@dataclass(frozen=True)
class PairedComparison:
    """Two settings on the same seeds: a paired t test, corrected for the number of comparisons."""

    first: int
    second: int
    """Places in `estimates`."""
    key: str | None
    """The axis in which they differ; None against another kind."""
    seeds: int
    difference: float | None
    """Mean of second minus first, paired by seed; None where no seed is common."""
    half_width: float | None
    """Of its 95 % confidence interval, not corrected; None with one seed."""
    p: float | None
    p_holm: float | None
    """Corrected by Holm over all comparisons of the sweep."""
    words: str
    """The outcome as a sentence; a difference is claimed where `p_holm` is below 0.05."""


@dataclass(frozen=True)
class Selection:
    """The best of a random number of random settings, and its cost with the choice included."""

    law: str
    """Of the number of runs, with its parameters."""
    expected_runs: float
    runs: int
    """As many as were drawn."""
    chosen: str | None
    """The address of the cell that is released; None while cells are missing, or with no run."""
    settings: Settings | None
    accuracy: float | None
    """Of the release; or the sweep's metric, where that is another."""
    run_epsilon: float
    """One run's epsilon by the same (Renyi) accounting, in the silo and setting that cost most."""
    epsilon: float
    """Of the release, for the silo that spends most (Papernot and Steinke 2022)."""
    delta: float


_COLUMNS = (
    "kind",
    "baseline",
    "seed",
    "silo",
    "status",
    "reason",
    "asked_epsilon",
    "epsilon",
    "delta",
    "accuracy",
    "loss",
    "seconds",
    "bytes_up",
    "bytes_down",
    "address",
)


@dataclass(frozen=True)
class Sweep:
    """A whole sweep. `experiment` is what all cells start from, nested as in its file."""

    schema: int
    experiment: Mapping[str, Any]
    engine: Literal["auto", "in-process", "vectorised", "ray"]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    cells: tuple[Cell, ...]
    estimates: tuple[Estimate, ...] = ()
    comparisons: tuple[PairedComparison, ...] = ()
    tried: tuple[str, ...] = ()
    """A mark for each distinct setting, but for seeds and baselines, that was run on these data in
    this folder: who picks the best of them has spent more than its epsilon."""
    selection: Selection | None = None
    """With private tuning, the release that may be picked."""
    seconds: float = 0.0
    """Wall time of all commands that worked on it together."""
    workers: int = 1
    device: str = "cpu"
    precision: str = "float32"

    @property
    def finished(self) -> bool:
        """Whether no cell waits."""
        return all(cell.status != "waiting" for cell in self.cells)

    @property
    def metric(self) -> Metric:
        """What estimates and comparisons are about."""
        return next((cell.metric for cell in self.cells if cell.status == "done"), ACCURACY)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if cell.status == "failed")

    def table(self) -> DataFrame:
        """The cells as a pandas DataFrame, a row each: the axes' keys, then the cell's fields.

        An infinite epsilon stays infinite. Every other metric has a column at the end. Epsilon per
        silo and values by round are not in it: they are in `cells`.
        """
        import pandas

        keys = dict.fromkeys(key for cell in self.cells for key in cell.settings)
        own = [name for name in self.metrics if name not in _COLUMNS]
        return pandas.DataFrame(
            [
                {key: cell.settings.get(key) for key in keys}
                | {name: getattr(cell, name) for name in _COLUMNS}
                | {name: cell.metrics.get(name) for name in own}
                for cell in self.cells
            ],
            columns=[*keys, *_COLUMNS, *own],
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Everything that was measured, the metric of the estimates first and the loss last."""
        found = [name for cell in self.cells for name in cell.metrics]
        found += ["loss" for cell in self.cells if cell.loss is not None]
        # Cells of earlier versions say accuracy alone.
        found += ["accuracy" for cell in self.cells if cell.accuracy is not None]
        return tuple(names_in_order(found, self.metric))

    def summary(self) -> str:
        """What the sweep shows, in sentences, a line each."""

        return "\n".join(sentences(self))


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what JSON knows.

    >>> to_plain(Axis("privacy.epsilon", (4, math.inf)))
    {'key': 'privacy.epsilon', 'values': [4, 'inf']}
    """
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value == math.inf else None
    return value


def from_plain(raw: Any) -> Sweep:
    """The reverse of `to_plain`; DataError when it is not a sweep of this schema."""
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise DataError(f"not a sweep of schema {SCHEMA}")
    return _read(_SWEEP, raw)


def cell_from_plain(raw: Any) -> Cell:
    """One cell of what `to_plain` gave; DataError when it is none."""
    return _read(_CELL, raw)


_SWEEP = TypeAdapter(Sweep)
_CELL = TypeAdapter(Cell)


def _read(reader: TypeAdapter[_Record], raw: Any) -> _Record:
    try:
        return reader.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"not a sweep's results: {where}: {first['msg']}") from None


def described(settings: Settings) -> str:
    """The settings in a few words.

    >>> described({"privacy.epsilon": 4, "strategy.name": "fedprox", "training.lr": 0.1})
    'epsilon 4, strategy fedprox, lr 0.1'
    >>> described({"privacy.epsilon": math.inf})
    'no DP'
    """
    return ", ".join(_setting_text(key, value) for key, value in settings.items())


def title(of: Estimate | Cell) -> str:
    """What an estimate or a cell is of, without its seed."""
    kinds = {"federated": "federated", "alone": "silos alone", "pooled": "pooled data"}
    if isinstance(of, Cell) and of.silo is not None:
        kinds["alone"] = f"{of.silo} alone"
    text = described(of.settings)
    if of.kind == "federated" and text:
        return text
    return f"{kinds[of.kind]}, {text}" if text else kinds[of.kind]


def mean_text(estimate: Estimate, metric: Metric = ACCURACY) -> str:
    """Mean and interval; of silos alone also the worst and the best of them."""
    of = metric.number
    interval = "" if estimate.half_width is None else f" +- {of(estimate.half_width)}"
    spread = ""
    if estimate.lowest is not None and estimate.highest is not None:
        spread = f" (silos from {of(estimate.lowest)} to {of(estimate.highest)})"
    return f"{of(estimate.mean)}{interval}{spread}"


def sentences(sweep: Sweep) -> Iterator[str]:
    """Everything that the sweep shows."""
    for each in sweep.estimates:
        spent = "" if each.epsilon is None else f", epsilon {each.epsilon:.3f} by the ledger"
        yield f"{title(each)}: {sweep.metric.label} {mean_text(each, sweep.metric)}{spent}"
    yield from findings(sweep)


def findings(sweep: Sweep) -> Iterator[str]:
    """What stands beside the estimates: how to read them, comparisons, what went wrong."""
    counts = sorted({len(each.seeds) for each in sweep.estimates})
    if counts == [1]:
        them = "accuracies have" if sweep.metric == ACCURACY else f"{sweep.metric.label} has"
        yield f"One seed: {them} no interval, and differences between them show nothing."
    elif counts:
        seeds = " or ".join(map(str, counts))
        yield f"+-: 95 % confidence interval of the mean over {seeds} seeds, by Student's t."
    yield from (each.words for each in sweep.comparisons)
    if sweep.selection:
        yield from _release_sentences(sweep)
    elif best := _best_by_validation(sweep):
        yield best
    if not sweep.selection and len(sweep.tried) > 1:
        yield (
            f"{len(sweep.tried)} settings were tried on these data. Each epsilon is that of one "
            "run: who picks the best of them by these results has spent more."
        )
    for cell in sweep.failed:
        yield f"failed: {title(cell)}, seed {cell.seed}: {cell.reason}"


def validated(sweep: Sweep) -> bool:
    """Whether models were chosen by records for validation."""
    return sweep.experiment.get("validation") is not None


def _best_by_validation(sweep: Sweep) -> str | None:
    """The setting to choose where records for validation say which, a sentence."""
    found: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        if cell.kind == "federated" and not cell.baseline and cell.chosen_by is not None:
            found.setdefault(described(cell.settings) or "the experiment", []).append(cell)
    if len(found) < 2:
        return None
    metric = sweep.metric
    means = {name: _mean(cell.chosen_by for cell in cells) for name, cells in found.items()}
    best = max(means, key=lambda name: metric.worth(means[name]))
    tested = _mean(cell.value for cell in found[best])
    return (
        f"Best by the records for validation: {best}, mean {metric.label} "
        f"{metric.text(means[best])} on them and {metric.text(tested)} on test records, which "
        "chose nothing."
    )


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def _release_sentences(sweep: Sweep) -> Iterator[str]:
    selection, metric = sweep.selection, sweep.metric
    assert selection is not None
    scored = (
        "scored on the records for validation, which count as public; test records were looked at "
        "once for each run and chose nothing."
        if validated(sweep)
        else "scored on the test records, which count as public."
    )
    yield (
        f"Private tuning: {selection.runs} run{'' if selection.runs == 1 else 's'} (a "
        f"{selection.law} number with mean {selection.expected_runs:g}), each with settings drawn "
        f"at random; {scored}"
    )
    if selection.chosen is None or selection.accuracy is None:
        yield "There is no release: no run is done, or some are still missing."
        return
    chosen = described(selection.settings or {}) or "the experiment"
    value = f"{metric.label} {metric.text(selection.accuracy)}"
    yield f"The release is {chosen} (cells/{selection.chosen}): {value}."
    yield (
        f"It costs epsilon {selection.epsilon:.3f} at delta = {selection.delta:g} with the choice "
        f"included (a single run: {selection.run_epsilon:.3f}; both by Renyi DP), if neither other "
        "results nor their number are told."
    )


def _setting_text(key: str, value: Value) -> str:
    table, _, last = key.rpartition(".")
    if key == "privacy.epsilon" and value == math.inf:
        return "no DP"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{table if last == 'name' and table else last} {text}"
