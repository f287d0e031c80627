"""What is compared: one run, or one setting of a sweep over its seeds.

Run folders and sweep folders, read as entries of one comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from privet.errors import DataError
from privet.experiment import dotted
from privet.metrics import Metric
from privet.record.reading import read_run
from privet.record.run import Run
from privet.reports.run.curves import own_means
from privet.simulations.ledger import LEDGER, settle
from privet.sweeps.cells import showing
from privet.sweeps.results import Cell, Estimate, Kind, Sweep, title
from privet.sweeps.store import CELLS, SWEEP, read_sweep

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Records:
    """What a run folder tells of its data. Equal counts are no proof of equal records.

    Runs keep digests of their records under keys of their own, so that nobody can compare them.
    """

    training: int | None
    """In all silos together; None where it is not told, or where coins hold records out."""
    labels: Mapping[str, int] | None
    test: int | None


@dataclass(frozen=True)
class ComparisonEntry:
    """A row of the comparison; means are over the seeds."""

    name: str
    source: str
    """The folder, as it is called beside the others."""
    kind: Kind
    task: str
    settings: Mapping[str, Scalar | tuple[Scalar, ...]]
    """Dotted keys with defaults, without the seed."""
    swept: tuple[str, ...]
    """The keys that the sweep varied; none for a run."""
    metric: Metric
    """What the figures below are."""
    values: Mapping[int, float]
    """By seed, after the last round; empty while the run is unfinished."""
    value: float | None
    """Of an unfinished run: after its last round so far."""
    half_width: float | None
    """Of the 95 % confidence interval over seeds; None with one."""
    measured_on: Literal["test records", "silos' own records"] | None
    curve: Mapping[int, float]
    """The metric by round."""
    epsilon: float | None
    """Of the silo that spent most; None: no guarantee."""
    delta: float | None
    unit: str | None
    rounds_to_target: tuple[int | None, ...] | None
    """Of each seed, the first round with the wanted value (None: never); None: no target."""
    seconds: float | None
    """Of one run."""
    bytes_up: float | None
    bytes_down: float | None
    records: Records
    evaluation: tuple[str, ...]
    """How silos let out the metric on their own records: exact, noised, withheld."""
    remarks: tuple[str, ...]
    """Why its figures do not stand beside others."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose result is known."""
        return tuple(self.values)

    @property
    def private(self) -> bool:
        """Whether there is an epsilon to speak of."""
        return self.delta is not None


_RUN = "experiment.toml"


def read_entries(
    folder: Path, *, name: str, target: float | None, metric: str | None = None
) -> list[ComparisonEntry]:
    """One entry for a run, one for each setting of a sweep; DataError for any other folder.

    `name` is what the folder is called beside the others; where it lies is told nobody. `metric`:
    instead of each one's own headline; DataError where nobody measured it.
    """
    if (folder / SWEEP).exists():
        sweep = read_sweep(folder)
        shown = sweep if metric is None else showing(sweep, metric, folder)
        entries = list(_of_sweep(folder, name, shown, target))
        if not entries:
            raise DataError(f"{folder} has nothing to compare yet: no setting of the sweep is done")
        return entries
    if (folder / _RUN).exists():
        return [_of_run(folder, name, target, metric)]
    raise DataError(
        f"{folder} is neither a run's folder nor a sweep's: it has no {_RUN} and no {SWEEP}"
    )


def _of_run(folder: Path, name: str, target: float | None, metric: str | None) -> ComparisonEntry:
    run = _run(folder)
    if metric is not None:
        run = run.showing(metric)
    shown = run.metric
    # Test records are the same for all runs of a task; silos' own records are each run's.
    tested = run.value is not None or run.own_value is None
    value = run.value if tested else run.own_value
    by_round = [e.figures.get(shown.name) for e in run.rounds]
    curve = _curve(by_round if tested else own_means(run, shown.name), run)
    return ComparisonEntry(
        name=name,
        source=name,
        kind="federated",
        **_of_both(run),
        swept=(),
        metric=shown,
        values={_seed(run): value} if run.finished and value is not None else {},
        value=value,
        half_width=None,
        measured_on=None if not curve else "test records" if tested else "silos' own records",
        curve=curve,
        epsilon=_spent(run),
        rounds_to_target=None if target is None else (_first(curve, target, shown),),
        seconds=run.seconds.total,
        bytes_up=sum(entry.bytes.up for entry in run.rounds),
        bytes_down=sum(entry.bytes.down for entry in run.rounds),
        remarks=tuple(_remarks(run)),
    )


def _of_sweep(
    folder: Path, name: str, sweep: Sweep, target: float | None
) -> Iterator[ComparisonEntry]:
    unfinished = sum(cell.status != "done" for cell in sweep.cells)
    remark = f"{unfinished} of {len(sweep.cells)} cells are not done"
    for estimate in sweep.estimates:
        cells = _cells(sweep, estimate)
        run = _named_as_asked(_run(folder / CELLS / cells[0].address), sweep, estimate)
        entry = _of_estimate(estimate, cells, run, target)
        remarks = (remark,) if unfinished else ()
        yield replace(entry, name=f"{name}: {entry.name}", source=name, remarks=remarks)


def _named_as_asked(run: Run, sweep: Sweep, estimate: Estimate) -> Run:
    """A cell whose silos the sweep deals itself has the task and settings that were asked for."""
    asked = str(estimate.settings.get("task", sweep.experiment.get("task")))
    if run.settings.get("task") == asked:
        return run
    federated = {**sweep.experiment, **estimate.settings}
    settings = federated if estimate.kind == "federated" else run.settings
    return replace(run, settings={**settings, "task": asked})


def _of_estimate(
    estimate: Estimate, cells: Sequence[Cell], run: Run, target: float | None
) -> ComparisonEntry:
    by_seed = {seed: [cell for cell in cells if cell.seed == seed] for seed in estimate.seeds}
    values = {seed: _mean(cell.value for cell in of) for seed, of in by_seed.items()}
    reached = tuple(cell.rounds_to(target) for cell in cells) if target is not None else None
    return ComparisonEntry(
        name=title(estimate),
        source="",
        kind=estimate.kind,
        **_of_both(run),
        swept=tuple(estimate.settings),
        metric=cells[0].metric,
        values={seed: mean for seed, mean in values.items() if mean is not None},
        value=estimate.mean,
        half_width=estimate.half_width,
        measured_on="test records",
        curve=_mean_curve(cells),
        epsilon=estimate.epsilon,
        rounds_to_target=reached,
        seconds=_mean(cell.seconds for cell in cells),
        bytes_up=_mean(cell.bytes_up for cell in cells),
        bytes_down=_mean(cell.bytes_down for cell in cells),
        remarks=(),
    )


def _of_both(run: Run) -> dict[str, Any]:
    """What a run says of itself and of others that differ from it in the seed alone."""
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in dotted(run.settings).items()
        if key != "seed"
    }
    privacy = run.section("privacy")
    measured = run.measured
    name = run.metric.name
    ways = {ways.get(name) for ways in measured[1].released.values()} if measured else set()
    return {
        "task": str(run.settings.get("task")),
        "settings": settings,
        "delta": run.guarantee.delta if run.guarantee else privacy.get("delta"),
        "unit": str(privacy["unit"]) if "unit" in privacy else None,
        "records": _records(run),
        "evaluation": tuple(sorted(way for way in ways if way)),
    }


def _run(folder: Path) -> Run:
    """The run, with nothing left beside its ledger; a ledger that is in use is left alone."""
    # Looked at before the ledger is read, which makes this file as well.
    in_use = (folder / f"{LEDGER}-wal").exists()
    run = read_run(folder)
    if run.books and not run.books.findings and not in_use:
        settle(folder)
    return run


def _seed(run: Run) -> int:
    found = run.settings.get("seed")
    return found if isinstance(found, int) else 0


def _cells(sweep: Sweep, estimate: Estimate) -> list[Cell]:
    return [
        cell
        for cell in sweep.cells
        if (cell.kind, cell.settings) == (estimate.kind, estimate.settings)
        and cell.seed in estimate.seeds
    ]


def _records(run: Run) -> Records:
    known = bool(run.silos) and not run.section("evaluation") and not run.counts_kept
    labels: Counter[str] = Counter()
    for silo in run.silos:
        labels.update(silo.labels or {})
    return Records(
        training=sum(silo.records for silo in run.silos) if known else None,
        labels=dict(labels) if known and labels else None,
        test=run.test_records,
    )


def _spent(run: Run) -> float | None:
    """By the ledger where there is one, of the silo that spent most."""
    if run.guarantee is None:
        return None
    found = [
        run.books.spent(silo, delta=run.guarantee.delta) if run.books else None
        for silo in run.guarantee.per_silo
    ]
    known = [value for value in found if value is not None]
    # One silo that the ledger does not know may be the one that spent most.
    return max(known) if known and len(known) == len(found) else run.guarantee.max


def _remarks(run: Run) -> Iterator[str]:
    if not run.finished:
        yield f"unfinished: {run.last_round} of {run.planned} rounds so far"
    elif run.stopped:
        yield f"ended after {run.last_round} of {run.planned} rounds: {run.stopped}"
    if run.section("validation"):
        yield f"chosen by validation: {run.metric.label} by round is on those records"
    if run.guarantee and run.books is None:
        yield "no ledger: epsilon is what the summary says"
    if run.books and run.books.findings:
        yield f"the ledger is not whole: {run.books.findings[0]}"
    if run.guarantee and run.guarantee.cross_checks and not run.guarantee.cross_checks.agree:
        yield "epsilon is not confirmed by other accountants"


def _curve(values: Sequence[float | None], run: Run) -> dict[int, float]:
    rounds = (entry.round for entry in run.rounds)
    return {n: value for n, value in zip(rounds, values, strict=True) if value is not None}


def _mean_curve(cells: Sequence[Cell]) -> dict[int, float]:
    """As far as every cell has got."""
    # A run that a budget ended is shorter: a mean over those that went on would jump there.
    rows = zip(*(cell.values for cell in cells), strict=False)
    whole = {n: [v for v in row if v is not None] for n, row in enumerate(rows)}
    return {n: fmean(row) for n, row in whole.items() if len(row) == len(cells)}


def _first(curve: Mapping[int, float], target: float, metric: Metric) -> int | None:
    return next((n for n, value in curve.items() if metric.reached(value, target)), None)


def _mean(values: Iterator[float | None] | Iterator[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
