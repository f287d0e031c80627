"""Which cells there are, and what they are recognised by."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet import Experiment
from privet.errors import ExperimentError
from privet.simulations.run import simulate
from privet.sweeps.plan import Planner, address, baselines_of, data_identity, setting
from privet.sweeps.request import SweepRequest
from privet.sweeps.results import Cell

BASE = Experiment.from_mapping({"task": "digits", "federation": {"silos": 3}})

VALUES = {
    "rounds": st.integers(1, 50),
    "seed": st.integers(0, 9),
    "model": st.sampled_from(["linear", "mlp"]),
    "training.lr": st.sampled_from([0.1, 0.25, 1, 1.0]),
    "training.batch_size": st.integers(1, 64),
    "privacy.epsilon": st.sampled_from([1, 2.5, math.inf]),
    "strategy.name": st.sampled_from(["fedavg", "fedprox"]),
    "federation.participation": st.sampled_from([0.5, 1]),
}
SETTINGS = st.fixed_dictionaries({}, optional=VALUES)


def _address(experiment: Experiment, *, engine: str = "auto", data: str = "data") -> str:
    return address(experiment, engine=engine, data=data)


@given(SETTINGS, SETTINGS)
def test_the_address_changes_with_settings_and_only_with_them(one: dict, two: dict) -> None:
    first, second = BASE.with_settings(one), BASE.with_settings(two)
    same = first.to_toml() == second.to_toml()
    assert (_address(first) == _address(second)) == same


@given(SETTINGS, st.randoms())
def test_neither_order_nor_written_defaults_matter(settings: dict, random: object) -> None:
    experiment = BASE.with_settings(settings)
    shuffled = random.sample(list(settings.items()), len(settings))
    assert _address(BASE.with_settings(dict(shuffled))) == _address(experiment)
    whole = Experiment.from_mapping(experiment.model_dump(exclude={"training": {"epochs"}}))
    assert _address(whole) == _address(experiment)


def test_engine_and_data_belong_to_the_address() -> None:
    assert _address(BASE) != _address(BASE, engine="in-process")
    assert _address(BASE) != _address(BASE, data="other data")


def test_the_seed_belongs_to_the_address_and_not_to_the_setting() -> None:
    other = BASE.with_settings({"seed": 1})
    assert _address(BASE) != _address(other)
    assert setting(BASE) == setting(other) != setting(BASE.with_settings({"rounds": 3}))


def test_other_data_are_another_identity() -> None:
    names = ("digits", "toy_tasks:DigitsButOne", "toy_tasks:Tiny", "toy_tasks:Fewer")
    tasks = [BASE.with_settings({"task": name}) for name in names]
    tasks.append(BASE.with_settings({"model": "mlp"}))
    found = [data_identity(task, data_dir=None) for task in tasks]
    assert len(set(found)) == len(tasks)
    assert found[0] == data_identity(BASE, data_dir=None)


def _plan(experiment: Experiment, settings: list[dict], names: str = "all") -> list[Cell]:
    planner = Planner(experiment, engine="auto", data_dir=None)
    planned = planner.plan(settings, [0], baselines_of(names))
    return [each.cell for each in planned]


def test_baselines_are_there_once_for_what_matters_to_them() -> None:
    grid = [
        {"privacy.epsilon": epsilon, "strategy.name": name, "training.lr": lr}
        for epsilon in (1, 2)
        for name in ("fedavg", "fedprox")
        for lr in (0.1, 0.2)
    ]
    cells = _plan(BASE, grid)[len(grid) :]
    found = [(cell.kind, cell.silo, dict(cell.settings)) for cell in cells]
    plain = [each for kind, _, each in found if kind == "federated"]
    assert plain == [
        {"strategy.name": name, "training.lr": lr, "privacy.epsilon": math.inf}
        for name in ("fedavg", "fedprox")
        for lr in (0.1, 0.2)
    ]
    assert [each for each in found if each[0] == "pooled"] == [
        ("pooled", None, {"training.lr": lr}) for lr in (0.1, 0.2)
    ]
    assert [each[:2] for each in found if each[0] == "alone"] == [
        ("alone", f"silo-{i}") for i in range(3)
    ] * 2
    assert all(cell.baseline for cell in cells)
    assert all(cell.asked_epsilon is cell.delta is None for cell in cells)


def test_without_privacy_the_federation_is_its_own_baseline() -> None:
    assert len(_plan(BASE, [{}], "no-dp")) == 1
    assert len(_plan(BASE.with_settings({"privacy.epsilon": 1}), [{}], "no-dp")) == 2


def test_natural_silos_stand_alone_by_their_names() -> None:
    cells = _plan(Experiment.from_mapping({"task": "toy_tasks:OneClassEach"}), [{}], "alone")
    assert [cell.silo for cell in cells[1:]] == ["zeros", "ones"]


def test_data_that_cannot_be_dealt_have_no_baselines() -> None:
    cells = _plan(BASE, [{"federation.silos": 5000}, {"federation.silos": 2}], "alone")
    assert [cell.kind for cell in cells] == ["federated", "federated", "alone", "alone"]


def test_the_table_of_a_file() -> None:
    asked = SweepRequest.from_table(
        {
            "axes": {"privacy": {"epsilon": [1, math.inf]}, "training.lr": [0.1]},
            "cells": [{"training": {"lr": 0.5}, "rounds": 3}],
            "seeds": [3, 7],
            "baselines": ["alone"],
        }
    )
    assert asked.axes == {"privacy.epsilon": [1, math.inf], "training.lr": [0.1]}
    assert asked.cells == [{"training.lr": 0.5, "rounds": 3}]
    assert (asked.seeds, asked.baselines) == ([3, 7], ["alone"])


def test_options_replace_the_table() -> None:
    table = SweepRequest.from_table({"axes": {"training.lr": [0.1], "rounds": [3]}, "seeds": 2})
    asked = table.with_options(
        axes=["training.lr=0.5, 1", "strategy.name=fedavg,fedprox"],
        epsilon="1,inf",
        seeds="3,7,9",
        baselines=None,
    )
    assert asked.axes == {
        "training.lr": [0.5, 1],
        "rounds": [3],
        "privacy.epsilon": [1, math.inf],
        "strategy.name": ["fedavg", "fedprox"],
    }
    assert (asked.seeds, asked.baselines) == ([3, 7, 9], None)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"axis": {}}, "unknown key 'sweep.axis'. Did you mean 'axes'"),
        ({"axes": [1]}, r"sweep.axes = \[1\]: it must be a table"),
        ({"axes": {"training": {"lr": 0.1}}}, "sweep.axes.training.lr = 0.1: it must be a list"),
        ({"axes": {"training.lr": [[1]]}}, "it must be true or false or .* or a text"),
        ({"cells": {}}, "sweep.cells = {}: it must be a list"),
        ({"cells": [3]}, "sweep.cells = 3: it must be a table"),
        ({"seeds": "all"}, "sweep.seeds = 'all': a number of seeds"),
        ({"baselines": 3}, "sweep.baselines = 3: it must be a text or a list"),
    ],
)
def test_a_wrong_table_is_refused(table: dict, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        SweepRequest.from_table(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": ["training.lr"]}, "--axis training.lr: expected KEY=V,V"),
        ({"seeds": "x"}, "--seeds x: a number of seeds"),
        ({"seeds": "-1"}, "--seeds -1: a number"),
        ({"axes": ["training.lr=1979-05-27"]}, "axis training.lr = .*it must be"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    given_ = {"axes": [], "epsilon": None, "seeds": None, "baselines": None, **options}
    with pytest.raises(ExperimentError, match=message):
        SweepRequest().with_options(**given_)


def test_a_silo_that_is_not_there_cannot_stand_alone(tmp_path: Path) -> None:
    data = {"of": "digits", "silo": "silo-9", "seed": 0, "federation": {"silos": 3}}
    alone = Experiment.from_mapping(
        {
            "task": "privet.sweeps.dealing:OneSilo",
            "data": data,
            "federation": {"silos": 1},
        }
    )
    with pytest.raises(ExperimentError, match=r"data\.silo = 'silo-9': the silos are silo-0"):
        simulate(alone, out=tmp_path / "out")
