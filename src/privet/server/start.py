"""Weights that a run begins with, out of a safetensors file.

Whoever simulates opens the file that the experiment names; a server opens it in its data folder. A
silo opens none: it is sent the first model, and knows by the experiment which file that was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from privet.errors import ExperimentError, nearest
from privet.experiment import Experiment, StartSettings
from privet.files import read_file
from privet.tasks.files import read_inside


def with_digest(experiment: Experiment, *, data_dir: Path | None) -> Experiment:
    """The experiment with the SHA-256 of its start, for whoever runs or orders it.

    ExperimentError where the file is not here, or another one than the experiment says.
    """
    start = experiment.start
    if start is None:
        return experiment
    content = _content(start, data_dir, held=False)
    if start.sha256 is not None:
        _demand_same(start, content)
        return experiment
    return experiment.with_settings({"start.sha256": hashlib.sha256(content).hexdigest()})


def ordered(experiment: Experiment, *, data_dir: Path | None) -> Experiment:
    """The same, where the SHA-256 is not set: an order names a file of the server's, and whoever
    orders need not have it."""
    start = experiment.start
    if start is None or start.sha256 is not None:
        return experiment
    try:
        return with_digest(experiment, data_dir=data_dir)
    except ExperimentError as error:
        raise ExperimentError(
            f"{error}; or set start.sha256 to that of the server's file"
        ) from None


def begin_from(
    start: StartSettings,
    state: Mapping[str, Tensor],
    *,
    data_dir: Path | None,
    held: bool,
    base: Collection[int] = (),
) -> None:
    """Set the tensors of a model's `state`, by their names, to those of the file.

    `held`: the file lies in the data folder of a server, and a job names it. `base`: the ids of
    tensors that every silo loads by the task; the file need not have them, and can change none.
    Raises ExperimentError that names the first tensor that does not fit; the state may then be
    changed in part.
    """
    content = _content(start, data_dir, held=held)
    _demand_same(start, content)
    tensors = _tensors(start, content)
    _demand_fitting(start, state, tensors, base)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _content(start: StartSettings, data_dir: Path | None, *, held: bool) -> bytes:
    if held:
        try:
            return read_inside(data_dir, start.file)
        except ExperimentError as error:
            raise ExperimentError(f"start.file: {error}") from None
    path = ((data_dir or Path.cwd()) / Path(start.file).expanduser()).absolute()
    try:
        return read_file(path)
    except OSError as error:
        raise ExperimentError(
            f"start.file = {start.file!r}: {path} cannot be read ({error.strerror}); paths are "
            "relative to the data folder (--data-dir or PRIVET_DATA), or whole"
        ) from None


def _demand_same(start: StartSettings, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if start.sha256 is None:
        raise ExperimentError(
            f"start.sha256 is needed with start.file = {start.file!r}, so that silos know what a "
            f"run begins with; here the file has {found}"
        )
    if found != start.sha256:
        raise ExperimentError(
            f"start.file = {start.file!r} is another file than the experiment's: its SHA-256 is "
            f"{found}, and start.sha256 = {start.sha256}"
        )


def _tensors(start: StartSettings, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ExperimentError(
            f"start.file = {start.file!r} is no safetensors file: {error}"
        ) from None


def _demand_fitting(
    start: StartSettings,
    state: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    base: Collection[int],
) -> None:
    # One tensor can have several names, and a file then has some of them.
    given = {id(state[name]) for name in tensors if name in state}
    for name, own in state.items():
        found = tensors.get(name)
        told = _misfit(own, found, given=id(own) in given or id(own) in base)
        if not told and found is not None and id(own) in base and not torch.equal(found, own):
            told = "is of the base, which the task loads, and is another one there: leave it out"
        if told:
            raise ExperimentError(f"start.file = {start.file!r}: tensor {name!r} {told}")
    for name in tensors:
        if name not in state:
            raise ExperimentError(
                f"start.file = {start.file!r}: tensor {name!r} is none of the model's."
                f"{nearest(name, list(state))}"
            )


def _misfit(own: Tensor, found: Tensor | None, *, given: bool) -> str | None:
    """Why a tensor of the file does not fit the model's `own`; None where it does."""
    if found is None:
        # Counters are no weights: the model keeps its own.
        return None if given or not own.is_floating_point() else f"is missing: {_like(own)}"
    if (found.shape, found.dtype) != (own.shape, own.dtype):
        return f"is {_told(found)}; {_like(own)}"
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        return "has values that are infinite or not a number"
    return None


def _like(own: Tensor) -> str:
    return f"the model has {_told(own)}"


def _told(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
