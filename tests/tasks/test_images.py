"""IDX files: read exactly, packed or not, and refused in one line when damaged or missing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from privet.client.silo import load_local_data
from privet.client.training import plan_round
from privet.errors import DataError
from privet.experiment import Experiment
from privet.tasks import load_task
from privet.tasks.images import scattering_features

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 9, 1, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write(folder: Path, part: str, *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        raw = idx(array)
        path = folder / f"{part}-{name}-ubyte"
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
        else:
            path.write_bytes(raw)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("task", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)]
)
def test_pixels_are_scaled_by_the_published_mean_and_deviation(
    tmp_path: Path, task: str, mean: float, std: float, packed: bool
) -> None:
    write(tmp_path / task, "train", packed=packed)
    train = load_task(task, data_dir=tmp_path).train_data()
    expected = (IMAGES[:, None] / 255 - mean) / std
    np.testing.assert_allclose(train.inputs.numpy(), expected, atol=1e-6)
    assert train.targets.tolist() == LABELS.tolist()


@pytest.mark.parametrize("task", ["mnist", "fashion-mnist"])
def test_an_image_whose_label_is_no_class_is_left_out_at_a_silo(tmp_path: Path, task: str) -> None:
    """Else training would fail whenever it is drawn, and say so."""
    write(tmp_path, "train", packed=False)
    whole = load_task(task, data_dir=tmp_path, held=True).train_data()
    odd = np.insert(LABELS, 2, [10, 255]), np.insert(IMAGES, 2, IMAGES[:2], axis=0)
    for name, array in zip(("labels-idx1", "images-idx3"), odd, strict=True):
        (tmp_path / f"train-{name}-ubyte").write_bytes(idx(array))
    read = load_task(task, data_dir=tmp_path, held=True).train_data()
    assert torch.equal(read.inputs, whole.inputs)
    assert torch.equal(read.targets, whole.targets)


def test_files_may_lie_in_the_data_folder_itself(tmp_path: Path) -> None:
    write(tmp_path, "t10k", packed=True)
    test = load_task("mnist", data_dir=tmp_path).test_data()
    assert test is not None
    assert len(test) == 6


def test_the_scatter_model_sees_the_features_of_the_pixels(tmp_path: Path) -> None:
    write(tmp_path / "mnist", "train", packed=False)
    task = load_task("mnist", model="scatter-linear", data_dir=tmp_path)
    train = task.train_data()
    expected = scattering_features(torch.from_numpy(IMAGES / np.float32(255)))
    torch.testing.assert_close(train.inputs, expected, atol=1e-4, rtol=1e-4)
    assert train.targets.tolist() == LABELS.tolist()
    assert task.model()(train.inputs).shape == (6, 10)
    assert torch.equal(task.train_data().inputs, train.inputs)


def test_a_ledger_knows_the_images_whatever_model_sees_them(tmp_path: Path) -> None:
    write(tmp_path / "mnist", "train", packed=False)

    def known(model: str) -> list[object]:
        experiment = Experiment.from_mapping(
            {"task": "mnist", "model": model, "evaluation": {"holdout": 0.5}}
        )
        place = load_local_data(experiment, data_dir=tmp_path, run_id=1, divided=False)
        return [place.fingerprint(0), len(place.silos[0]), len(place.held_out[0])]

    assert known("scatter-linear") == known("linear")
    assert 0 < known("linear")[1] < 6  # type: ignore[operator]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_an_example_trains_on_the_features_of_all_records_in_each_step(name: str) -> None:
    experiment = Experiment.from_file(EXAMPLES / f"{name}.toml")
    model = load_task(experiment.task, model=experiment.model).model()
    assert model(torch.zeros(1, 81, 7, 7)).shape == (1, 10)
    plan = plan_round(experiment, n_records=6000)
    assert plan.mechanism is not None
    assert (plan.steps, plan.mechanism.sampling_rate) == (1, 1.0)


def refusal(data_dir: Path | None) -> str:
    with pytest.raises(DataError) as caught:
        load_task("mnist", data_dir=data_dir).train_data()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named_with_its_place_and_how_to_get_it(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "train-images-idx3-ubyte" in message
    assert str(tmp_path / "mnist") in message
    assert "LeCun" in message
    assert "--data-dir" in message


def test_no_data_folder_is_said() -> None:
    message = refusal(None)
    assert "no data folder" in message
    assert "PRIVET_DATA" in message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (idx(IMAGES)[:-1], "holds 4703 bytes of data, its header says (6, 28, 28)"),
        (idx(IMAGES)[:9], "is not an IDX file"),
        (b"", "is not an IDX file"),
        (idx(LABELS), "is not an IDX file of bytes in 3 dimensions"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    write(tmp_path, "train", packed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
    assert said in refusal(tmp_path)


def test_a_torn_or_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:200], b"not gzip", whole[:40] + bytes(100) + whole[140:]):
        path.write_bytes(damaged)
        assert "cannot be read" in refusal(tmp_path)


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    assert "6 inputs, 4 targets" in refusal(tmp_path)
