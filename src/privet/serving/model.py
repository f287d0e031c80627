"""A trained model as it is used: its module, and what makes inputs and answers around it.

A file may come from a stranger. It is read as safetensors and JSON, both bounded and compared with
a schema and with the task's own model; it is never unpickled, and code of someone's own is imported
only where the caller names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from privet.base import Base
from privet.errors import DataError, ExperimentError, ModelError, PrivetError
from privet.experiment import Experiment
from privet.files import demand_file
from privet.pytrees import Tree, leaves
from privet.randomness import one_thread
from privet.record.card import ModelCard, read_card
from privet.record.folder import MODEL, OWN_PARTS, SETTINGS
from privet.server.evaluation import outputs_of
from privet.serving.pictures import Pictures
from privet.tasks import Task, load_task
from privet.tasks.columns import Frame
from privet.tasks.encoding import TableEncoding, Unfit
from privet.tasks.files import data_folder
from privet.tasks.task import constant_buffers, seeded_model
from privet.tasks.text_tables import TextFormat

if TYPE_CHECKING:
    import pandas as pd

_FILES = {"file", "files", "test_file", "folder", "folders", "test_folder", "cache"}
_Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a run left, ready for new records."""

    card: ModelCard
    """What the file says of the model, with the claim of its run."""
    module: nn.Module
    """In evaluation mode; it takes what `inputs` gives."""
    task: Task = field(repr=False)
    encoding: TableEncoding | None = None
    """Of a table: how its rows become inputs."""

    def predict(
        self, records: object, *, unfit: Unfit = "refuse", silo: str | None = None
    ) -> pd.DataFrame:
        """Answers for n records, row by row: a class and the probability of each, (n, columns).

        `records`: of a table a pandas DataFrame with its columns, in any order, among others; of
        images an array (n, height, width) as the data set has them; else model inputs (n, ...).
        Equal records in equal order have the answers of the run's evaluation, to the bit.

        `unfit` says what becomes of a value that the model has no input for, such as a word that it
        does not know, or of a missing column: "refuse" it, take it as a "missing" one, or "skip"
        the row, which then has no answer. `silo` names the one whose own scales are used, where a
        model has such.

        Raises:
            DataError: records that do not fit.
        """
        import pandas as pd

        inputs, kept = self.inputs(records, unfit=unfit, silo=silo)
        answers = pd.DataFrame(self.answers(self.outputs(inputs)))
        answers.index = pd.Index(np.flatnonzero(kept))
        return answers.reindex(range(len(kept)))

    def inputs(
        self, records: object, *, unfit: Unfit = "refuse", silo: str | None = None
    ) -> tuple[Tensor, _Mask]:
        """Model inputs (k, ...) of the records that have an answer, and which of the n those are.

        DataError for records that do not fit.
        """
        if self.encoding is not None:
            return self.encoding.inputs(self._frame(records), unfit=unfit, silo=silo)
        if isinstance(records, Pictures):
            return self._of_pictures(records)
        with _unfit("the records cannot be read"):
            tensor = torch.as_tensor(records)
            encode = getattr(self.task, "encode", None)
            inputs = tensor.to(torch.float32) if encode is None else encode(tensor)
        return inputs, np.ones(len(inputs), dtype=bool)

    def _of_pictures(self, pictures: Pictures) -> tuple[Tensor, _Mask]:
        encode = getattr(self.task, "encode_files", None)
        if encode is None:
            return self.inputs(pictures.grey())
        with _unfit("the pictures cannot be read"):
            inputs = encode(pictures.contents)
        return inputs, np.ones(len(inputs), dtype=bool)

    def outputs(self, inputs: Tree) -> Any:
        """What the module makes of `inputs`, in the batches of an evaluation."""
        # With more threads sums have another order, and other bits.
        with one_thread(), _unfit("the records do not fit the model"):
            return outputs_of(self.module, inputs)

    def answers(self, outputs: Any) -> Mapping[str, np.ndarray]:
        """What the outputs say, by column, (n,)."""
        say = getattr(self.task, "answers", None)
        if say is not None:
            return cast(Mapping[str, np.ndarray], say(outputs))
        flat = torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves(outputs)], dim=1).numpy()
        return {f"output_{place}": values for place, values in enumerate(flat.T)}

    @cached_property
    def text_format(self) -> TextFormat:
        """How text files of a table are written, unless somebody says otherwise."""
        assert self.encoding is not None
        return self.encoding.layout.options.text_format

    def _frame(self, records: object) -> Frame:
        import pandas as pd

        if isinstance(records, Frame):
            return records
        if not isinstance(records, pd.DataFrame):
            raise DataError(f"the model takes a pandas DataFrame, not {type(records).__name__}")
        rows = records.rename(columns=str).reset_index(drop=True)
        if twice := rows.columns[rows.columns.duplicated()].tolist():
            raise DataError(f"the frame: two columns are called {twice[0]!r}")
        return Frame(Path("the frame"), rows, self.text_format)


@contextmanager
def _unfit(what: str) -> Iterator[None]:
    """Records that torch or a task's own code cannot take are unfit, whatever it raised."""
    try:
        yield
    except PrivetError:
        raise
    except Exception as error:
        raise DataError(f"{what}: {(str(error).splitlines() or [''])[0]}") from error


def load(
    run: Path, *, task: str | None = None, data_dir: Path | None = None, silo: str | None = None
) -> TrainedModel:
    """Open the model of a run's folder, or a model's file; see `privet.load`."""
    path = run / MODEL if run.is_dir() else run
    card, tensors = _read(path)
    tensors |= _own_part(path.with_name(OWN_PARTS), silo)
    for code in (card.task, str((card.data or {}).get("base", ""))):
        if ":" in code and task != code:
            raise ExperimentError(
                f"{path} is a model of {code!r}, code of someone's own: --task {code} (or task= in "
                "Python) allows it to run here"
            )
    made = _task(card, path, data_folder(data_dir))
    module = seeded_model(made, card.seed)
    _fill(module, tensors, card, made, path)
    return TrainedModel(card, module.eval(), made, _encoding(card, made, path))


def _read(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    try:
        with safe_open(demand_file(path), framework="pt") as file:
            card = read_card(file.metadata(), name=str(path))
            return card, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} has no {path.name}: the run is not finished, or it is encrypted and "
            "silos keep the model"
        ) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file: {error}") from None


def _own_part(path: Path, silo: str | None) -> dict[str, Tensor]:
    """What of the model stays with `silo`, where a simulation kept it; DataError for no silo."""
    if not path.exists():
        return {}
    try:
        with safe_open(demand_file(path), framework="pt") as file:
            names = {name: name.partition("/") for name in file.keys()}  # noqa: SIM118
            silos = {owner for owner, _, _ in names.values()}
            if silo not in silos:
                raise DataError(
                    f"each silo has a model of its own here: say whose with --silo, one of "
                    f"{', '.join(sorted(silos))}"
                )
            return {n: file.get_tensor(k) for k, (owner, _, n) in names.items() if owner == silo}
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file: {error}") from None


def _task(card: ModelCard, path: Path, data_dir: Path | None) -> Task:
    if not card.withheld:
        if _FILES & {*(card.data or {})}:
            raise DataError(f"{path} names files of its own to read, which no model's file may")
        weights = Path(str((card.data or {}).get("weights") or ""))
        if weights.is_absolute() or {"..", "~"} & {*weights.parts}:
            raise DataError(f"{path}: data.weights = {str(weights)!r} leads out of the data folder")
        return load_task(card.task, model=card.model, options=card.data, data_dir=data_dir)
    needs = f"{path} is not enough: epsilon does not cover {', and '.join(card.withheld)}"
    try:
        experiment = Experiment.from_file(path.parent / SETTINGS)
        task = load_task(card.task, model=card.model, options=experiment.data, data_dir=data_dir)
        task.train_data()  # reads what is needed of it
    except PrivetError as error:
        raise DataError(
            f"{needs}. They are read from the records again, where {SETTINGS} of the run and its "
            f"data are ({error})"
        ) from None
    return task


def _encoding(card: ModelCard, task: Task, path: Path) -> TableEncoding | None:
    found = getattr(task, "encoding", None) if card.withheld or not card.scaling else None
    if card.scaling:
        layout = getattr(task, "layout", None)
        if layout is None or any(
            not set(columns) <= set(layout.numeric) for columns in card.scaling.values()
        ):
            raise DataError(f"{path} has scales of columns that its table does not use")
        return TableEncoding.with_learned(layout, card.scaling)
    return found


def _fill(
    module: nn.Module, tensors: Mapping[str, Tensor], card: ModelCard, task: Task, path: Path
) -> None:
    """Load what trained; ModelError for tensors of another model, or one with another base."""
    base = Base.of(module, constant_buffers(task))
    if base.digest != card.base:
        raise ModelError(f"{path}: the task loads another base here than the model was trained on")
    state = module.state_dict(keep_vars=True)
    given = {id(state[name]) for name in tensors if name in state}
    needed = {
        name: own
        for name, own in state.items()
        if id(own) not in base.ids and (name in tensors or id(own) not in given)
    }
    for name in sorted({*tensors} | {*needed}):
        own, found = needed.get(name), tensors.get(name)
        if own is None or found is None or (own.shape, own.dtype) != (found.shape, found.dtype):
            apart = "" if found is not None else " (or it stays in its silo: federation.local)"
            raise ModelError(
                f"{path}: tensor {name!r} does not fit the model of {card.task}{apart}"
            )
    with torch.no_grad():
        for name, own in needed.items():
            own.copy_(tensors[name])
