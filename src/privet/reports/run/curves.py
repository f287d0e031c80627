"""The three charts over rounds: the metric, loss and epsilon spent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from privet.charts.chart import Chart, Series, Values, line_chart, silo_style
from privet.charts.scales import finite
from privet.metrics import Metric
from privet.record.history import RoundRecord
from privet.record.run import Run

OWN_RECORDS = "silos’ own records, mean"
FEW = 12
"""Up to this many silos get a line each; more are drawn as a band."""


@dataclass(frozen=True)
class _Quantity:
    """What is drawn: one value a round, and perhaps one for each silo.

    `edges` names the lines of a band, for a quantity whose overall value is not itself an edge.
    """

    title: str
    name: str
    metric: str | None
    """The same, measured by the silos on records of their own."""
    overall: Callable[[RoundRecord], float | None]
    per_silo: Callable[[RoundRecord], Mapping[str, float]]
    edges: tuple[str, ...]
    zero: bool
    unit: str = "by round"


def _quantity(metric: Metric) -> _Quantity:
    return _Quantity(
        title=metric.titled_unit,
        name="all silos",
        metric=metric.name,
        overall=lambda entry: entry.figures.get(metric.name),
        per_silo=lambda entry: entry.of_silos(metric.name),
        edges=("lowest silo", "highest silo"),
        zero=False,
    )


_LOSS = _Quantity(
    title="Loss",
    name="all silos",
    metric="loss",
    overall=lambda entry: entry.loss,
    per_silo=lambda _: {},
    edges=(),
    zero=True,
)
_EPSILON = _Quantity(
    title="Epsilon spent",
    name="highest silo",
    metric=None,
    overall=lambda entry: max(entry.silo_epsilon.values(), default=None),
    per_silo=lambda entry: entry.silo_epsilon,
    edges=("lowest silo",),
    zero=True,
    unit="by round and silo",
)


def metric_chart(run: Run) -> Chart | None:
    """The metric on held-out records, with each silo's where the run measured them, and the mean on
    the silos' own records. None where it is the loss, which has a chart of its own."""
    return None if run.metric.name == "loss" else _chart(_quantity(run.metric), run)


def loss_chart(run: Run) -> Chart | None:
    """Loss on held-out records, and the mean on the silos' own records."""
    return _chart(_LOSS, run)


def epsilon_chart(run: Run) -> Chart | None:
    """Epsilon spent so far by each silo, the highest emphasised, and the target if one was set.

    Silos that keep their account are left out; None when all do.
    """
    shown = without_kept(run)
    return _chart(_EPSILON, shown, target=target_epsilon(run)) if shown.rounds else None


def without_kept(run: Run) -> Run:
    """The run as the silos that tell their account see it; without rounds when there are none."""
    kept = run.kept
    if not kept:
        return run
    rounds = tuple(entry.without_epsilon_of(kept) for entry in run.rounds)
    return replace(run, rounds=rounds if any(e.silo_epsilon for e in rounds) else ())


def own_means(run: Run, metric: str) -> list[float | None]:
    """By round, the mean of a metric on the silos' own records; None without an evaluation."""
    found = (entry.evaluation for entry in run.rounds)
    return [measured.metrics.get(metric) if measured else None for measured in found]


def target_epsilon(run: Run) -> float | None:
    """The epsilon that the experiment asked for; None when it set the noise instead."""
    asked = run.section("privacy").get("epsilon")
    return float(asked) if isinstance(asked, int | float) else None


def in_order(run: Run, names: Iterable[str]) -> list[str]:
    """`names` without repeats, as the run lists its silos; names it does not know come last."""
    places = {silo.name: place for place, silo in enumerate(run.silos)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), natural(name)))


def natural(name: str) -> tuple[int, str]:
    """A sort key that puts silo-2 before silo-10."""
    # Of long ones no number is made: `int` takes quadratic time, and names come from silos.
    digits = name[len(name.rstrip("0123456789")) :]
    return (int(digits) if 0 < len(digits) < 10 else -1, name)


def _chart(quantity: _Quantity, run: Run, *, target: float | None = None) -> Chart | None:
    """A bold line over thin ones for few silos, or over a band from the lowest to the highest."""
    total = [quantity.overall(entry) for entry in run.rounds]
    own = own_means(run, quantity.metric) if quantity.metric else []
    if not finite([*total, *own]):
        return None
    found = [quantity.per_silo(entry) for entry in run.rounds]
    names = in_order(run, (name for values in found for name in values))
    # A dozen lines can still be told apart.
    band = _extremes(found) if len(names) > FEW else None
    thin = (
        [Series(name, values, "edge") for name, values in zip(quantity.edges, band, strict=False)]
        if band
        else [
            Series(name, [values.get(name) for values in found], silo_style(index))
            for index, name in enumerate(names)
        ]
    )
    both = bool(finite(total) and finite(own))
    on = "validation records" if run.section("validation") else "held-out records"
    bold = [Series(on if both else quantity.name, total, "total")]
    mean = [Series(OWN_RECORDS, own, "own", sparse=True)]
    return line_chart(
        title=quantity.title,
        rounds=[entry.round for entry in run.rounds],
        series=[*(bold if finite(total) else []), *(mean if finite(own) else []), *thin],
        band=band,
        target=target,
        zero=quantity.zero,
        unit=quantity.unit,
        # The chart that stands alone in its row on the page.
        height=304 if quantity is _EPSILON else 240,
    )


def _extremes(found: Sequence[Mapping[str, float]]) -> tuple[Values, Values]:
    known = [finite(values.values()) for values in found]
    return [min(k, default=None) for k in known], [max(k, default=None) for k in known]
