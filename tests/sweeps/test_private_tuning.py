"""The best of a random number of random settings, at its price."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privet import Experiment, sweep
from privet.errors import ExperimentError
from privet.privacy.accounting.tuning import RandomRuns, rdp_epsilon, run_rdp, selection_rdp
from privet.privacy.ledger import read_history
from privet.sweeps.request import runs_of
from privet.sweeps.store import read_sweep

TINY = Experiment.from_mapping(
    {
        "task": "digits",
        "rounds": 1,
        "seed": 4,
        "federation": {"silos": 3, "partition": "dirichlet", "alpha": 0.5},
        "training": {"batch_size": 64},
        "privacy": {"epsilon": 4.0},
    }
)
RUNS = RandomRuns("geometric", 4)


def test_the_release_is_the_best_run_and_costs_what_the_worst_setting_costs(tmp_path: Path) -> None:
    rates = [0.1, 0.5, 1.0]
    axes = {"training.lr": rates, "privacy.epsilon": [1, 4]}
    result = sweep(TINY, axes=axes, out=tmp_path, private_tuning=RUNS)
    selection = result.selection
    assert selection is not None
    assert read_sweep(tmp_path) == result
    assert len(result.cells) == selection.runs == len(set(result.seeds)) > 1
    assert selection.accuracy == max(cell.accuracy or 0 for cell in result.cells)
    [chosen] = [cell for cell in result.cells if cell.address == selection.chosen]
    assert (chosen.accuracy, chosen.settings) == (selection.accuracy, selection.settings)

    held = [json.loads((tmp_path / c.folder / "silos.json").read_text()) for c in result.cells]
    dealt = [[(silo["records"], silo["labels"]) for silo in each["silos"]] for each in held]
    assert all(each == dealt[0] for each in dealt)  # whatever the seed, a silo keeps its records

    costly = next(cell for cell in result.cells if cell.asked_epsilon == 4)
    books = read_history(tmp_path / costly.folder / "ledger.sqlite")
    curves = [run_rdp(event) for silo in books.datasets for event in books.events(silo)]
    one = max(rdp_epsilon(curve, delta=1e-5) for curve in curves)
    best = max(rdp_epsilon(selection_rdp(curve, RUNS), delta=1e-5) for curve in curves)
    assert (selection.run_epsilon, selection.epsilon) == pytest.approx((one, best))
    assert max(cell.epsilon or 0 for cell in result.cells) < one < best
    assert f"It costs epsilon {best:.3f} at delta = 1e-05 with the choice" in result.summary()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"axes": {"privacy.epsilon": [1, float("inf")]}}, r"every setting needs \[privacy\]"),
        ({"axes": {"evaluation.every": [1]}}, r"\[evaluation\] is not counted"),
        ({"axes": {"federation.alpha": [0.5, 1.0]}}, "the same records in the same silos"),
        ({"seeds": 3}, "seeds of its own and no baselines"),
        ({"baselines": "alone"}, "seeds of its own and no baselines"),
    ],
)
def test_what_has_no_price_is_refused(
    tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        sweep(TINY, out=tmp_path, private_tuning=RUNS, **asked)


def test_the_law_in_words() -> None:
    assert runs_of("poisson:8") == RandomRuns("poisson", 8.0)
    with pytest.raises(ExperimentError, match="--private-tuning geometric: expected LAW:MEAN"):
        runs_of("geometric")
