"""A silo's own part of a model (`federation.local`): kept by the silo from round to round.

In a simulation it is in the node's state, of which checkpoints are made. A real silo has a file for
each job (`privet.client.own_files`), on disk before the round's update is sent, where the node's
configuration names a folder (`own-parts`). It goes when the job's order has ended, unless the
holder's policy says that it stays (`training.keep_own_parts`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context

from privet.client.keyring import run_of
from privet.client.own_files import OwnPart
from privet.client.silo import Silo
from privet.errors import DataError, ModelError
from privet.vectors import FlatModel, Vector

OWN_PART = "own-part"
"""The record of a node's state, and in it the array, that holds it: shape (k,)."""


def recall(silo: Silo, context: Context) -> Vector | None:
    """The silo's own part; None before its first round, and where everything travels.

    DataError for a file that cannot be believed: to begin anew in silence would be another run.
    """
    model = silo.model()
    if not model.local:
        return None
    path = _file(context)
    if path is None:
        record = context.state.get(OWN_PART)
        return record[OWN_PART].numpy() if isinstance(record, ArrayRecord) else None
    if not path.exists():
        return None
    kept = OwnPart.read(path)
    if kept.unsent != model.unsent:
        raise DataError(f"{path} is of another model than the job's")
    return kept.numbers


def keep(silo: Silo, context: Context, own: Vector) -> None:
    """Keep the own part, shape (k,), as a round left it; ModelError where it is not finite."""
    model = silo.model()
    if not model.local:
        return
    if not np.isfinite(own).all():
        raise ModelError("the silo's own part of the model is no finite number any more")
    path = _file(context)
    if path is None:
        context.state[OWN_PART] = ArrayRecord({OWN_PART: Array(own)})
        return
    dataset, until = (context.node_config.get(key) for key in ("dataset", "until"))
    OwnPart(own, str(model.unsent), str(dataset or ""), float(until or 0)).write(path)


def whole_state(model: FlatModel, own: Vector | None) -> dict[str, np.ndarray]:
    """What trained of a silo's own model, by the names of its state dict; the shared part as it is
    loaded."""
    shared = {name: tensor.numpy() for name, tensor in model.state().items()}
    return {**shared, **model.own_state(own)}


def _file(context: Context) -> Path | None:
    folder = context.node_config.get("own-parts")
    return None if folder is None else Path(str(folder)) / f"{run_of(context)}.safetensors"
