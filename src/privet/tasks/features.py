"""What a frozen base makes of records: computed once, kept in a file, and given to heads.

Features of one record depend on that record and the base alone, so neighbouring data sets have
neighbouring features, and they are as private as the records: their file is its owner's to read.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from privet.base import Base
from privet.errors import DataError, ExperimentError
from privet.files import read_file, write_whole
from privet.pytrees import Tree, called
from privet.randomness import one_thread

Digests = npt.NDArray[np.uint8]
"""SHA-256 of what each record is read from, shape (n, 32)."""
Read = Callable[[Sequence[int]], Tree]
"""What the base takes of the records at some places."""

_AT_ONCE = 8
_HIDDEN = 64
_FORMAT = "privet features 1"


class Headed(nn.Module):
    """A head that trains behind a base, which is frozen or has adapters.

    It takes what the base takes, or the features (n, width) that the base gave of it before.
    """

    def __init__(self, base: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.head = head

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> Any:
        """Outputs of the head, for features or for one tensor of more axes or named tensors."""
        if features is None:
            features = self.base(**inputs)
        elif features.dim() > 2:
            features = self.base(features)
        return self.head(features)


class LinearHead(nn.Module):
    """Softmax regression on features (n, width), each record's centred and of length one.

    No record's gradient is then longer than the square root of two, and no statistics of other
    records enter. There is no bias: it would take as much of a clipped gradient as all features
    do, and what they have in common stands for it. It starts at zero: the loss is convex.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Outputs (n, classes)."""
        outputs: Tensor = self.layer(unit(features))
        return outputs


class DeepHead(nn.Module):
    """The same with a hidden layer of tanh units."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, _HIDDEN)
        self.layer = nn.Linear(_HIDDEN, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Outputs (n, classes)."""
        # As long as if each feature had variance one, which the initial weights are drawn for.
        scaled = unit(features) * features.shape[1] ** 0.5
        outputs: Tensor = self.layer(torch.tanh(self.hidden(scaled)))
        return outputs


HEADS: Mapping[str, Callable[[int, int], nn.Module]] = {"linear": LinearHead, "mlp": DeepHead}
"""By the name that an experiment's `model` has."""


def unit(features: Tensor) -> Tensor:
    """Features (n, width), each record's less their own mean and over their own length."""
    centred = features - features.mean(dim=1, keepdim=True)
    return nn.functional.normalize(centred, dim=1)


def frozen(module: nn.Module, *, digest: str | None) -> Base:
    """`module` as a base, in evaluation mode; ExperimentError unless its digest begins so."""
    base = Base.of(module.requires_grad_(False).eval())
    if digest is not None and not str(base.digest).startswith(digest):
        raise ExperimentError(
            f"data.base_digest = {digest!r}: the base here has the digest {str(base.digest)[:16]}…"
        )
    return base


def digests_of(contents: Sequence[bytes]) -> Digests:
    """By which records are known, (n, 32)."""
    raw = b"".join(hashlib.sha256(content).digest() for content in contents)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32).copy()


@dataclass(frozen=True)
class FeatureStore:
    """Features of records under one base and one way to read them, in a file of `folder`.

    Without a folder nothing is kept.
    """

    folder: Path | None
    base: Base
    how: str
    """What else decides them: size of images, length of texts."""
    width: int

    def features(self, digests: Digests, read: Read) -> Tensor:
        """Features float32 (n, width) of records known by `digests`; what is not kept is made."""
        known, kept = self._kept()
        missing = [i for i, digest in enumerate(digests) if digest.tobytes() not in known]
        if missing:
            # Equal records are computed once each: who finds out how many there are pays for it.
            made = self._computed(missing, read)
            kept, first = torch.cat([kept, made]), len(kept)
            known |= {digests[i].tobytes(): first + j for j, i in enumerate(missing)}
            self._keep(known, kept)
        return kept[[known[digest.tobytes()] for digest in digests]]

    @property
    def path(self) -> Path | None:
        """Where they are kept."""
        if self.folder is None:
            return None
        said = hashlib.sha256(f"{_FORMAT} {self.base.digest} {self.how}".encode()).hexdigest()
        return self.folder / f"features-{said[:16]}.safetensors"

    def _computed(self, places: Sequence[int], read: Read) -> Tensor:
        found = torch.empty((len(places), self.width))

        def fill(start: int) -> None:
            part = places[start : start + _AT_ONCE]
            # Always as many at once: the last bits of a record's features depend on how many.
            inputs = read([*part, *[part[0]] * (_AT_ONCE - len(part))])
            with torch.no_grad():
                made = called(self.base.module, inputs)
            found[start : start + _AT_ONCE] = made[: len(part)]

        # Each piece in one thread: the order of a sum then does not depend on the machine's cores.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads, one_thread():
            deque(threads.map(fill, range(0, len(places), _AT_ONCE)), maxlen=0)
        return found

    def _kept(self) -> tuple[dict[bytes, int], Tensor]:
        """The places of records by digest, and their features; none of a file that is no such."""
        nothing = torch.empty((0, self.width))
        if self.path is None or not self.path.exists():
            return {}, nothing
        try:
            tensors = load(read_file(self.path))
            digests, features = tensors["digests"], tensors["features"]
        except (OSError, KeyError, SafetensorError):
            return {}, nothing
        fits = features.shape == (len(digests), self.width) and features.dtype == torch.float32
        if not fits or not bool(torch.isfinite(features.sum())):
            return {}, nothing
        return {digest.tobytes(): i for i, digest in enumerate(digests.numpy())}, features

    def _keep(self, known: Mapping[bytes, int], features: Tensor) -> None:
        if self.path is None:
            return
        order = sorted(known, key=known.__getitem__)
        rows = [known[digest] for digest in order]
        digests = torch.from_numpy(
            np.frombuffer(b"".join(order), dtype=np.uint8).reshape(-1, 32).copy()
        )
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(
                self.path, save({"digests": digests, "features": features[rows]}), mode=0o600
            )
        except OSError as error:
            raise DataError(
                f"data.cache: features cannot be kept in {self.folder}: {error}"
            ) from error
