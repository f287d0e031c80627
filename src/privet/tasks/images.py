"""MNIST and Fashion-MNIST, read from the four IDX files in which both are published."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privet.errors import DataError
from privet.tasks.files import data_file, read_bytes
from privet.tasks.models import Classification, cnn_28, linear, mlp, named_model
from privet.tasks.scattering import CHANNELS, scattering_features
from privet.tasks.task import Examples

_MODELS = {
    "linear": lambda: linear(784, 10),
    "mlp": lambda: mlp(784, 10, hidden=64),
    "cnn": lambda: cnn_28(10),
    "scatter-linear": lambda: linear(CHANNELS * 7 * 7, 10),
}
_UNSIGNED_BYTE = 8


class _IdxImages(Classification):
    """28x28 grey images of ten classes: 60,000 to train on, 10,000 to test."""

    folder: str
    source: str
    mean: float
    std: float

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:
        self._build = named_model(self.folder, model or "cnn", _MODELS)
        self._scatters = model == "scatter-linear"
        self._data_dir = data_dir

    def model(self) -> nn.Module:
        return self._build()

    def train_data(self) -> Examples:
        # Not kept: who asks deals them out, and two copies of 60,000 records' features are 2 GB.
        return self._read("train")

    def test_data(self) -> Examples:
        return self._test

    @cached_property
    def _test(self) -> Examples:
        return self._read("t10k")

    def _read(self, part: str) -> Examples:
        images = read_idx(self._file(f"{part}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(self._file(f"{part}-labels-idx1-ubyte"), dimensions=1)
        pixels = torch.from_numpy(images).float().div_(255)
        features = scattering_features(pixels) if self._scatters else None
        standardised = pixels.sub_(self.mean).div_(self.std).unsqueeze(1)
        targets = torch.from_numpy(labels.astype(np.int64))
        if features is None:
            return Examples(standardised, targets)
        return Examples(features, targets, records=standardised)

    def _file(self, name: str) -> Path:
        return data_file(self._data_dir, self.folder, name, source=self.source)


class Mnist(_IdxImages):
    """MNIST (LeCun, Cortes and Burges). Inputs (n, 1, 28, 28), (pixels/255 - 0.1307) / 0.3081.

    Files `mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]` in the data folder. Models: cnn
    (default), mlp, linear, and scatter-linear, softmax regression on normalised scattering
    features (n, 81, 7, 7) of pixels/255. Raises DataError for a missing or damaged file.
    """

    folder = "mnist"
    source = "MNIST (LeCun, Cortes and Burges, the four IDX files)"
    mean, std = 0.1307, 0.3081


class FashionMnist(_IdxImages):
    """Fashion-MNIST (Zalando Research). Inputs (n, 1, 28, 28), (pixels/255 - 0.2860) / 0.3530.

    Files and models as for MNIST, in `fashion-mnist/`.
    """

    folder = "fashion-mnist"
    source = "Fashion-MNIST (Zalando Research, the four IDX files)"
    mean, std = 0.2860, 0.3530


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in the IDX file `path`, packed with gzip or not.

    Raises DataError when the header is not that of `dimensions` dimensions or bytes are missing.
    """
    raw = read_bytes(path)
    start = 4 + 4 * dimensions
    if len(raw) < start or raw[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(raw[4:start], dtype=">u4").tolist())
    if len(raw) - start != math.prod(shape):
        raise DataError(f"{path} holds {len(raw) - start} bytes of data, its header says {shape}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy()
