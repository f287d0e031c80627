"""What privet does, as functions: the commands of the same names call these.

The module stands above all rooms but the commands, because a run and its page belong together and
`simulations` must not know of `reports`. Libraries are imported by the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.errors import PrivetError

if TYPE_CHECKING:
    from privet.audits import Report
    from privet.audits.deep.record import DeepOptions
    from privet.devices import Precision
    from privet.experiment import Experiment
    from privet.privacy.accounting.tuning import RandomRuns
    from privet.record.history import Watch
    from privet.serving.model import TrainedModel
    from privet.simulations import Engine
    from privet.simulations.prepare import Prepared
    from privet.simulations.run import Execution
    from privet.sweeps.results import Settings, Sweep, Value
    from privet.sweeps.run import SweepProgress
    from privet.tracking.tracker import Tracking


def simulate(
    experiment: Experiment,
    *,
    out: Path,
    data_dir: Path | None = None,
    policy: Path | None = None,
    requester: str = "simulation",
    execution: Execution | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    track: str | None = None,
) -> dict[str, Any]:
    """Run `experiment`, write its `report.html`, and return the content of its `summary.json`.

    Every silo keeps to `policy`, a data holder's file, if there is one, in whose eyes `requester`
    asks; without, everything is allowed. What silos spend stands in the run folder's ledger, under
    their names.

    On the CPU the result of an engine is bit-identical for every number of workers; engines and
    devices differ by the rounding of float32, and by more with the precision bf16. `watch` is
    called with every entry of the history; `track` names a tracker that follows: mlflow,
    tensorboard or wandb, perhaps with a colon and a place (see `privet.tracking`). `resume` goes
    on from the last whole round in `out`, and a finished run to more rounds where its settings do
    not depend on how many there are
    (`Experiment.bound_to_rounds`). KeyboardInterrupt leaves a report of the rounds so far.

    Raises:
        PrivetError: settings or data that cannot run, before `out` is touched.
    """
    from privet.simulations.prepare import prepare
    from privet.simulations.run import Execution
    from privet.tracking.tracker import Tracking

    tracking = None if track is None else Tracking.parse(track)
    return simulate_prepared(
        prepare(experiment, data_dir=data_dir, policy=policy, requester=requester),
        out=out,
        execution=execution or Execution(),
        resume=resume,
        watch=watch,
        tracking=tracking,
    )


def simulate_prepared(
    prepared: Prepared,
    *,
    out: Path,
    execution: Execution,
    resume: bool,
    watch: Watch | None,
    tracking: Tracking | None,
) -> dict[str, Any]:
    """`simulate` for an experiment that `privet.simulations.prepare` has accepted."""
    from privet.record.history import look_away
    from privet.simulations.run import run_prepared
    from privet.tracking.following import both, tracked_run

    with tracked_run(tracking, prepared.experiment, folder=out) as follow, _run_reported(out):
        return run_prepared(
            prepared,
            out=out,
            execution=execution,
            resume=resume,
            watch=both(watch or look_away, follow),
        ).plain()


@contextmanager
def _run_reported(folder: Path) -> Iterator[None]:
    """Leave a report behind, also when the run is interrupted."""
    from privet.record.folder import RunFolder
    from privet.reports.run import write_report
    from privet.simulations.ledger import settle

    try:
        yield
    except KeyboardInterrupt:
        if RunFolder(folder).rounds():
            write_report(folder)
            settle(folder)
        raise
    write_report(folder)
    settle(folder)


def sweep(
    experiment: Experiment,
    *,
    axes: Mapping[str, Sequence[Value]] | None = None,
    cells: Sequence[Settings] = (),
    seeds: int | Sequence[int] | None = None,
    baselines: str | Iterable[str] | None = None,
    out: Path,
    workers: int | None = None,
    engine: Engine = "auto",
    device: str = "cpu",
    precision: Precision = "float32",
    data_dir: Path | None = None,
    resume: bool = False,
    private_tuning: RandomRuns | None = None,
    watch: SweepProgress | None = None,
    track: str | None = None,
) -> Sweep:
    """Run `experiment` at every combination of the axes' values, and at the listed `cells`.

    `axes`: dotted keys and their values, such as {"privacy.epsilon": [1, 8, math.inf]}, where an
    infinite epsilon is no differential privacy. `seeds`: how many (default: 5), from the
    experiment's own upwards, or which. `baselines`: "all" (default), "none", or some of

    - no-dp: the same federation without differential privacy;
    - alone: every silo trains on its own records, in as many rounds with as many local steps;
    - pooled: one silo holds all records and takes, in a round, as many steps as all silos together
      are expected to take, in batches of the same size: as many passes over the records.

    The last two are without differential privacy, average with plain fedavg and are evaluated on
    the same test records. `workers`: processes, a cell at a time in each (default: the cores, or
    the devices of the kind that `device` names; see `Execution`).

    A cell's result depends on settings, engine, device and data alone; it is a run folder in
    `out`/cells without report and plots. With `resume` the cells that are done are kept and all
    others run; axes, seeds and baselines may be others than before. A cell that fails says why in
    the results, and the rest go on. At the end `report.html` shows them all.

    With `private_tuning` the grid is not run: a random number of runs draw their settings from it,
    and `Sweep.selection` is the best with what it costs to release that one and nothing else
    (Papernot and Steinke 2022; see `privet.sweeps.selection`). Every run has a seed of its own, and
    there are no baselines.

    `track`: mlflow, tensorboard or wandb, perhaps with a colon and a place, follows every round of
    every cell (see `privet.tracking`).

    Raises:
        PrivetError: settings that cannot be, or a folder that holds a sweep already or is in use.
        KeyboardInterrupt: the results and the report so far stay.
    """
    from privet.devices import chosen
    from privet.sweeps.cells import tracked_sweep
    from privet.sweeps.request import SweepRequest
    from privet.sweeps.run import SilentSweep, run_sweep

    if not (baselines is None or isinstance(baselines, str)):
        baselines = tuple(baselines)
    with tracked_sweep(track, folder=out) as tracking, _sweep_reported(out):
        return run_sweep(
            experiment,
            SweepRequest(axes or {}, cells, seeds, baselines),
            private_tuning=private_tuning,
            out=out,
            workers=workers,
            engine=engine,
            device=chosen(device, precision),
            data_dir=data_dir,
            resume=resume,
            watch=watch or SilentSweep(),
            tracking=tracking,
        )


@contextmanager
def _sweep_reported(folder: Path) -> Iterator[None]:
    """Leave a report behind, also when the sweep is interrupted."""
    from privet.reports.sweep import write_report
    from privet.sweeps.store import SWEEP

    try:
        yield
    except KeyboardInterrupt:
        if (folder / SWEEP).exists():
            write_report(folder)
        raise
    write_report(folder)


def report(folder: Path, *, metric: str | None = None) -> Path:
    """Write the report of a run's or a sweep's folder, finished or not; return its path.

    `metric`: a figure to show in the place of the task's headline. A run's plots are written as
    well, into `plots`; a sweep's pictures stand beside its page.

    Raises:
        PrivetError: `folder` is neither, one of its files cannot be read, or nobody measured
            `metric`.
    """
    if (folder / "sweep.json").exists():
        from privet.reports import sweep as of_sweep

        return of_sweep.write_report(folder, metric=metric)
    if (folder / "experiment.toml").exists():
        from privet.reports import run as of_run

        return of_run.write_report(folder, plots=True, metric=metric)
    raise PrivetError(f"{folder} is not a run folder: it has no experiment.toml")


def load(
    run: Path | str,
    *,
    task: str | None = None,
    data_dir: Path | None = None,
    silo: str | None = None,
) -> TrainedModel:
    """Open the model that a run left: a run's or a fetched job's folder, or a model's file.

    `module` of what this gives is the torch module in evaluation mode, `predict` answers new
    records, and `card` says what the file says of itself, with the claim of its run.

    A file may come from a stranger: it is never unpickled, and a task of someone's own
    ("package.module:Class") is imported only where `task` names the same. `data_dir` is where the
    records are, for models whose file may not have what was taken from them. `silo` is whose model,
    where parts of it stay in their silos (`federation.local`).

    Raises:
        PrivetError: there is no such model, it does not fit its task, or its code is not allowed.
    """
    from privet.serving.model import load as opened

    return opened(Path(run), task=task, data_dir=data_dir, silo=silo)


def audit(
    paths: Sequence[Path],
    *,
    base: Path = Path(),
    delta: float = 1e-5,
    policy: Path | None = None,
    keys: Mapping[str, str] | None = None,
    anchors: Sequence[str] = (),
    deep: DeepOptions | None = None,
    watch: Callable[[str, int], None] | None = None,
) -> Report:
    """Audit run folders, folders of them, ledgers and exports; nothing is written.

    `keys` and `anchors` are what the auditor has from elsewhere than the files, 64 hexadecimal
    digits each: the public keys of silos by name ("simulation": the one key of a simulation), and
    those of projects. A signed list of parties among `paths` adds its silos' keys by name. Without
    any of them no verdict is better than UNANCHORED. The rest is as `privet.audits.audit` says.

    Raises:
        PrivetError: a path with nothing to audit, a list that no key of `anchors` or `keys` signed,
            or an anchor that signed no list.
    """
    from privet import audits

    lists = [path for path in paths if _is_list_of_parties(path)]
    known, used = dict(keys or {}), set()
    for path in lists:
        key, silos = _silos_of(path, [*anchors, *(keys or {}).values()])
        for name, own in silos.items():
            if known.setdefault(name, own) != own:
                raise PrivetError(f"{path}: the key of {name} is not the one that was given")
        used.add(key)
    for key in anchors:
        if key not in used:
            raise PrivetError(
                f"the anchor {key} signed no list of parties among the paths; add the project's "
                "list, or give a silo's key with its name, NAME=HEX"
            )
    return audits.audit(
        [path for path in paths if path not in lists],
        base=base,
        delta=delta,
        policy=policy,
        keys=known,
        anchors=anchors,
        deep=deep,
        watch=watch or audits.look_away,
    )


def _is_list_of_parties(path: Path) -> bool:
    if not path.is_file():
        return False
    # By its beginning: a ledger, which may be among the paths, is not read as text.
    with path.open("rb") as stream:
        return b'"signed"' in stream.read(100)


def _silos_of(path: Path, keys: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The one of `keys` that signed a list, and the keys of its silos; PrivetError for none."""
    from privet import audits
    from privet.deployment.parties.reading import load_parties

    for key in keys:
        try:
            parties = load_parties(path, project_key=key)
        # The list does not say whose it is: every key is tried.
        except PrivetError:
            continue
        silos = {each.name: each.identity for each in parties.members if each.role == "silo"}
        # That a key speaks for all silos of a run is for the auditor to say, and for no list.
        if audits.SIMULATION in silos:
            raise PrivetError(
                f"{path}: a silo is called {audits.SIMULATION!r}, the name of a key that signs for "
                "all silos of a simulation; give the keys one by one, --anchor NAME=HEX"
            )
        return key, silos
    raise PrivetError(
        f"{path}: it is signed by none of the keys that were given; give the project's, as "
        "--anchor HEX"
    )
