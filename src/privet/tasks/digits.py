"""scikit-learn's bundled 8x8 images of handwritten digits: a real data set without a download."""

from __future__ import annotations

from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.errors import DataError
from privet.tasks.partitions import stratified
from privet.tasks.task import Classification, Examples, cnn_8, linear, mlp, named_model

# Round figures near the mean and deviation of ink on paper, fixed here and not taken from the
# records at run time. Centred pixels are worth about four points of accuracy at epsilon 2.
_LARGEST, _MEAN, _STD = 16.0, 0.3, 0.38
_SPLIT_SEED = 7
_MODELS = {
    "linear": lambda: linear(64, 10),
    "mlp": lambda: mlp(64, 10, hidden=32),
    "cnn": lambda: cnn_8(10),
}


class Digits(Classification):
    """1,797 images of ten digits: 1,437 to train on and 360 to test, the same ones every time.

    Inputs (n, 1, 8, 8): pixels/16, minus 0.3, over 0.38. The split is stratified by digit. Default
    model: linear, which keeps most accuracy under noise with so few records.
    Source: E. Alpaydin and C. Kaynak, UCI Optical Recognition of Handwritten Digits (test part).
    """

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:  # noqa: ARG002
        self._build = named_model("digits", model or "linear", _MODELS)

    def model(self) -> nn.Module:
        return self._build()

    def train_data(self) -> Examples:
        return self._halves[0]

    def test_data(self) -> Examples:
        return self._halves[1]

    def encode(self, records: Tensor) -> Tensor:
        """Inputs of images (n, 8, 8) or (n, 64) with values from 0 to 16."""
        scaled = (records.to(torch.float64) / _LARGEST - _MEAN) / _STD
        return scaled.to(torch.float32).reshape(-1, 1, 8, 8)

    @cached_property
    def _halves(self) -> tuple[Examples, Examples]:
        pixels, targets = _rows()[:, :-1], _rows()[:, -1].astype(np.int64)
        everything = Examples(self.encode(torch.from_numpy(pixels)), torch.from_numpy(targets))
        # The legacy generator, from which scikit-learn draws: the split is the one that it makes.
        rng = np.random.RandomState(_SPLIT_SEED)
        train, test = stratified(targets, train=1437, test=360, rng=rng)
        return everything.take(train), everything.take(test)


@cache  # a server and each of its silos in one process have tasks of their own
def _rows() -> NDArray[np.float64]:
    """Pixels and digit, (1797, 65), of the file that `sklearn.datasets.load_digits` reads.

    scikit-learn itself is not imported: that takes two seconds.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits come with scikit-learn, which is not installed")
    return np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
