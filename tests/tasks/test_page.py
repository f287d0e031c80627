"""docs/tasks.md: its code runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from privet import Experiment
from privet.simulations.run import simulate

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    found = re.search(rf"^## {title}.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    return found[0]


def test_a_base_with_a_head_trains_and_is_loaded_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, afterwards = re.findall(r"```python\n(.*?)```", _section("A model"), re.DOTALL)
    (tmp_path / "my_model.py").write_text(task)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_model  # type: ignore[import-not-found]

    try:
        torch.manual_seed(3)  # some features that are drawn tell classes apart less well
        torch.save(my_model.features().state_dict(), tmp_path / "data/features.pt")
        experiment = Experiment.from_mapping(
            {"task": "my_model:Pictures", "rounds": 3, "federation": {"silos": 3}}
        )
        told = simulate(experiment, out=Path("runs/pictures"), data_dir=Path("data").absolute())
        assert told["model"]["trained"] == 2 * 128 + 2
        names: dict[str, torch.nn.Module] = {}
        exec(afterwards, names)
    finally:
        sys.modules.pop("my_model")
    pictures = my_model.Pictures(data_dir="data").train_data()
    outputs = names["model"](pictures.inputs)
    assert my_model.Pictures().metrics(outputs, pictures.targets)["accuracy"] > 0.8
