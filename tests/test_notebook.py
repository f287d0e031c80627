"""The notebook of the examples: it is committed without outputs, and it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import privet

EXAMPLES = Path(privet.__file__).parents[2] / "examples"
NAME = "accuracy-against-privacy.ipynb"

pytestmark = pytest.mark.skipif(not (EXAMPLES / NAME).exists(), reason="not a checkout")


def test_it_holds_no_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / NAME, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    for name in (NAME, "digits.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    notebook = nbformat.read(tmp_path / NAME, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in shown if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in shown)
    told = "".join(output.get("text", "") for output in shown)
    assert "epsilon 1: accuracy 0." in told
    assert "fedavg: epsilon 8" in told
    sweeps = tmp_path / "runs" / "accuracy-against-privacy"
    assert {path.name for path in sweeps.iterdir()} == {"fedavg", "fedavgm"}
