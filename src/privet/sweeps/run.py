"""`run_sweep`: from an experiment and its axes to results, cell by cell, and on after a kill."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from privet.devices import CPU, Device, demand_workers, processes
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.files import only_process
from privet.privacy.accounting.tuning import RandomRuns
from privet.simulations import Engine
from privet.sweeps.cells import CellJob, SweepTracking, finished, run_jobs
from privet.sweeps.plan import Planned, Planner, baselines_of, grid, seeds_of
from privet.sweeps.request import SweepRequest, sweep_toml
from privet.sweeps.results import SCHEMA, Axis, Cell, Settings, Sweep
from privet.sweeps.selection import choose, plan_selection
from privet.sweeps.statistics import with_estimates
from privet.sweeps.store import CELLS, LOCK, Store
from privet.tasks.files import data_folder
from privet.tasks.registry import kept_tasks


class SweepProgress(Protocol):
    """Is called as cells are done."""

    def begin(self, cells: Sequence[Cell], *, workers: int) -> None:
        """All cells, those that were done before among them."""

    def __call__(self, cell: Cell) -> None:
        """A cell that is done or has failed."""


class SilentSweep:
    """The SweepProgress that does nothing."""

    def begin(self, cells: Sequence[Cell], *, workers: int) -> None:
        """Nothing."""

    def __call__(self, cell: Cell) -> None:
        """Nothing."""


def run_sweep(
    experiment: Experiment,
    request: SweepRequest,
    *,
    private_tuning: RandomRuns | None,
    out: Path,
    workers: int | None,
    engine: Engine,
    device: Device,
    data_dir: Path | None,
    resume: bool,
    watch: SweepProgress,
    tracking: SweepTracking | None,
) -> Sweep:
    """The cells that `request` asks for, run and compared: `privet.sweep` without its report."""
    workers = workers or processes(device)
    demand_workers(device, workers)
    record = replace(
        _record(experiment, request, engine=engine, workers=workers, tuned=private_tuning),
        device=device.name,
        precision=device.precision,
    )
    settings = grid(record.axes, request.cells)
    data_dir = data_folder(data_dir)
    way = engine if device == CPU else f"{engine} on {device}"
    planner = Planner(experiment, engine=way, data_dir=data_dir)
    for each in settings:
        planner.check(each)
    # After all checks: a mistake leaves no folder behind.
    store = Store(out)
    before = store.open(resume=resume)
    # Data that are read now are in every worker that is forked, and are read once for all of them.
    with kept_tasks(), only_process(out / LOCK):
        begin = time.monotonic() - (before.seconds if before else 0.0)
        if private_tuning:
            planned, selection = plan_selection(planner, settings, private_tuning)
            own = tuple(each.cell.seed for each in planned)
            record = replace(record, seeds=own, selection=selection)
        else:
            planned = planner.plan(settings, record.seeds, record.baselines)
        record = replace(record, tried=_tried(before, planned))
        # Before the first cell, so that a sweep that is killed can be gone on with and repeated.
        store.save_request(sweep_toml(experiment, _request(record, request.cells)))
        progress = _Progress(record, store, planned, begin)
        return _run(progress, device, data_dir, watch, tracking)


def _record(
    experiment: Experiment,
    request: SweepRequest,
    *,
    engine: Engine,
    workers: int,
    tuned: RandomRuns | None,
) -> Sweep:
    """A sweep without cells; ExperimentError for a request that cannot be."""
    axes = tuple(Axis(key, tuple(values)) for key, values in request.axes.items())
    for axis in axes:
        if not axis.values or len(set(axis.values)) < len(axis.values):
            raise ExperimentError(f"axis {axis.key}: it needs values, each of them once")
    if tuned and not (request.seeds is None and request.baselines in (None, "none")):
        raise ExperimentError(
            "private tuning has seeds of its own and no baselines: leave them out"
        )
    return Sweep(
        schema=SCHEMA,
        experiment=experiment.model_dump(exclude_none=True),
        engine=engine,
        axes=axes,
        seeds=seeds_of(5 if request.seeds is None else request.seeds, experiment),
        baselines=() if tuned else baselines_of(request.baselines or "all"),
        cells=(),
        workers=workers,
    )


def _request(record: Sweep, cells: Sequence[Settings]) -> SweepRequest:
    """Private tuning draws seeds of its own and takes no baselines."""
    axes = {axis.key: axis.values for axis in record.axes}
    if record.selection:
        return SweepRequest(axes, cells)
    # To leave the key out would mean all of them.
    return SweepRequest(axes, cells, record.seeds, record.baselines or "none")


def _tried(before: Sweep | None, planned: Sequence[Planned]) -> tuple[str, ...]:
    now = (each.setting for each in planned if not each.cell.baseline)
    return tuple(dict.fromkeys([*(before.tried if before else ()), *now]))


@dataclass
class _Progress:
    """The results while they grow."""

    record: Sweep
    store: Store
    planned: Sequence[Planned]
    begin: float
    cells: dict[str, Cell] = field(default_factory=dict)

    def look(self) -> None:
        """Find the cells that are done in the folder."""
        for each in self.planned:
            folder = self.store.folder / CELLS / each.cell.address
            self.cells[each.cell.address] = (
                # A cell that failed in an earlier command has no folder: it is run again.
                finished(each.cell, folder) or self.cells.get(each.cell.address) or each.cell
            )

    def waiting(self) -> list[Planned]:
        return [p for p in self.planned if self.cells[p.cell.address].status == "waiting"]

    def note(self, cell: Cell) -> None:
        self.cells[cell.address] = cell
        if self.store.due:
            self.store.save(self.so_far())

    def so_far(self) -> Sweep:
        cells = tuple(self.cells.values())
        return replace(
            with_estimates(replace(self.record, cells=cells)),
            selection=self.record.selection and choose(self.record.selection, cells),
            seconds=time.monotonic() - self.begin,
        )

    def save(self) -> Sweep:
        sweep = self.so_far()
        self.store.save(sweep)
        self.store.save_tables(sweep)
        return sweep


def _run(
    progress: _Progress,
    device: Device,
    data_dir: Path | None,
    watch: SweepProgress,
    tracking: SweepTracking | None,
) -> Sweep:
    record, store = progress.record, progress.store
    store.clear_away()
    progress.look()
    watch.begin(list(progress.cells.values()), workers=record.workers)
    store.save(progress.so_far())
    if tracking:
        tracking.begin(record, folder=store.folder)
    folder = store.folder.absolute() / CELLS
    jobs = [
        CellJob(
            each.cell,
            each.experiment,
            folder / each.cell.address,
            record.engine,
            data_dir,
            device,
        )
        for each in progress.waiting()
    ]
    try:
        tracker = tracking.pipe if tracking else None
        for cell in run_jobs(jobs, workers=record.workers, tracker=tracker, device=device):
            progress.note(cell)
            watch(cell)
    finally:
        store.clear_away()
        progress.look()  # a cell may have been done when its process was ended
        result = progress.save()
    return result
