"""Tasks by name, and a person's own by "module:Class"."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from privet.errors import ExperimentError
from privet.tasks import TASKS, load_task

OWN = """
class Whole:
    def __init__(self, *, model=None, data_dir=None, size=3): self.size = size
    def model(self): ...
    def train_data(self): ...
    def test_data(self): ...
    def loss(self, outputs, targets): ...
    def metrics(self, outputs, targets): ...

class Needy(Whole):
    def __init__(self, *, model=None, data_dir=None, column): ...

class Half:
    def model(self): ...
    def train_data(self): ...

number = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of one's own in the current folder."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return name


def refusal(name: str, **options: object) -> str:
    with pytest.raises(ExperimentError) as caught:
        load_task(name, options=options)
    message = str(caught.value)
    assert "\n" not in message
    return message


OPTIONS = {
    "table": {"file": "absent.csv", "target": "y"},
    "images": {"folder": "absent"},
    "text": {"file": "absent.csv", "base": "absent"},
}


def test_the_list_of_tasks_is_read_without_torch_or_pandas() -> None:
    code = (
        "import sys; from privet.tasks import TASKS; "
        "print(*TASKS); print({'torch', 'pandas', 'datasets', 'sklearn'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = run.stdout.splitlines()
    known = [
        "digits",
        "mnist",
        "fashion-mnist",
        "heart-disease",
        "adult",
        "images",
        "text",
        "table",
    ]
    assert names.split() == known
    assert loaded == "set()"


@pytest.mark.parametrize("name", TASKS)
def test_every_built_in_task_is_made_before_any_file_is_read(name: str, tmp_path: Path) -> None:
    task = load_task(name, data_dir=tmp_path, options=OPTIONS.get(name))
    assert callable(task.train_data)
    assert TASKS[name].summary


@pytest.mark.parametrize("name", TASKS)
def test_an_unknown_model_is_refused_with_the_models_there_are(name: str) -> None:
    with pytest.raises(
        ExperimentError, match=r"model = 'linaer'.*linear, mlp.*Did you mean 'linear'"
    ):
        load_task(name, model="linaer", options=OPTIONS.get(name))


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    assert "Did you mean 'mnist'?" in refusal("minst")


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    message = refusal("heart-disease", scailing="per-silo")
    assert "unknown key 'data.scailing'" in message
    assert "Did you mean 'scaling'?" in message


def test_an_option_of_a_task_that_has_none_is_refused() -> None:
    assert "no options" in refusal("digits", scaling="per-silo")


def test_a_class_of_ones_own_is_found_beside_the_experiment(own: str) -> None:
    task = load_task(f"{own}:Whole", options={"size": 5})
    assert task.size == 5  # type: ignore[attr-defined]


def test_what_is_wrong_with_a_class_of_ones_own_is_said(own: str) -> None:
    assert "has no 'Whoel'. Did you mean 'Whole'?" in refusal(f"{own}:Whoel")
    assert "lacks test_data, loss, metrics" in refusal(f"{own}:Half")
    assert "is a int, not a class" in refusal(f"{own}:number")
    assert "needs 'data.column'" in refusal(f"{own}:Needy")
    assert "unknown key 'data.sise'" in refusal(f"{own}:Whole", sise=4)


def test_what_is_wrong_with_a_module_is_said(own: str, tmp_path: Path) -> None:
    (tmp_path / f"{own}_b.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / f"{own}_c.py").write_text("class Broken\n")
    assert f"no module no_{own}" in refusal(f"no_{own}:Whole")
    assert str(tmp_path) in refusal(f"no_{own}:Whole")
    assert "a_package_that_is_not_there" in refusal(f"{own}_b:Whole")
    assert "cannot be imported" in refusal(f"{own}_c:Whole")
