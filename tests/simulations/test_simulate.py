"""Whole simulated runs: determinism, resume, failures, participation, and the run folder."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from privet import Execution, Experiment, PrivetError
from privet.audits import audit
from privet.privacy.accounting import decode_event, epsilon
from privet.privacy.ledger import read_history
from privet.record.history import RoundRecord
from privet.reports.run import write_report
from privet.simulations.prepare import prepare
from privet.simulations.run import simulate
from rounds_written import history


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": "digits",
        "rounds": 3,
        "seed": 5,
        "federation.silos": 5,
        "training.lr": 0.5,
        "privacy.noise_multiplier": 1.0,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings(
        {**base, **{key.replace("__", "."): value for key, value in settings.items()}}
    )


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    simulate(experiment(), out=folder)
    return folder


def test_two_runs_give_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    simulate(experiment(), out=tmp_path / "run")
    assert weights(tmp_path / "run") == weights(reference)


@pytest.mark.parametrize(
    "execution",
    [Execution(workers=2), Execution(workers=3), Execution(isolate=True)],
    ids=["two workers", "three workers", "isolated"],
)
def test_how_a_run_is_computed_does_not_change_it(
    reference: Path, tmp_path: Path, execution: Execution
) -> None:
    simulate(experiment(), out=tmp_path / "run", execution=execution)
    assert weights(tmp_path / "run") == weights(reference)
    ours, theirs = history(tmp_path / "run"), history(reference)
    for one, other in zip(ours, theirs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_another_seed_gives_another_model(reference: Path, tmp_path: Path) -> None:
    simulate(experiment(seed=6), out=tmp_path / "run")
    assert weights(tmp_path / "run") != weights(reference)


class Stop(Exception):
    pass


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "scaffold"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_identical_model(
    tmp_path: Path, strategy: str, workers: int
) -> None:
    def stop_after_two(entry: RoundRecord) -> None:
        if entry.round == 2:
            raise Stop

    settings = experiment(strategy__name=strategy, rounds=4, federation__participation=0.7)
    execution = Execution(workers=workers)
    simulate(settings, out=tmp_path / "whole")
    with pytest.raises(Stop):
        simulate(settings, out=tmp_path / "cut", watch=stop_after_two, execution=execution)
    assert not (tmp_path / "cut" / "summary.json").exists()
    simulate(settings, out=tmp_path / "cut", resume=True, execution=execution)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert [entry["round"] for entry in history(tmp_path / "cut")] == [0, 1, 2, 3, 4]
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("cut", "whole")
    ]
    assert summaries[0]["epsilon"] == summaries[1]["epsilon"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"training__schedule": "step", "training__decay_every": 2, "training__warmup": 1},
        {"strategy__name": "fedadam", "federation__participation": 0.7},
        {"strategy__name": "scaffold", "evaluation__every": 2},
    ],
    ids=["fedavg", "step", "fedadam", "scaffold"],
)
def test_a_run_that_is_given_more_rounds_is_one_that_had_them_from_the_start(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    plain = {"privacy": None, **settings}
    simulate(experiment(rounds=5, **plain), out=tmp_path / "whole")
    simulate(experiment(rounds=2, **plain), out=tmp_path / "more")
    simulate(experiment(rounds=5, **plain), out=tmp_path / "more", resume=True)
    for name in ("model.safetensors", "checkpoint.safetensors", "experiment.toml"):
        assert (tmp_path / "more" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ours, theirs = history(tmp_path / "more"), history(tmp_path / "whole")
    for one, other in zip(ours, theirs, strict=True):
        same = {"seconds": 0, "affordable": 0}  # how many of two, or of five
        assert {**one, **same} == {**other, **same}
    summary = json.loads((tmp_path / "more" / "summary.json").read_text())
    assert summary["rounds"] == 5
    assert summary["stopped"] is None
    assert audit([tmp_path / "more"], base=tmp_path).verdict == "UNANCHORED"


def test_a_private_run_spends_for_each_round_that_it_is_given(tmp_path: Path) -> None:
    """Killed on the way, it ends at the same model; and epsilon is that of all rounds."""

    def stop_after_four(entry: RoundRecord) -> None:
        if entry.round == 4:
            raise Stop

    whole = simulate(experiment(rounds=5), out=tmp_path / "whole")
    ten = simulate(experiment(rounds=2), out=tmp_path / "more")
    shutil.copytree(tmp_path / "more", tmp_path / "cut")
    more = simulate(experiment(rounds=5), out=tmp_path / "more", resume=True)
    assert ten["epsilon"]["max"] < more["epsilon"]["max"]
    assert more["epsilon"] == whole["epsilon"]
    told = write_report(tmp_path / "more").read_text()
    assert "Begun with 2 rounds and given more at its end: 5 in all, which epsilon counts" in told
    assert "had room for fewer" not in told
    assert "given more at its end" not in write_report(tmp_path / "whole").read_text()
    spent = read_history(tmp_path / "more" / "ledger.sqlite")
    for silo, claimed in more["epsilon"]["per_silo"].items():
        assert spent.spent(silo, delta=1e-5) == pytest.approx(claimed, rel=1e-3)
    with pytest.raises(Stop):
        simulate(experiment(rounds=5), out=tmp_path / "cut", resume=True, watch=stop_after_four)
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    simulate(experiment(rounds=5), out=tmp_path / "cut", resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "more")
    assert audit([tmp_path / "more"], base=tmp_path).verdict == "UNANCHORED"


def test_the_summary_keeps_its_contract(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    assert set(summary) == {
        "schema", "task", "rounds", "seed", "start", "validation", "accuracy", "loss", "metrics",
        "epsilon", "evaluation", "stopped", "encryption", "model", "computed", "seconds",
        "client_updates",
        "client_updates_per_second", "problems", "declared", "baselines", "pictures",
    }  # fmt: skip
    assert summary["schema"] == 2
    assert set(summary["epsilon"]) == {
        "unit", "max", "per_silo", "delta", "accountant", "cross_checks",
    }  # fmt: skip
    assert set(summary["seconds"]) == {"total", "training", "aggregation", "encryption"}
    assert summary["client_updates"] == 15
    assert summary["encryption"] is None


def test_epsilon_is_a_function_of_the_events_in_the_history(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    for silo, claimed in summary["epsilon"]["per_silo"].items():
        events = [
            decode_event(entry["events"][silo])
            for entry in history(reference)
            if silo in entry["events"]
        ]
        assert len(events) == 3
        assert epsilon(events, delta=1e-5) == pytest.approx(claimed, rel=1e-9)


def test_the_resolved_settings_repeat_the_run(reference: Path, tmp_path: Path) -> None:
    resolved = Experiment.from_mapping(tomllib.loads((reference / "experiment.toml").read_text()))
    simulate(resolved, out=tmp_path / "again")
    assert weights(tmp_path / "again") == weights(reference)


def test_the_target_epsilon_is_met_and_not_undershot(tmp_path: Path) -> None:
    settings = Experiment.from_mapping(
        {
            "task": "digits",
            "rounds": 4,
            "federation": {"silos": 3, "partition": "linear"},
            "privacy": {"epsilon": 2.0},
        }
    )
    summary = simulate(settings, out=tmp_path / "run")
    for spent in summary["epsilon"]["per_silo"].values():
        assert 1.98 <= spent <= 2.0
    assert summary["epsilon"]["cross_checks"]["agree"]


def test_shared_calibration_gives_every_silo_the_largest_noise(tmp_path: Path) -> None:
    settings = Experiment.from_mapping(
        {
            "task": "digits",
            "rounds": 2,
            "federation": {"silos": 3, "partition": "linear"},
            "training": {"batch_size": 64},
            "privacy": {"epsilon": 2.0, "calibrate": "shared"},
        }
    )
    summary = simulate(settings, out=tmp_path / "run")
    spent = sorted(summary["epsilon"]["per_silo"].values())
    assert 1.98 <= spent[-1] <= 2.0
    assert spent[0] < 1.9  # a large silo, with a smaller sampling rate, spends less
    multipliers = {
        decode_event(event).event.event.noise_multiplier
        for entry in history(tmp_path / "run")
        for event in (entry["events"] or {}).values()
    }
    assert len(multipliers) == 1


def test_silos_are_drawn_by_independent_coins_and_an_empty_round_is_valid(tmp_path: Path) -> None:
    settings = experiment(
        rounds=40, federation__participation=0.2, training__steps=1, federation__silos=4
    )
    simulate(settings, out=tmp_path / "run")
    drawn = [entry["participants"] for entry in history(tmp_path / "run")[1:]]
    sizes = [len(silos) for silos in drawn]
    assert 0 in sizes
    assert len(set(sizes)) > 2
    # 160 coins with chance 0.2: within 4 standard deviations (level 6e-5, seed fixed).
    assert abs(sum(sizes) - 32) < 4 * np.sqrt(160 * 0.2 * 0.8)


def test_a_round_in_which_nobody_answers_keeps_the_model(tmp_path: Path) -> None:
    settings = experiment(federation__dropout=0.999, rounds=2)
    summary = simulate(settings, out=tmp_path / "run")
    first, *rest = history(tmp_path / "run")
    for entry in rest:
        assert entry["participants"] == []
        assert len(entry["dropped"]) == 5
        assert entry["loss"] == first["loss"]
    assert summary["epsilon"]["max"] == 0.0


def test_dropout_is_told_apart_from_failure(tmp_path: Path) -> None:
    settings = experiment(federation__dropout=0.4, rounds=6)
    simulate(settings, out=tmp_path / "run")
    for entry in history(tmp_path / "run")[1:]:
        assert len(entry["participants"]) + len(entry["dropped"]) == 5
        assert entry["failures"] == []
    assert 0 < sum(len(entry["dropped"]) for entry in history(tmp_path / "run")) < 30


def test_no_two_clients_and_no_two_rounds_share_noise(tmp_path: Path) -> None:
    # With this much noise an update is its noise; equal streams would be equal up to scale.
    updates: list[np.ndarray] = []
    for seed in (1, 2):
        for silos in (1, 2):
            settings = experiment(
                seed=seed,
                federation__silos=silos,
                rounds=2,
                training__steps=1,
                privacy__noise_multiplier=1e4,
            )
            simulate(settings, out=tmp_path / f"{seed}-{silos}")
            tensors = load_file(tmp_path / f"{seed}-{silos}" / "model.safetensors")
            updates.append(np.concatenate([tensor.ravel() for tensor in tensors.values()]))
    correlations = np.corrcoef(updates) - np.eye(len(updates))
    # One silo alone shares its stream with silo 0 of two, by design: same seed, silo, round.
    correlations[[0, 1, 2, 3], [1, 0, 3, 2]] = 0
    assert np.abs(correlations).max() < 5 / np.sqrt(len(updates[0]))


def test_uneven_partitions_and_small_silos_work(tmp_path: Path) -> None:
    settings = experiment(
        federation__partition="dirichlet",
        federation__alpha=0.3,
        training__batch_size=400,
    )
    summary = simulate(settings, out=tmp_path / "run")
    assert set(summary["epsilon"]["per_silo"]) == {f"silo-{i}" for i in range(5)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "nosuch"}, "nosuch"),
        ({"strategy__name": "fedagv"}, "Did you mean 'fedavg'"),
        ({"strategy__name": "fedavg", "strategy__mu": 1}, "strategy.mu"),
        ({"strategy__name": "qfedavg"}, "cannot be used with [privacy]"),
        ({"strategy__name": "krum", "strategy__byzantine": 4}, "krum"),
        ({"model": "resnet"}, "resnet"),
        ({"federation__silos": 100_000}, "silos"),
        ({"strategy__name": "scaffold", "training__momentum": 0.9}, "plain SGD"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrivetError) as refusal:
        simulate(experiment(**settings), out=tmp_path / "run")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def toy(task: str, **settings: Any) -> Experiment:
    private = {"privacy.noise_multiplier": 1.0, "rounds": 2, "training.batch_size": 5}
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": f"toy_tasks:{task}"}).with_settings(
        {**private, **changes}
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Empty", "the training data of toy_tasks:Empty holds no records"),
        ("NotNumbers", "holds 3 NaN or infinite inputs in 2 of 20 records"),
        ("WithBatchNorm", "layer '1' (BatchNorm1d)"),
        ("Nothing", "Nothing"),
    ],
)
def test_unfit_data_and_models_are_refused_by_name(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(PrivetError) as refusal:
        simulate(toy(task), out=tmp_path / "run")
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_batch_norm_is_allowed_without_privacy(tmp_path: Path) -> None:
    settings = Experiment.from_mapping({"task": "toy_tasks:WithBatchNorm", "rounds": 2})
    simulate(settings, out=tmp_path / "one")
    simulate(settings, out=tmp_path / "two", execution=Execution(workers=2))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_silos_of_one_record_take_part_with_every_record_in_every_batch(tmp_path: Path) -> None:
    summary = simulate(toy("Tiny", federation__silos=20), out=tmp_path / "run")
    assert summary["client_updates"] == 40
    events = [decode_event(event) for event in history(tmp_path / "run")[1]["events"].values()]
    assert {event.event.sampling_probability for event in events} == {1.0}


def test_a_class_missing_from_a_silo_is_no_obstacle(tmp_path: Path) -> None:
    summary = simulate(toy("OneClassEach"), out=tmp_path / "run")
    assert set(summary["epsilon"]["per_silo"]) == {"zeros", "ones"}
    silos = json.loads((tmp_path / "run" / "silos.json").read_text())
    assert [silo["labels"] for silo in silos["silos"]] == [{"0": 10, "1": 0}, {"0": 0, "1": 10}]


def test_a_task_without_test_data_has_no_accuracy_and_none_is_invented(tmp_path: Path) -> None:
    summary = simulate(toy("Tiny", federation__silos=2), out=tmp_path / "run")
    assert summary["accuracy"] is None
    assert summary["loss"] is None


def test_what_should_be_known_beforehand_is_a_warning() -> None:
    warnings = prepare(
        toy("Tiny", federation__silos=2, privacy__delta=0.1, training__batch_size=50)
    ).warnings
    assert "privacy.delta = 0.1 is not below 1/10" in warnings[0]
    assert "2 of 2 silos have fewer records than training.batch_size = 50" in warnings[1]
    assert prepare(toy("Tiny", federation__silos=2)).warnings == []


def test_the_callers_number_of_threads_is_left_alone_and_changes_nothing(
    reference: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        simulate(experiment(), out=tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert weights(tmp_path / "run") == weights(reference)
