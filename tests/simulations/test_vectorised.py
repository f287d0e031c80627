"""Silos that train together: all that is seen of them is what it is when they train one by one."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privet import Execution, Experiment
from privet.commands.cli import main
from privet.privacy.ledger import read_history, verify
from privet.simulations import Engine, vectorised
from privet.simulations.run import simulate
from rounds_written import history

CLOSE = 1e-5


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "model": "mlp",
        "rounds": 2,
        "seed": 5,
        "federation.silos": 7,
        "federation.partition": "linear",
        "training.lr": 0.5,
        "privacy.noise_multiplier": 1.0,
    }
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **changes})


def ran(folder: Path, settings: Experiment, engine: Engine, **how: Any) -> Path:
    execution = Execution(engine=engine, workers=how.pop("workers", 1))
    simulate(settings, out=folder / engine, execution=execution, **how)
    return folder / engine


def weights(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def told(folder: Path) -> list[dict[str, Any]]:
    """The history but for times and what rounding moves."""
    rounded = {"seconds", "loss", "accuracy", "metrics", "train_loss", "evaluation"}
    entries = history(folder)
    return [{key: entry[key] for key in entry if key not in rounded} for entry in entries]


def ledger(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Each silo's entries, in order."""
    assert verify(folder / "ledger.sqlite") == []
    found: dict[str, list[tuple[Any, ...]]] = {}
    for entry in read_history(folder / "ledger.sqlite").entries:
        told = entry.kind, entry.who, entry.round, entry.event
        found.setdefault(entry.dataset or "", []).append(told)
    return found


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many silos were trained at once, each time."""
    sizes: list[int] = []
    train_rows = vectorised.train_rows

    def counted(chain: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(rows))
        return train_rows(chain, rows, *rest, **options)

    monkeypatch.setattr(vectorised, "train_rows", counted)
    return sizes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"privacy": None},
        {"privacy": None, "training__momentum": 0.9, "training__weight_decay": 0.01},
        {"training__optimizer": "adam", "training__lr": 0.01},
        {
            "training__optimizer": "adamw",
            "training__lr": 0.01,
            "training__weight_decay": 0.1,
            "training__schedule": "linear",
            "training__warmup": 1,
        },
        {"training__steps": 3, "model": "linear"},
        {"strategy__name": "fedprox", "strategy__proximal_mu": 0.5},
        {"strategy__name": "scaffold"},
        {"federation__participation": 0.8, "federation__dropout": 0.3, "rounds": 4},
        {"privacy": {"epsilon": 3.0}},
        {"evaluation__every": 1},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_the_run_is_that_of_silos_one_by_one(
    tmp_path: Path, together: list[int], settings: dict[str, Any]
) -> None:
    setup = experiment(**settings)
    one_by_one = ran(tmp_path, setup, "in-process")
    assert together == []
    at_once = ran(tmp_path, setup, "vectorised")
    assert together
    np.testing.assert_allclose(weights(at_once), weights(one_by_one), atol=CLOSE)
    assert told(at_once) == told(one_by_one)
    assert ledger(at_once) == ledger(one_by_one)


def test_sealed_updates_are_as_close_as_their_rounding(tmp_path: Path, together: list[int]) -> None:
    setup = experiment(encryption__scheme="bfv", federation__silos=4)
    one_by_one, at_once = (ran(tmp_path, setup, e) for e in ("in-process", "vectorised"))
    assert together == [2, 2, 2, 2]
    # A value that lies on the edge may be rounded to its other neighbour.
    np.testing.assert_allclose(weights(at_once), weights(one_by_one), atol=2**-12)
    assert ledger(at_once) == ledger(one_by_one)


@pytest.mark.parametrize("privacy", [{}, {"privacy": None}], ids=["private", "plain"])
def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, privacy: dict[str, Any]
) -> None:
    setup = experiment(federation__silos=23, **privacy)
    models = set()
    for workers in (1, 2, 3):
        folder = ran(tmp_path / str(workers), setup, "vectorised", workers=workers)
        models.add((folder / "model.safetensors").read_bytes())
    assert len(models) == 1


def test_every_round_is_charged_before_it_is_trained_and_committed_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_rows = vectorised.train_rows
    seen = []

    def looking(chain: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        charges = read_history(tmp_path / "vectorised" / "ledger.sqlite").charges.values()
        seen.append(sum(charge.open for charge in charges) == len(rows))
        return train_rows(chain, rows, *rest, **options)

    monkeypatch.setattr(vectorised, "train_rows", looking)
    folder = ran(tmp_path, experiment(), "vectorised")
    assert seen == [True] * 4
    entries = ledger(folder)
    for silo in range(7):
        kinds = [kind for kind, *_ in entries[f"silo-{silo}"]]
        assert kinds == ["note", "reserve", "commit", "reserve", "commit"]


def test_what_was_cut_off_while_it_trained_stays_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(vectorised, "train_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, experiment(), "vectorised")
    history = read_history(tmp_path / "vectorised" / "ledger.sqlite")
    assert len(history.charges) == 3
    assert all(charge.open for charge in history.charges.values())


POLICY = """
version = 1
[data.{name}]
requesters = ["*"]
tasks = ["*"]
code = ["*"]
[data.{name}.budget]
epsilon = {epsilon}
delta = 1e-5
[data.{name}.sending]
records_public = true
"""


def test_a_silo_that_refuses_is_left_out_of_what_trains_together(
    tmp_path: Path, together: list[int]
) -> None:
    strict = POLICY.format(name="silo-4", epsilon=6.0).replace("version = 1", "")
    policy = tmp_path / "holder.toml"
    policy.write_text(POLICY.format(name='"*"', epsilon=1e6) + strict)
    setup = experiment(rounds=4, federation__partition="iid")
    at_once = ran(tmp_path, setup, "vectorised", policy=policy)
    one_by_one = ran(tmp_path, setup, "in-process", policy=policy)
    assert any("silo-4" in entry["refused"] for entry in told(at_once)[1:])
    assert told(at_once) == told(one_by_one)
    assert ledger(at_once) == ledger(one_by_one)
    np.testing.assert_allclose(weights(at_once), weights(one_by_one), atol=CLOSE)
    assert together == [3, 4, 3, 3, 3, 3, 3, 3]


def test_a_silo_that_cannot_be_trained_fails_alone(
    tmp_path: Path, together: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """One record's class is out of range; the others' answers are those of silos one by one."""
    setup = experiment(task="toy_tasks:OneBadRecord", model=None, federation__partition=None)
    setup = setup.with_settings({"federation": {"silos": 4, "partition": "iid"}})
    at_once = ran(tmp_path, setup, "vectorised")
    assert together
    [entry, *_] = told(at_once)[1:]
    assert [failure["stage"] for failure in entry["failures"]] == ["train"]
    assert len(entry["participants"]) == 3
    assert told(at_once) == told(ran(tmp_path, setup, "in-process"))
    assert len(caplog.messages) == 1
    assert "train one by one: Target 7 is out of bounds" in caplog.text


def test_a_model_that_does_not_suit_is_trained_one_by_one(
    tmp_path: Path, together: list[int]
) -> None:
    setup = experiment(model="cnn", rounds=1)
    models = [
        (ran(tmp_path, setup, engine) / "model.safetensors").read_bytes()
        for engine in ("vectorised", "in-process")
    ]
    assert models[0] == models[1]
    assert together == []


def test_auto_trains_small_models_of_several_silos_together(
    tmp_path: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(**settings: Any) -> bool:
        together.clear()
        simulate(
            experiment(rounds=1, **settings), out=tmp_path / str(len(list(tmp_path.iterdir())))
        )
        return bool(together)

    assert used()
    assert not used(federation__silos=3)
    assert not used(federation__participation=0.5)
    monkeypatch.setattr(vectorised, "_MOST_WEIGHTS", 64 * 32)
    assert not used()


def test_the_command_says_once_why_silos_train_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('task = "digits"\nmodel = "cnn"\nrounds = 1\n[federation]\nsilos = 2\n')
    command = ["simulate", str(file), "--engine", "vectorised", "--out"]
    with suppress(SystemExit):
        main([*command, str(tmp_path / "loud")])
    [line] = [line for line in capsys.readouterr().err.splitlines() if "vectorised" in line]
    assert line.startswith("warning: the model does not suit the vectorised engine")
    assert "layer '0' (Conv2d)" in line
    assert gc.isenabled()
    with suppress(SystemExit):
        main([*command, str(tmp_path / "quiet"), "--quiet"])
    assert capsys.readouterr().err == ""
