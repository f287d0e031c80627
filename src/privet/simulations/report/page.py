"""A run as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from privet.simulations.pages.formatting import bound, counted, decimal, duration, scientific, size
from privet.simulations.pages.page import CHARTS, Page
from privet.simulations.report.assumptions import assumptions, checks_sentence
from privet.simulations.report.attendance import attendance
from privet.simulations.report.curves import FEW, accuracy_chart, epsilon_chart, loss_chart
from privet.simulations.report.distribution import distribution
from privet.simulations.report.encryption import encryption
from privet.simulations.report.ledger import ledger
from privet.simulations.report.measured import evaluation
from privet.simulations.report.observers import observers
from privet.simulations.report.reasons import failures, refusals
from privet.simulations.report.run import Run
from privet.simulations.report.verdict import (
    alarms,
    finite_guarantee,
    is_private,
    meaning,
    own_accuracy,
    verdict,
)
from privet.simulations.report.void import is_void, voids

_HERE = Path(__file__).parent
_SUMS = ", encrypted from the first sum on; messages about keys and masks not counted"
_UPLOADS = ", encrypted; messages about keys and masks not counted"


_PAGE = Page(_HERE / "report.html.jinja", styles=(_HERE / "report.css",), scripts=(CHARTS,))


class Figure(NamedTuple):
    """A number of the header or of the cost table."""

    name: str
    value: str
    note: str = ""


def render(run: Run) -> str:
    """The whole page."""
    books = ledger(run)
    accuracy, loss = accuracy_chart(run), loss_chart(run)
    return _PAGE.render(
        run=run,
        title=f"{run.settings.get('task', 'unnamed task')}",
        subtitle=_subtitle(run),
        verdict=verdict(run),
        meaning=meaning(run),
        alarms=alarms(run, books),
        figures=tuple(_headline(run)),
        private=is_private(run),
        guarantee=finite_guarantee(run),
        checks=checks_sentence(run, run.guarantee) if run.guarantee else None,
        accuracy=accuracy,
        loss=loss,
        own_line=any(chart and chart.has("own") for chart in (accuracy, loss)),
        epsilon=epsilon_chart(run) if finite_guarantee(run) else None,
        few=FEW,
        evaluation=evaluation(run),
        ledger=books,
        distribution=distribution(run),
        attendance=attendance(run),
        failures=failures(run),
        refusals=refusals(run),
        skipped=tuple(
            (entry.number, entry.skipped)
            for entry in run.trained
            if entry.skipped and not is_void(run, entry)
        ),
        voids=voids(run),
        encryption=encryption(run),
        observers=observers(run),
        assumptions=assumptions(run),
        costs=tuple(_costs(run)),
    )


def _subtitle(run: Run) -> str:
    strategy = run.section("strategy").get("name", "fedavg")
    parts = [f"{run.settings['model']} model"] if run.settings.get("model") else []
    if run.silos:
        parts.append(counted(len(run.silos), "silo"))
    parts.append(str(strategy))
    if run.sealing:
        parts.append("encrypted sums")
    if "seed" in run.settings:
        parts.append(f"seed {run.settings['seed']}")
    return " · ".join(parts)


def _headline(run: Run) -> Iterator[Figure]:
    held_out = counted(run.test_records, "held-out record") if run.test_records else ""
    if run.accuracy is not None:
        yield Figure("Accuracy", decimal(run.accuracy), held_out)
    elif run.loss is not None:
        yield Figure("Loss", decimal(run.loss), held_out)
    elif own_accuracy(run) is not None:
        yield Figure("Accuracy", decimal(own_accuracy(run)), "on the silos’ own records")
    promise = finite_guarantee(run)
    if promise:
        yield Figure(
            "Epsilon", f"≤ {bound(promise.epsilon)}", f"at delta {scientific(promise.delta)}"
        )
    else:
        yield Figure("Epsilon", "none", "no privacy guarantee")
    whole = run.finished and run.stopped is None
    yield Figure(
        "Rounds", f"{run.last_round:,}", "" if whole else f"of {run.settings.get('rounds')}"
    )
    if run.silos:
        records = sum(silo.records for silo in run.silos)
        yield Figure("Training records", f"{records:,}", f"in {counted(len(run.silos), 'silo')}")


def _costs(run: Run) -> Iterator[Figure]:
    yield Figure("Total time", duration(run.seconds.get("total")))
    sealed = run.sealing is not None
    where = "in the silos" + ", encryption included" * sealed
    yield Figure("Training", duration(run.seconds.get("training")), where)
    yield Figure("Aggregation", duration(run.seconds.get("aggregation")), "on the server")
    if "encryption" in run.seconds:
        yield Figure("Encryption", duration(run.seconds["encryption"]))
    evaluation = sum(entry.seconds.get("evaluation", 0.0) for entry in run.rounds)
    yield Figure("Evaluation", duration(evaluation), "on held-out records")
    down = sum(entry.bytes_down for entry in run.rounds)
    up = sum(entry.bytes_up for entry in run.rounds)
    rounds = max(len(run.trained), 1)
    yield Figure("Server to silos", size(down), f"{size(down / rounds)} a round{_SUMS * sealed}")
    yield Figure("Silos to server", size(up), f"{size(up / rounds)} a round{_UPLOADS * sealed}")
    yield Figure("Client updates", f"{run.client_updates:,}")
    if run.client_updates_per_second is not None:
        yield Figure("Client updates per second", f"{run.client_updates_per_second:.3g}")
