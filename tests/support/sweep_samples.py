"""Sweeps as their folders would tell them, made from a formula, with a real one's statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from privet.sweeps.plan import grid
from privet.sweeps.results import Axis, Cell, Kind, Selection, Settings, Sweep, Value, to_plain
from privet.sweeps.statistics import compare, estimate

BUDGETS = Axis("privacy.epsilon", (1, 4, math.inf))
RATES = Axis("training.lr", (0.1, 1.0))
SILOS = ("silo-0", "silo-1", "silo-2")
HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "{{ 7 * 7 }} </style><svg onload=window.hacked=1>",
)
EXPERIMENT: Mapping[str, object] = {
    "task": "digits",
    "rounds": 4,
    "training": {"lr": 0.5},
    "privacy": {"epsilon": 4.0, "delta": 1e-5},
}


def sample(
    *,
    axes: Sequence[Axis] = (BUDGETS,),
    seeds: Sequence[int] = (3, 4, 5),
    silos: Sequence[str] = SILOS,
    baselines: Sequence[str] = ("alone", "pooled"),
    by_silo: bool = True,
    experiment: Mapping[str, object] = EXPERIMENT,
) -> Sweep:
    """Every cell done; accuracy grows with the budget and differs a little from seed to seed."""
    federated = [_cell("federated", each, seed, silos) for each in grid(axes) for seed in seeds]
    beside = list(_baselines(axes, seeds, silos, baselines))
    cells = tuple(
        replace(cell, address=f"{place:016x}", accuracy_per_silo=cell.accuracy_per_silo)
        if by_silo
        else replace(cell, address=f"{place:016x}", accuracy_per_silo=None)
        for place, cell in enumerate([*federated, *beside])
    )
    blank = Sweep(
        schema=1,
        experiment=experiment,
        engine="auto",
        axes=tuple(axes),
        seeds=tuple(seeds),
        baselines=tuple(baselines),
        cells=cells,
        tried=tuple(f"{place}" for place in range(len(grid(axes)))),
        seconds=75.0,
        workers=2,
    )
    return with_cells(blank, cells)


def with_cells(sweep: Sweep, cells: Sequence[Cell]) -> Sweep:
    """The sweep with other cells and what follows from them."""
    estimates = estimate(cells)
    compared = compare(cells, estimates, sweep.axes)
    return replace(
        sweep, cells=tuple(cells), estimates=tuple(estimates), comparisons=tuple(compared)
    )


def unfinished() -> Sweep:
    """The last seed of the largest budget waits, one cell failed, for a hostile reason."""
    whole = sample(axes=(BUDGETS, RATES))
    cells = [
        replace(_blank(cell), status="failed", reason=f"bad {HOSTILE[0]}")
        if place == 0
        else _blank(cell)
        if place == 8
        else cell
        for place, cell in enumerate(whole.cells)
    ]
    return with_cells(whole, cells)


def hostile() -> Sweep:
    """Names of silos, of the task and of settings that try to become markup or script."""
    axes = (Axis("strategy.name", HOSTILE), BUDGETS)
    return sample(axes=axes, silos=HOSTILE, experiment={"task": HOSTILE[0]})


def tuned() -> Sweep:
    """Private tuning with a release."""
    whole = sample(axes=(Axis("privacy.epsilon", (1, 4)), RATES), seeds=(3,), baselines=())
    best = max(whole.cells, key=lambda cell: cell.accuracy or 0)
    law = Selection(
        law="geometric",
        expected_runs=4.0,
        runs=4,
        chosen=best.address,
        settings=best.settings,
        accuracy=best.accuracy,
        run_epsilon=4.5,
        epsilon=9.1,
        delta=1e-5,
    )
    return replace(whole, selection=law)


def without_privacy() -> Sweep:
    """An axis of texts and one of numbers, and no budget anywhere."""
    plain = {"task": "digits", "training": {"lr": 0.5}}
    names = Axis("strategy.name", ("fedavg", "fedprox"))
    return sample(axes=(names, RATES), experiment=plain, by_silo=False)


def nothing_done() -> Sweep:
    """All cells wait."""
    whole = sample()
    return with_cells(whole, [_blank(cell) for cell in whole.cells])


def write(sweep: Sweep, folder: Path) -> Path:
    """A sweep's folder with its results."""
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(to_plain(sweep)), encoding="utf-8")
    (folder / "sweep.toml").write_text('task = "digits"\n', encoding="utf-8")
    return folder


def _baselines(
    axes: Sequence[Axis], seeds: Sequence[int], silos: Sequence[str], names: Sequence[str]
) -> Iterator[Cell]:
    kept = [axis for axis in axes if axis.key.startswith("training.")]
    for settings in grid(kept):
        for seed in seeds:
            if "alone" in names:
                for silo in silos:
                    yield replace(_cell("alone", settings, seed, silos), silo=silo)
            if "pooled" in names:
                yield _cell("pooled", settings, seed, silos)


def _cell(kind: Kind, settings: Settings, seed: int, silos: Sequence[str]) -> Cell:
    budget = _number(settings.get("privacy.epsilon", math.inf))
    level = {"federated": 0.9 - 0.2 / (1 + budget), "alone": 0.6, "pooled": 0.95}[kind]
    wobble = math.sin(7 * seed + sum(map(ord, f"{kind}{settings}")))
    accuracy = level + 0.03 * wobble
    private = kind == "federated" and math.isfinite(budget)
    spent = budget * 0.99 if private else None
    return Cell(
        address="",
        kind=kind,
        baseline=kind != "federated",
        settings=settings,
        seed=seed,
        status="done",
        asked_epsilon=budget if private else None,
        epsilon=spent,
        epsilon_per_silo=dict.fromkeys(silos, spent) if private else None,
        delta=1e-5 if private else None,
        accuracy=accuracy,
        loss=1 - accuracy,
        accuracy_per_silo={silo: accuracy - 0.05 * place for place, silo in enumerate(silos)},
        accuracies=tuple(0.1 + (accuracy - 0.1) * share for share in (0, 0.5, 0.9, 0.99, 1)),
        seconds=1.5,
        bytes_up=40_000,
        bytes_down=50_000,
    )


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


def _blank(cell: Cell) -> Cell:
    """The same cell before it was run."""
    asked = ("address", "kind", "baseline", "settings", "seed", "silo", "asked_epsilon", "delta")
    return Cell(**{name: getattr(cell, name) for name in asked})
