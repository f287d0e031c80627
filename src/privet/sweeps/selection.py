"""Private tuning: random settings a random number of times, and what the best of them costs.

Papernot and Steinke 2022 (arXiv 2110.03620). Every run draws one of the settings by itself, with a
seed of its own, on silos that hold the same records in all runs. The score is the headline on the
records for validation, or without [validation] on the task's test records. Both count as public
here: they are nobody's whom epsilon protects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from privet.client.training import plan_round
from privet.errors import ExperimentError
from privet.privacy.accounting import dp_sgd_event
from privet.privacy.accounting.tuning import (
    Curve,
    RandomRuns,
    rdp_epsilon,
    run_rdp,
    selection_rdp,
)
from privet.randomness import numpy_generator, stream
from privet.sweeps.plan import Planned, Planner
from privet.sweeps.results import Cell, Selection, Settings

_NOT_PARTITION = ("participation", "dropout", "min_silos")


def plan_selection(
    planner: Planner, settings: Sequence[Settings], runs: RandomRuns
) -> tuple[list[Planned], Selection]:
    """The runs that are drawn, and the cost of releasing the best of them.

    Raises ExperimentError for settings without differential privacy or with [evaluation] (whose
    releases are not counted), for silos that differ between settings, and without test records.
    """
    options = [planner.fixed(each, seed=planner.seed) for each in settings]
    # Settings and their number come from one stream of the seed, so that a sweep that goes on after
    # a kill draws the same: to draw again until the result pleases would cost more than this.
    options_named = json.dumps([dict(each) for each in settings], sort_keys=True)
    rng = numpy_generator(stream(planner.seed, "private tuning", options_named))
    drawn = [int(rng.integers(len(settings))) for _ in range(runs.draw(rng))]
    planned = [
        # By its number in the drawing: two runs of one setting are two runs, and both are paid for.
        planner.fixed(settings[place], seed=planner.seed + number)
        for number, place in enumerate(drawn)
    ]
    cost = _cost(planner, options, runs)
    return planned, replace(cost, runs=len(drawn))


def choose(selection: Selection, cells: Sequence[Cell]) -> Selection:
    """The selection with the best cell in it, once no cell waits; the first of equals."""
    done = [cell for cell in cells if cell.value is not None]
    if not done or any(cell.status == "waiting" for cell in cells):
        return selection
    best = max(done, key=_score)
    return replace(selection, chosen=best.address, settings=best.settings, accuracy=best.value)


def _score(cell: Cell) -> float:
    return cell.metric.worth(cell.value if cell.chosen_by is None else cell.chosen_by)


def _cost(planner: Planner, options: Sequence[Planned], runs: RandomRuns) -> Selection:
    """By silo: the largest curve of any setting, at each order, and what choosing makes of it."""
    for option in options:
        if option.experiment.privacy is None or option.experiment.evaluation is not None:
            raise ExperimentError(
                "private tuning: every setting needs [privacy], and [evaluation] is not counted"
            )
    data = planner.dealt(options[0])
    if len({_records(option) for option in options}) > 1 or data.task.test_data() is None:
        raise ExperimentError(
            "private tuning: all settings need the same records in the same silos, and the task "
            "needs test records"
        )
    # An epsilon at the smallest delta holds at the others. At each order the largest curve counts,
    # since the data decide which setting is released.
    delta = min(option.experiment.privacy.delta for option in options if option.experiment.privacy)
    curves = [
        np.max([_curve(option, n_records=size) for option in options], axis=0)
        for size in sorted(set(data.sizes))
    ]
    return Selection(
        law=runs.law,
        expected_runs=runs.mean,
        runs=0,
        chosen=None,
        settings=None,
        accuracy=None,
        run_epsilon=max(rdp_epsilon(curve, delta=delta) for curve in curves),
        epsilon=max(rdp_epsilon(selection_rdp(curve, runs), delta=delta) for curve in curves),
        delta=delta,
    )


def _records(option: Planned) -> str:
    """What decides which records a silo holds."""
    data = dict(option.experiment.data)
    partition = {k: v for k, v in data.pop("federation").items() if k not in _NOT_PARTITION}
    validation = option.experiment.validation
    share = validation.share if validation else 0.0
    return repr((sorted(partition.items()), sorted(data.items()), share))


def _curve(option: Planned, *, n_records: int) -> Curve:
    """One run of a silo that takes part in every round."""
    mechanism = plan_round(option.experiment, n_records=n_records).mechanism
    assert mechanism is not None
    # Settings that differ in what costs nothing share a curve.
    return _cached_curve(
        mechanism.noise_multiplier,
        mechanism.sampling_rate,
        mechanism.steps * option.experiment.rounds,
    )


@cache
def _cached_curve(noise_multiplier: float, sampling_rate: float, steps: int) -> Curve:
    return run_rdp(
        dp_sgd_event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)
    )
