"""Whole runs in which the server sees sums only: the same model, and no key out of its place."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privet import Execution, Experiment, PrivetError
from privet.privacy.encryption.keys import RunKey, Session, load_roster
from privet.record.history import RoundRecord
from privet.simulations.run import simulate
from rounds_written import history


def experiment(**settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": "digits",
        "rounds": 4,
        "seed": 5,
        "federation.silos": 4,
        "training.lr": 0.5,
        "privacy.noise_multiplier": 1.0,
        "encryption.scheme": "bfv",
    }
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **changes})


def weights(folder: Path) -> np.ndarray:
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encryption__profile": "compact"},
        {"encryption__profile": "precise"},
        {"encryption__profile": "precise", "encryption__pairwise_masks": True},
        {"encryption__scheme": "ckks"},
        {"strategy__name": "fedprox"},
        {"strategy__name": "fedavgm", "strategy__server_momentum": 0.6},
        {"strategy__weighting": "uniform"},
        {"privacy": None},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
@pytest.mark.usefixtures("shared_noise")
def test_the_model_is_that_of_a_run_in_the_clear(tmp_path: Path, settings: dict[str, Any]) -> None:
    uneven = {"federation__partition": "linear", **settings}
    summary = simulate(experiment(**uneven), out=tmp_path / "sealed")
    clear = {key: value for key, value in uneven.items() if "encryption" not in key}
    simulate(experiment(**clear, encryption=None), out=tmp_path / "clear")
    ours, theirs = weights(tmp_path / "sealed"), weights(tmp_path / "clear")
    # Each round rounds to clamp / levels, stochastically; the sum over four silos averages it.
    step = 1 / (2**11 if settings.get("encryption__profile") == "compact" else 2**15)
    assert np.abs(ours - theirs).max() < 8 * step * max(1.0, 4 * np.abs(theirs).max())
    assert summary["encryption"]["clipped"] is None  # a figure of single updates: not sent
    assert summary["encryption"]["security_bits"] >= 128
    told = summary["epsilon"]
    assert settings.get("privacy", 1) is None or told["max"] > 0


@pytest.mark.parametrize("rotate", [{}, {"encryption__rotate_every": 2}])
def test_the_result_is_the_same_bytes_for_workers_and_after_a_stop(
    tmp_path: Path, rotate: dict[str, Any]
) -> None:
    class Stop(Exception):
        pass

    def stop(entry: RoundRecord) -> None:
        if entry.round == 2:
            raise Stop

    settings = experiment(federation__dropout=0.2, **rotate)
    simulate(settings, out=tmp_path / "whole")
    simulate(settings, out=tmp_path / "two", execution=Execution(workers=2, isolate=True))
    with pytest.raises(Stop):
        simulate(settings, out=tmp_path / "cut", watch=stop)
    simulate(settings, out=tmp_path / "cut", resume=True)
    whole = weights(tmp_path / "whole")
    assert np.array_equal(whole, weights(tmp_path / "two"))
    assert np.array_equal(whole, weights(tmp_path / "cut"))
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["encryption"]["epochs"] == (2 if rotate else 1)


def test_a_round_with_too_few_updates_leaves_the_model(tmp_path: Path) -> None:
    settings = experiment(federation__participation=0.6, rounds=8, encryption__smallest_sum=3)
    simulate(settings, out=tmp_path / "run")
    entries = history(tmp_path / "run")[1:]
    void = [entry for entry in entries if entry["skipped"]]
    assert 0 < len(void) < 8
    for entry in entries:
        assert (bool(entry["skipped"])) == (len(entry["participants"]) < 3)
    assert void[0]["skipped"] in (
        "masks of 2 silos cannot withstand 1 that collude",
        "1 silos are fewer than the threshold of 3",
    )


@pytest.mark.parametrize("strategy", ["krum", "fedmedian", "fedadam", "scaffold", "trimmed-mean"])
def test_a_strategy_that_looks_at_updates_is_refused_beforehand(
    tmp_path: Path, strategy: str
) -> None:
    with pytest.raises(PrivetError, match="nobody sees more"):
        simulate(experiment(strategy__name=strategy), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_silos_than_a_sum_holds_are_refused_before_they_train(tmp_path: Path) -> None:
    many = experiment(encryption__profile="compact", federation__silos=17)
    with pytest.raises(PrivetError, match=r"'compact' adds up at most 16 silos.* has 17"):
        simulate(many, out=tmp_path / "run")
    (first,) = history(tmp_path / "run")
    assert first["round"] == 0


def test_a_policy_can_demand_encryption_and_sums(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'version = 1\n[data."*"]\nrequesters = ["*"]\ntasks = ["*"]\n'
        '[data."*".budget]\nepsilon = 50.0\ndelta = 1e-5\n'
        '[data."*".sending]\nrecords_public = true\nencryption_required = true\nsmallest_sum = 3\n'
    )
    with pytest.raises(PrivetError, match="smallest_sum: asked for a sum of 2"):
        simulate(experiment(), out=tmp_path / "two", policy=policy)
    with pytest.raises(PrivetError, match="encryption_required"):
        simulate(experiment(encryption=None), out=tmp_path / "clear", policy=policy)
    summary = simulate(
        experiment(encryption__smallest_sum=3), out=tmp_path / "three", policy=policy
    )
    assert summary["client_updates"] == 16


def test_every_ledger_says_that_what_left_was_encrypted(tmp_path: Path) -> None:
    from privet.privacy.ledger import read_history

    simulate(experiment(rounds=1), out=tmp_path / "run")
    reserves = [
        entry
        for entry in read_history(tmp_path / "run" / "ledger.sqlite").entries
        if entry.kind == "reserve"
    ]
    assert len(reserves) == 4
    assert all(json.loads(entry.detail or "")["encrypted"] is True for entry in reserves)


def test_silos_measure_what_the_server_cannot_read(tmp_path: Path) -> None:
    settings = experiment(evaluation__every=2, evaluation__holdout=0.3)
    summary = simulate(settings, out=tmp_path / "run")
    assert set(summary["evaluation"]["per_silo"]) == {f"silo-{i}" for i in range(4)}
    assert summary["evaluation"]["metrics"]["accuracy"] == pytest.approx(
        summary["accuracy"], abs=0.2
    )


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_no_key_is_anywhere_but_in_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], scheme: str
) -> None:
    """All files of the run and all output, for the key's bytes raw, in hex and in base64."""
    folder = tmp_path / "run"
    secrets: set[bytes] = set()

    def look(entry: RoundRecord) -> None:
        """The secrets of the epoch in use, of each silo."""
        roster = load_roster(folder / "keys" / "roster.toml")
        found = list((folder / "keys").rglob("simulation-*.key"))
        assert len(found) == (4 if entry.round else 0), "the keys of older epochs are gone"
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            run, _, epoch = path.stem.rpartition("-")
            key = RunKey.load(path, session=Session(run=run, epoch=int(epoch), roster=roster))
            held = key.container.reveal(), key.transport.reveal()
            secrets.update(part[at : at + 24] for part in held for at in range(0, len(part), 24))

    settings = experiment(encryption__rotate_every=2, encryption__scheme=scheme)
    simulate(settings, out=folder, watch=look)
    key_files = list((folder / "keys").rglob("*.key"))
    assert len(key_files) == 4, "of the job, which is over, only identities are left"
    written = [path for path in folder.rglob("*") if path.is_file() and path not in key_files]
    assert {path.name for path in written} >= {"checkpoint.safetensors", "history.jsonl"}
    output = capfd.readouterr()
    haystacks = [path.read_bytes() for path in written] + [output.out.encode(), output.err.encode()]
    needles = [
        form
        for secret in secrets
        if len(secret) == 24
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-2])
    ]
    assert len(needles) > (100 if scheme == "ckks" else 12)
    assert not any(needle in hay for hay in haystacks for needle in needles)
    assert not list((folder / "keys").rglob("*.offer"))


def test_a_masked_round_that_was_cut_off_is_run_again_under_a_new_key(tmp_path: Path) -> None:
    """Silos mask a round of an epoch once: whoever asks again might want two sums of it."""
    folder, settings = tmp_path / "run", experiment(encryption__pairwise_masks=True)
    checkpoint = folder / "checkpoint.safetensors"

    def go_back_a_round(entry: RoundRecord) -> None:
        if entry.round == 2:
            shutil.copy(checkpoint, tmp_path / "before")
        if entry.round == 3:
            shutil.copy(tmp_path / "before", checkpoint)  # as if round 3 had not been written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(settings, out=folder, watch=go_back_a_round)
    summary = simulate(settings, out=folder, resume=True)
    assert [len(entry["participants"]) for entry in history(folder)] == [0, 4, 4, 4, 4]
    assert not any(entry["failures"] for entry in history(folder))
    assert summary["encryption"]["epochs"] == 2


@pytest.mark.parametrize("masks", [False, True])
def test_seconds_of_encryption_are_told_and_none_without(tmp_path: Path, masks: bool) -> None:
    settings = experiment(encryption__pairwise_masks=masks)
    summary = simulate(settings, out=tmp_path / "run")
    told = [entry["seconds"] for entry in history(tmp_path / "run")]
    spent = [each["encryption"] for each in told]
    assert all(0 < each["encryption"] <= each["total"] for each in told[1:])
    assert summary["seconds"]["encryption"] == pytest.approx(sum(spent))
    clear = simulate(experiment(encryption__scheme="none"), out=tmp_path / "clear")
    assert clear["seconds"]["encryption"] is None
    assert {each["seconds"]["encryption"] for each in history(tmp_path / "clear")} == {None}
