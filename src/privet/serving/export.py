"""A trained model as a file for other programs, held against torch before it is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from privet.errors import DataError, ModelError, PrivetError
from privet.experiment import Experiment
from privet.record.card import CARD
from privet.record.folder import SETTINGS
from privet.serving import onnx_graph
from privet.serving.model import TrainedModel
from privet.tasks import load_task
from privet.tasks.columns import Frame
from privet.tasks.encoding import TableEncoding
from privet.tasks.files import data_folder

Format = Literal["onnx", "torchscript", "state-dict"]
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torchscript": ".ts", "state-dict": ".pt"}

_MADE_UP = 256
_PICTURES = ((28, 28), (8, 8))
_CLOSE = 1e-4
"""More than float32 differs between two programs, beside the largest output."""
_MOST_CHANGED = 0.05
"""Answers that int8 weights may change before they are refused."""


@dataclass(frozen=True)
class Probe:
    """Records on which an export is held against torch."""

    inputs: Tensor
    """(n, ...)."""
    columns: onnx_graph.Columns | None
    """Of a table, what the graph takes, by name."""
    targets: Tensor | None
    """Null for made-up records."""


@dataclass(frozen=True)
class Exported:
    """The content of an export, and how it compares with torch."""

    content: bytes
    records: int
    made_up: bool
    difference: float
    """The largest between outputs."""
    changed: float
    """Share of records with another answer."""
    figures: Mapping[str, tuple[float, float]]
    """Of test records: each metric by torch and by the export."""


def export(
    model: TrainedModel, probe: Probe, *, to: Format, int8: bool, silo: str | None
) -> Exported:
    """The model as a file of another format.

    `int8`: weights of an ONNX graph as whole numbers of 8 bits, a scale for each row. Of a table
    the graph takes columns (n,) by their names, numbers as float64 and words as texts, and does
    what `TrainedModel.inputs` does: an empty text and NaN are missing values, and so is a word that
    is not known.

    Raises:
        ModelError: a model that cannot be exported, or whose export does not answer as torch does.
    """
    if int8 and to != "onnx":
        raise ModelError("--int8 is for --format onnx")
    content, run = _MAKERS[to](model, probe, int8, silo)
    ours = model.outputs(probe.inputs)
    theirs = torch.as_tensor(run())
    if ours.shape != theirs.shape or not bool(torch.isfinite(theirs).all()):
        raise ModelError(f"the model as {to} gives {tuple(theirs.shape)} and is not written")
    difference = float((ours - theirs).abs().max()) if len(ours) else 0.0
    changed = _changed(model, ours, theirs)
    largest = max(1.0, float(ours.abs().max()) if ours.numel() else 1.0)
    if changed > _MOST_CHANGED or (not int8 and difference > _CLOSE * largest):
        raise ModelError(
            f"the model as {to} differs by {difference:.2g} from torch and answers {changed:.1%} "
            "of the records otherwise: it is not written"
        )
    made_up = probe.targets is None
    return Exported(
        content, len(ours), made_up, difference, changed, _figures(model, probe, ours, theirs)
    )


def probe_of(model: TrainedModel, run: Path, data_dir: Path | None, silo: str | None) -> Probe:
    """Test records of the run in the folder `run` where they can be read, else made-up ones."""
    try:
        experiment = Experiment.from_file(run / SETTINGS)
        if experiment.task != model.card.task:
            raise DataError("the folder's settings are of another task")
        task = load_task(
            experiment.task,
            model=experiment.model,
            data_dir=data_folder(data_dir),
            options=experiment.data,
        )
        test = task.test_data()
        if test is not None and model.encoding is None:
            return Probe(test.inputs, None, test.targets)
        rows = getattr(task, "test_frame", lambda: None)()
        if rows is not None and test is not None:
            # The same rows in the same order, as the files have them.
            frame = Frame(Path("test"), rows, model.text_format)
            return _of_table(model.encoding, frame, silo, test.targets)
    except PrivetError:
        pass  # the records are somewhere else
    return _made_up(model, silo)


def _of_table(
    encoding: TableEncoding | None, frame: Frame, silo: str | None, targets: Tensor | None
) -> Probe:
    assert encoding is not None
    inputs, kept = encoding.inputs(frame, unfit="missing", silo=silo)
    rows = Frame(frame.path, frame.rows[kept].reset_index(drop=True), frame.how)
    known = None if targets is None else targets[torch.from_numpy(kept)]
    return Probe(inputs, onnx_graph.columns_of(encoding, rows), known)


def _made_up(model: TrainedModel, silo: str | None) -> Probe:
    draw = np.random.default_rng(0)
    if model.encoding is not None:
        frame = Frame(Path("made up"), _rows(model.encoding, draw), model.text_format)
        return _of_table(model.encoding, frame, silo, None)
    shape = _input_shape(model)
    return Probe(
        torch.from_numpy(draw.normal(size=(_MADE_UP, *shape)).astype(np.float32)), None, None
    )


def _rows(encoding: TableEncoding, draw: np.random.Generator) -> Any:
    """Rows with values all over the ranges and beyond, every word, and gaps where those may be."""
    import pandas as pd

    layout = encoding.layout
    scale = next(iter(encoding.scales.values()))
    gaps = layout.options.missing == "impute"
    columns: dict[str, Any] = {}
    for name, centre, spread in zip(layout.numeric, scale.centre, scale.spread, strict=True):
        values = centre + 1.5 * spread * draw.normal(size=_MADE_UP)
        columns[name] = np.where(draw.random(_MADE_UP) < 0.1 * gaps, np.nan, values)
    for name, words in layout.vocabularies.items():
        choice = np.array([*words, *([None] if gaps else [])], dtype=object)
        columns[name] = draw.choice(choice, _MADE_UP)
    return pd.DataFrame(columns)


def _input_shape(model: TrainedModel) -> tuple[int, ...]:
    encode = getattr(model.task, "encode", None)
    if encode is not None:
        for shape in _PICTURES:
            with suppress(RuntimeError):
                return tuple(encode(torch.zeros(1, *shape)).shape[1:])
    first = next((p for p in model.module.parameters() if p.ndim == 2), None)
    if first is None:
        raise ModelError(
            "the shape of the model's inputs is known from its test records alone: give the run's "
            "folder, and --data-dir"
        )
    return (int(first.shape[1]),)


def _changed(model: TrainedModel, ours: Tensor, theirs: Tensor) -> float:
    said, now = (model.answers(each).get("prediction") for each in (ours, theirs))
    if said is None or now is None or not len(said) or said.dtype.kind == "f":
        return 0.0
    return float(np.mean(said != now))


def _figures(
    model: TrainedModel, probe: Probe, ours: Tensor, theirs: Tensor
) -> dict[str, tuple[float, float]]:
    if probe.targets is None or not len(ours):
        return {}
    mine, its = (model.task.metrics(outputs, probe.targets) for outputs in (ours, theirs))
    return {name: (float(mine[name]), float(its[name])) for name in mine}


def _onnx(model: TrainedModel, probe: Probe, int8: bool, silo: str | None) -> tuple[bytes, Any]:
    graph = onnx_graph.graph_of(model, probe.inputs[:2], silo=silo)
    if int8:
        graph = onnx_graph.with_int8(graph)
    content = onnx_graph.checked_bytes(graph, {CARD: model.card.line()})
    return content, lambda: onnx_graph.run(content, probe.columns or probe.inputs.numpy())


def _torchscript(model: TrainedModel, probe: Probe, _: bool, __: str | None) -> tuple[bytes, Any]:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(model.module, probe.inputs[:2])  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ModelError(f"the model cannot be traced: {str(error).splitlines()[0]}") from error
        torch.jit.save(traced, stream, _extra_files={f"{CARD}.json": model.card.line()})
        opened = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(stream.getvalue())
        )
    with torch.no_grad():
        outputs = opened(probe.inputs)
    return stream.getvalue(), lambda: outputs


def _state_dict(model: TrainedModel, probe: Probe, _: bool, __: str | None) -> tuple[bytes, Any]:
    stream = io.BytesIO()
    torch.save(model.module.state_dict(), stream)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    with torch.no_grad():
        outputs = torch.func.functional_call(model.module, loaded, (probe.inputs,))
    return stream.getvalue(), lambda: outputs


_MAKERS = {"onnx": _onnx, "torchscript": _torchscript, "state-dict": _state_dict}
