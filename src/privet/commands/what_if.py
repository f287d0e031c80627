"""`privet ledger what-if`: would this experiment fit a budget, and what would it leave?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.commands.options import ExperimentFile, Settings, Unset, read_experiment
from privet.errors import PrivetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from privet.client.guard import Prospect
    from privet.client.training import LocalPlan
    from privet.experiment import Experiment
    from privet.privacy.ledger import History
    from privet.privacy.policy import Policy


LedgerFile = Annotated[Path, typer.Option(help="The silo's ledger.")]
PolicyFile = Annotated[Path, typer.Option(help="The data holder's policy.")]
Dataset = Annotated[str | None, typer.Option(help="Name of the data set. [default: the only one]")]
Records = Annotated[
    int | None, typer.Option(min=1, help="Number of records. [default: count them]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data, to count them. [default: $PRIVET_DATA]")
]
SiloFolder = Annotated[
    Path | None, typer.Option(help="The silo's kit, to count the records that it describes.")
]
Requester = Annotated[str, typer.Option(help="Who would ask.")]


def what_if(
    file: ExperimentFile,
    settings: Settings = None,
    unset: Unset = None,
    ledger: LedgerFile = Path("ledger.sqlite"),
    policy: PolicyFile = Path("policy.toml"),
    dataset: Dataset = None,
    records: Records = None,
    data_dir: DataDir = None,
    kit: SiloFolder = None,
    requester: Requester = "unknown",
) -> None:
    """Say whether an experiment would fit the budget, and what it would leave. Charges nothing."""
    from rich.console import Console

    from privet.client.guard import RequestOrigin, what_if
    from privet.client.training import plan_round
    from privet.privacy.ledger import read_history
    from privet.privacy.policy import Policy
    from privet.tasks.defaults import completed

    experiment = completed(read_experiment(file, settings, unset)).experiment
    rules, history = Policy.from_file(policy), read_history(ledger)
    count = records or (_held(experiment, kit) if kit else _count(experiment, data_dir))
    origin = RequestOrigin(
        dataset=dataset or (_meant(experiment, kit) if kit else _only(history, rules)),
        requester=requester,
        # A name that no job has, so that what the policy allows a job is still whole.
        job="what if: a job not yet begun",
    )
    asked = plan_round(experiment, n_records=count)
    prospect = what_if(
        experiment,
        asked,
        policy=rules,
        history=history,
        origin=origin,
        month=datetime.now(UTC).strftime("%Y-%m"),
    )
    for line in _job(experiment, asked, prospect.plan, origin.dataset, count):
        typer.echo(line)
    if prospect.outlook.whole:
        Console().print(_table_of_silos(prospect, experiment.rounds))
    typer.echo(_verdict(prospect, experiment.rounds))
    if not prospect.outlook.fits:
        raise typer.Exit(1)


def _count(experiment: Experiment, data_dir: Path | None) -> int:
    from privet.client.silo import load_local_data
    from privet.tasks.files import data_folder

    place = load_local_data(experiment, data_dir=data_folder(data_dir), run_id=0, divided=False)
    return place.sizes[0]


def _held(experiment: Experiment, kit: Path) -> int:
    """The records that a silo would train on; what does not match its description is refused."""
    from privet.client.silo import as_held, load_local_data
    from privet.deployment.parties import SiloKit
    from privet.tasks.files import data_folder

    config = SiloKit.from_folder(kit)
    expected = as_held(experiment, config.data_settings(experiment))
    place = load_local_data(
        expected, data_dir=data_folder(config.data_dir), run_id=0, divided=False, held=True
    )
    return place.sizes[0]


def _meant(experiment: Experiment, kit: Path) -> str:
    from privet.deployment.parties import SiloKit

    return SiloKit.from_folder(kit).meant(experiment)[0]


def _only(history: History, policy: Policy) -> str:
    """The one data set that the ledger knows, or that the policy names."""
    known = history.datasets or tuple(name for name in policy.data if name != "*")
    if len(known) != 1:
        raise PrivetError(f"--dataset: name the data set ({', '.join(known) or 'none is known'})")
    return known[0]


def _job(
    experiment: Experiment, asked: LocalPlan, runs: LocalPlan, dataset: str, count: int
) -> Iterator[str]:
    yield (
        f"{experiment.task} on {dataset}: {experiment.rounds} rounds of {runs.steps} steps, "
        f"{count:,} records"
    )
    if runs.mechanism is None or asked.mechanism is None:
        yield "Without differential privacy: the loss has no bound."
        return
    yield (
        f"Noise multiplier {runs.mechanism.noise_multiplier:.4g}, sampling rate "
        f"{runs.mechanism.sampling_rate:.4g}, clip norm {runs.mechanism.clip:g}"
    )
    if runs.mechanism.noise_multiplier > asked.mechanism.noise_multiplier:
        yield (
            f"The noise would be raised from {asked.mechanism.noise_multiplier:.4g} so that all "
            "rounds fit (privacy.on_budget)."
        )


def _table_of_silos(prospect: Prospect, rounds: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("limit", overflow="fold")
    for title in ("spent", "after 1 round", f"after {rounds}", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    outlook = prospect.outlook
    for coming, whole in zip(outlook.coming, outlook.whole, strict=True):
        left = whole.limit.epsilon - whole.projected
        table.add_row(
            str(whole.limit),
            f"{whole.spent:.3f}",
            f"{coming.projected:.3f}",
            f"{whole.projected:.3f}",
            f"{left:.3f}" if whole.fits else "over",
        )
    return table


def _verdict(prospect: Prospect, rounds: int) -> str:
    outlook = prospect.outlook
    if not outlook.whole:
        return "It fits: the policy sets no limit that could be reached."
    if outlook.fits:
        return "It fits: every limit would hold after the last round."
    if outlook.rounds == 0:
        return "It does not fit: not one round would be allowed."
    return f"It does not fit: {outlook.rounds} of {rounds} rounds would be allowed, then refused."
