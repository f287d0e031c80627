"""Whole runs of tasks whose examples are dicts, tuples, bytes or sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from lazy_tasks import Folder, Sentences
from privet import Execution, Experiment
from privet.audits import audit
from privet.errors import DataError, ExperimentError
from privet.simulations.prepare import prepare
from privet.simulations.run import engine_warnings, simulate
from tree_tasks import KINDS, Tokens


def experiment(kind: type[Tokens], **settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": f"{kind.__module__}:{kind.__name__}",
        "rounds": 2,
        "seed": 5,
        "federation.silos": 3,
        "training.batch_size": 10,
        "training.lr": 0.2,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **settings})


PRIVATE = {
    "privacy.noise_multiplier": 1.0,
    "evaluation.holdout": 0.3,
    "validation.share": 0.1,
}


def images(folder: Path, count: int, size: int = 8) -> Path:
    """A file for each image of bytes, light or dark, with its class in its name."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for place in range(count):
        kind = place % 2
        image = rng.integers(90 * kind, 90 * kind + 160, (3, size, size), dtype=np.uint8)
        np.save(folder / f"{place:05d}-{kind}.npy", image)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_run_goes_through_with_canaries_and_passes_its_audit(
    kind: type[Tokens], tmp_path: Path
) -> None:
    setup = experiment(kind, **PRIVATE)
    summary = simulate(setup, out=tmp_path, execution=Execution(canaries=8))
    assert summary["rounds"] == 2
    assert 0 <= summary["accuracy"] <= 1
    report = audit([tmp_path], base=tmp_path)
    assert report.verdict == "UNANCHORED", report.headline
    claims = {claim.id: claim.verdict for claim in report.claims}
    assert "FAIL" not in claims.values()
    assert load_file(tmp_path / "model.safetensors")


def test_a_folder_of_images_augmented_at_every_reading_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In copies, in parts, in any number of processes; resumed as well."""
    folder = images(tmp_path / "images", 200)
    monkeypatch.setenv("PRIVET_DATA", str(folder))  # for the audit, which makes the task again
    setup = experiment(
        Folder,
        **{**PRIVATE, "rounds": 4, "privacy.noise_multiplier": 0.3},
        **{"training.augmentations": 3, "training.physical_batch": 4, "training.lr": 1.0},
    )
    for workers in (1, 2):
        told = simulate(
            setup,
            out=tmp_path / str(workers),
            data_dir=folder,
            execution=Execution(workers=workers, canaries=8),
        )
        assert told["problems"] == []
    assert told["validation"]["accuracy"] > 0.8
    one, two = (tmp_path / name / "model.safetensors" for name in ("1", "2"))
    assert one.read_bytes() == two.read_bytes()
    report = audit([tmp_path / "1"], base=tmp_path)
    assert report.verdict == "UNANCHORED", report.headline
    np.save(folder / "00007-1.npy", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ExperimentError, match="--resume needs the same"):
        simulate(setup, out=tmp_path / "1", data_dir=folder, resume=True)


def test_sentences_read_one_by_one_give_the_model_of_those_in_memory(tmp_path: Path) -> None:
    """Without privacy the streams hang on the seed alone; partitions by class need the labels."""
    for kind in (Tokens, Sentences):
        setup = experiment(kind, **{"federation.partition": "dirichlet"})
        simulate(setup, out=tmp_path / kind.__name__)
    held, read = (tmp_path / name / "model.safetensors" for name in ("Tokens", "Sentences"))
    assert {k: v.tolist() for k, v in load_file(held).items()} == {
        k: v.tolist() for k, v in load_file(read).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_any_number_of_workers(kind: type[Tokens], tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers)
        simulate(experiment(kind, **PRIVATE), out=out, execution=Execution(workers=workers))
    one, two = (tmp_path / name / "model.safetensors" for name in ("1", "2"))
    assert one.read_bytes() == two.read_bytes()


def test_what_the_vectorised_engine_does_not_take_trains_one_by_one(tmp_path: Path) -> None:
    setup = experiment(Tokens, **{"federation.silos": 5})
    assert "one by one" in engine_warnings(prepare(setup), "vectorised")[0]
    for engine in ("vectorised", "in-process"):
        simulate(setup, out=tmp_path / engine, execution=Execution(engine=engine))
    models = [tmp_path / name / "model.safetensors" for name in ("vectorised", "in-process")]
    assert len({path.read_bytes() for path in models}) == 1


def test_targets_that_are_no_classes_cannot_be_dealt_by_class() -> None:
    setup = experiment(KINDS[2], **{"federation.partition": "dirichlet"})
    with pytest.raises(DataError, match="not one number for each record; allowed are iid"):
        prepare(setup)
