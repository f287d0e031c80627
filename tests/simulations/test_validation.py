"""Records for validation choose the model, and test records are looked at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from privet import Examples, Execution, Experiment, PrivetError, sweep
from privet.audits import audit
from privet.client.silo import LocalData
from privet.privacy.accounting.tuning import RandomRuns
from privet.record.history import RoundRecord, look_away
from privet.reports.run import write_report
from privet.server import app
from privet.server.choosing import BestModel, best_of
from privet.server.evaluation import Evaluator
from privet.simulations.prepare import prepare
from privet.simulations.run import run_prepared, simulate
from privet.sweeps.results import findings
from privet.vectors import FlatModel
from rounds_written import a_round, history


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "rounds": 8,
        "seed": 5,
        "federation.silos": 4,
        "training.lr": 1.0,
        "training.batch_size": 32,
        "training.steps": 2,
        "validation.share": 0.2,
    }
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **named})


def rows(examples: Examples) -> set[bytes]:
    return {row.numpy().tobytes() for row in examples.inputs}


def place_of(**settings: Any) -> LocalData:
    return prepare(experiment(**settings)).place


def test_each_record_is_apart_or_trains_by_itself_whatever_the_seed() -> None:
    place, without = place_of(), place_of(validation=None)
    assert place.validation is not None
    assert without.validation is None
    assert len(place.validation) + sum(place.sizes) == sum(without.sizes)
    assert 0.15 < len(place.validation) / sum(without.sizes) < 0.25
    for own, whole in zip(place.silos, without.silos, strict=True):
        assert rows(own) < rows(whole)  # dealt as they are without validation
    for other in (place_of(seed=6), place_of(federation__silos=2)):
        assert other.validation is not None
        assert rows(other.validation) == rows(place.validation)
    test = place.task.test_data()
    assert test is not None
    assert not rows(test) & rows(place.validation)


def test_held_out_records_are_others_than_those_for_validation() -> None:
    place = place_of(evaluation__holdout=0.5)
    assert place.validation is not None
    apart = rows(place.validation)
    assert not any(apart & rows(part) for part in (*place.silos, *place.held_out))


@pytest.mark.parametrize("share", [1e-9, 0.999999])
def test_too_small_and_too_large_a_share_are_refused_by_name(share: float) -> None:
    with pytest.raises(PrivetError, match=r"validation\.share = .* of 1437 records: it leaves"):
        place_of(validation__share=share)


@pytest.mark.parametrize("privacy", [None, {"noise_multiplier": 1.0}], ids=["plain", "private"])
def test_the_result_is_the_best_model_measured_once_on_test_records(
    tmp_path: Path, privacy: dict[str, float] | None
) -> None:
    setup = experiment(privacy=privacy)
    measured: list[tuple[int, np.ndarray]] = []
    call = Evaluator.__call__

    def seen(self: Evaluator, weights: np.ndarray) -> Any:
        measured.append((len(self._test), weights.copy()))
        return call(self, weights)

    with patch.object(Evaluator, "__call__", seen):
        summary = simulate(setup, out=tmp_path / "run")
    place = prepare(setup).place
    test = place.task.test_data()
    assert test is not None
    assert place.validation is not None
    assert [n for n, _ in measured] == [*[len(place.validation)] * 9, len(test)]
    lines = history(tmp_path / "run")
    accuracies = [line["accuracy"] for line in lines]
    best = max(range(9), key=lambda n: (accuracies[n], -lines[n]["loss"], -n))
    chosen = summary["validation"]
    assert chosen == {
        "records": len(place.validation),
        "round": best,
        "loss": lines[best]["loss"],
        "accuracy": accuracies[best],
        "metrics": lines[best]["metrics"],
    }
    np.testing.assert_array_equal(measured[-1][1], measured[best][1])
    flat = FlatModel(place.task.model())
    tensors = load_file(tmp_path / "run/model.safetensors")
    flat.module.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
    np.testing.assert_array_equal(flat.vector(), measured[best][1])
    assert summary["accuracy"] == Evaluator(place.task, test)(flat.vector()).accuracy
    assert summary["stopped"] is None
    page = write_report(tmp_path / "run").read_text()
    assert f"with the model of round {best}, the best one on" in page
    assert "Measured after every round on records for validation" in page
    assert audit([tmp_path / "run"], base=tmp_path).verdict == "UNANCHORED"


def test_an_audit_finds_another_round_and_another_model(tmp_path: Path) -> None:
    setup = experiment(privacy={"noise_multiplier": 1.0}, rounds=3)
    simulate(setup, out=tmp_path / "run", execution=Execution(canaries=16))
    assert audit([tmp_path / "run"], base=tmp_path).verdict == "UNANCHORED"
    path = tmp_path / "run/summary.json"
    told = json.loads(path.read_text())
    other = history(tmp_path / "run")[0]
    changed = {**told["validation"], "round": 0, "accuracy": other["accuracy"]}
    path.write_text(json.dumps({**told, "validation": changed}))
    failed = {c.id for c in audit([tmp_path / "run"], base=tmp_path).claims if c.verdict == "FAIL"}
    assert failed == {"record.summary", "record.files"}
    path.write_text(json.dumps(told))
    model = tmp_path / "run/model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(bytes(content))
    failed = {c.id for c in audit([tmp_path / "run"], base=tmp_path).claims if c.verdict == "FAIL"}
    assert failed == {"mechanism.steps", "record.files"}


class Stop(Exception):
    pass


@pytest.mark.parametrize("patience", [None, 2])
def test_a_stopped_run_goes_on_to_the_same_choice(tmp_path: Path, patience: int | None) -> None:
    def stop(entry: RoundRecord) -> None:
        if entry.round == 3:
            raise Stop

    more = {"validation__patience": patience} if patience else {}
    setup = experiment(training__lr=3.0, **more)
    whole = simulate(setup, out=tmp_path / "whole")
    with pytest.raises(Stop):
        simulate(setup, out=tmp_path / "cut", watch=stop)
    cut = simulate(setup, out=tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for part in ("validation", "accuracy", "stopped"):
        assert cut[part] == whole[part]


def test_a_run_ends_when_no_model_is_better_for_long_enough(tmp_path: Path) -> None:
    """Steps so large that models soon grow worse."""
    setup = experiment(rounds=30, training__lr=8.0, validation__patience=2)
    summary = simulate(setup, out=tmp_path / "run")
    best, last = summary["validation"]["round"], summary["stopped"]["round"]
    assert last == best + 2 < 30
    assert len(history(tmp_path / "run")) == last + 1
    assert summary["stopped"]["reason"] == (
        f"no model was better on the records for validation than that of round {best} for 2 rounds "
        "(validation.patience = 2)"
    )
    again = simulate(setup, out=tmp_path / "run", resume=True)
    assert again["stopped"] == summary["stopped"]
    assert audit([tmp_path / "run"], base=tmp_path).verdict == "UNANCHORED"


def test_more_rounds_choose_among_all(tmp_path: Path) -> None:
    simulate(experiment(rounds=8), out=tmp_path / "whole")
    simulate(experiment(rounds=3), out=tmp_path / "more")
    simulate(experiment(rounds=8), out=tmp_path / "more", resume=True)
    ended = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("more", "whole")]
    assert ended[0] == ended[1]


def line(round_: int, accuracy: float | None, loss: float | None) -> RoundRecord:
    return a_round(round_).model_copy(update={"accuracy": accuracy, "loss": loss})


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([(0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5)], 2),
        ([(None, 2.0), (None, 1.0), (None, 1.0)], 1),
        ([(float("nan"), 1.0), (0.1, float("nan")), (0.1, float("inf"))], 1),
        ([(None, float("nan")), (None, 3.0)], 1),
        ([(None, None), (None, None)], 0),
    ],
)
def test_accuracy_chooses_then_loss_then_the_earlier_round(
    figures: list[tuple[float | None, float | None]], best: int
) -> None:
    lines = [line(number, *pair) for number, pair in enumerate(figures)]
    model = BestModel(records=1, patience=1)
    for each in lines:
        model.look(each, np.full(2, each.round, np.float32))
    assert model.entry is not None
    assert model.entry.round == best_of(lines).round == best
    assert model.weights is not None
    assert model.weights[0] == best
    assert (model.enough(len(lines) - 1) is None) == (best == len(lines) - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation__share": 1.0}, "validation.share = 1.0: input should be less than 1"),
        ({"validation__patience": 0}, "validation.patience = 0: input should be greater"),
        ({"validation__part": 0.1}, "unknown key 'validation.part'"),
        ({"encryption__scheme": "bfv"}, "[validation] chooses a model by what is measured on it"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivetError) as refusal:
        experiment(**settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_server_of_real_silos_has_such_records() -> None:
    with pytest.raises(PrivetError, match=r"on real silos \[evaluation\] measures the model"):
        app._measured_in_rounds(experiment(), None, app.Hosting())


def test_a_sweep_says_which_setting_validation_chooses(tmp_path: Path) -> None:
    result = sweep(
        experiment(rounds=3),
        axes={"training.lr": (1e-3, 1.0)},
        seeds=2,
        baselines="alone",
        out=tmp_path / "sweep",
        workers=2,
    )
    assert {cell.status for cell in result.cells} == {"done"}
    for cell in result.cells:
        told = json.loads((tmp_path / "sweep" / cell.folder / "summary.json").read_text())
        assert cell.validation == told["validation"]["accuracy"]
        assert cell.accuracy == told["accuracy"]
    (said,) = (text for text in findings(result) if "records for validation" in text)
    assert said.startswith("Best by the records for validation: ")
    assert "lr 1" in said
    assert "test records, which chose nothing" in said
    page = (tmp_path / "sweep/report.html").read_text()
    assert "Of the model that was best on records for validation" in page


def test_private_tuning_chooses_by_validation(tmp_path: Path) -> None:
    setup = experiment(rounds=2, privacy={"noise_multiplier": 1.0})
    result = sweep(
        setup,
        axes={"training.lr": (1e-3, 0.1, 1.0)},
        private_tuning=RandomRuns("geometric", 6.0),
        out=tmp_path / "sweep",
        workers=2,
    )
    done = [cell for cell in result.cells if cell.status == "done"]
    assert len(done) > 1
    best = max(done, key=lambda cell: cell.validation or 0.0)
    assert result.selection is not None
    assert result.selection.chosen == best.address
    assert result.selection.accuracy == best.accuracy
    assert any("scored on the records for validation" in text for text in findings(result))
    sizes = {
        tuple(
            silo["records"]
            for silo in json.loads((tmp_path / "sweep" / c.folder / "silos.json").read_text())[
                "silos"
            ]
        )
        for c in done
    }
    assert len(sizes) == 1


def test_other_records_for_validation_are_no_going_on(tmp_path: Path) -> None:
    """They would choose another model; the silos' own records are the same."""

    def stop(_: RoundRecord) -> None:
        raise Stop

    setup, out = experiment(rounds=2), tmp_path / "run"
    with pytest.raises(Stop):
        simulate(setup, out=out, watch=stop)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    prepared = prepare(setup)
    apart = prepared.place.validation
    assert apart is not None
    changed = replace(prepared.place, validation=apart.take(slice(1, None)))
    again = replace(prepared, place=changed)
    with pytest.raises(PrivetError, match="begun with the validation records of digest"):
        run_prepared(again, out=out, execution=Execution(), resume=True, watch=look_away)
    assert {path: path.read_bytes() for path in before} == before
    run_prepared(prepared, out=out, execution=Execution(), resume=True, watch=look_away)
