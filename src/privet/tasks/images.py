"""MNIST and Fashion-MNIST, read from the four IDX files in which both are published.

The scattering transform gives features for which no data set was looked at: two layers of wavelets,
moduli and averages (Bruna and Mallat 2013, arXiv 1203.1513), with the Morlet wavelets, the padding
and the order of channels of Kymatio (Andreux et al. 2020), whose numbers it gives: two scales,
eight angles, averages over four pixels. A record's features depend on that record alone, so they
are as private as the record and cost no budget.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privet.errors import DataError
from privet.randomness import one_thread
from privet.tasks.files import data_file, read_bytes
from privet.tasks.task import Classification, Examples, cnn_28, linear, mlp, named_model

CHANNELS = 81
"""1 average, 2 x 8 of one wavelet, 8 x 8 of one at each scale."""

_ANGLES = 8
_AT_ONCE = 16
_Array = npt.NDArray[np.float64]


def scattering_features(images: Tensor) -> Tensor:
    """Normalised features (n, 81, size/4, size/4) of grey `images`, float32 (n, size, size).

    Every three neighbouring channels of a record have mean 0 and variance 1 (less where a variance
    was below 1e-4); no statistics of other records enter. So do Tramèr and Boneh (2021, arXiv
    2011.11660) where they spend no budget on normalising. `size` is a multiple of four, at least 8.
    """
    side = images.shape[-1] // 4
    features = images.new_empty(len(images), CHANNELS, side, side)

    def fill(start: int) -> None:
        coefficients = scattering(images[start : start + _AT_ONCE])
        features[start : start + _AT_ONCE] = F.group_norm(coefficients, CHANNELS // 3)

    # Each piece in one thread: several gain little over one so small.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads, one_thread():
        # Runs all of it, keeps nothing, and raises here what a thread raised.
        deque(threads.map(fill, range(0, len(images), _AT_ONCE)), maxlen=0)
    return features


def scattering(images: Tensor) -> Tensor:
    """Scattering coefficients of grey `images`, as above, before they are normalised.

    Of the channels the first is the average, then come the wavelets of the first scale and of the
    second, then pairs of both, the second changing faster.
    """
    # Four pixels of padding on each side, over which the averages reach.
    size = images.shape[-1] + 8
    fine, coarse = (wavelets.unsqueeze(0) for wavelets in _wavelets(size))
    padded = F.pad(images.unsqueeze(1), (4, 4, 4, 4), mode="reflect")
    spectrum = torch.fft.fft2(padded)
    first = torch.fft.ifft2(spectrum * fine).abs()
    second = _halved(spectrum * coarse)
    pairs = _halved((torch.fft.fft2(first).unsqueeze(2) * coarse).flatten(1, 2))
    whole, half = _averages(size)
    return torch.cat(
        [
            whole @ torch.cat([padded, first], dim=1) @ whole.T,
            half @ torch.cat([second, pairs], dim=1) @ half.T,
        ],
        dim=1,
    )


def _halved(spectrum: Tensor) -> Tensor:
    """The modulus of every second pixel of what has this spectrum, shape (n, c, size, size)."""
    # To take every second pixel is to fold the spectrum, and what is inverted is then a quarter.
    for axis in (-2, -1):
        low, high = spectrum.chunk(2, dim=axis)
        spectrum = (low + high) / 2
    modulus: Tensor = torch.fft.ifft2(spectrum).abs()
    return modulus


@lru_cache
def _wavelets(size: int) -> tuple[Tensor, Tensor]:
    """Spectra of the wavelets of both scales, each (8, size, size)."""
    angles = [(_ANGLES // 2 - 1 - turn) * math.pi / _ANGLES for turn in range(_ANGLES)]
    fine, coarse = (
        np.stack([_morlet(size, 0.8 * scale, 0.75 * math.pi / scale, angle) for angle in angles])
        for scale in (1, 2)
    )
    return torch.from_numpy(fine).float(), torch.from_numpy(coarse).float()


def _morlet(size: int, width: float, frequency: float, angle: float) -> _Array:
    """The spectrum of a Morlet wavelet: a wave under a Gaussian, less what makes its sum zero."""
    slant = 4.0 / _ANGLES
    x, y = np.mgrid[-2 * size : 3 * size, -2 * size : 3 * size].astype(np.float64)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * width**2))
    envelope *= slant / (2 * np.pi * width**2)
    wave = envelope * np.exp(1j * frequency * along)
    wavelet = wave - wave.sum() / envelope.sum() * envelope
    # An FFT convolves in a circle: what of a wavelet is beyond the image comes in again.
    periodic = wavelet.reshape(5, size, 5, size).sum(axis=(0, 2))
    # A Morlet wavelet at -u is the conjugate of that at u: its spectrum is real but for rounding.
    spectrum: _Array = np.fft.fft2(periodic).real
    return spectrum


@lru_cache
def _averages(size: int) -> tuple[Tensor, Tensor]:
    """Matrices (size/4 - 2, size) and (size/4 - 2, size/2) that average along one axis.

    They are Gaussian, sampled every four pixels, without the outermost samples, which see padding
    only; the second is for what was halved already.
    """
    x = np.arange(-2 * size, 3 * size)
    # Kymatio's width for two scales, 0.8 * 2.
    gauss = np.exp(-(x**2) / (2 * 1.6**2)) / (math.sqrt(2 * np.pi) * 1.6)
    spectrum = np.fft.fft(gauss.reshape(5, size).sum(axis=0)).real
    slow = np.r_[: size // 4, size - size // 4 : size]
    return _sampled(spectrum, 4), _sampled(spectrum[slow], 2)


def _sampled(spectrum: _Array, step: int) -> Tensor:
    """The circular convolution with this spectrum at every `step`-th place but the outermost."""
    columns = np.fft.ifft(np.fft.fft(np.eye(len(spectrum))) * spectrum, axis=1).real
    return torch.from_numpy(columns.T[::step][1:-1].copy()).float()


_MODELS = {
    "linear": lambda: linear(784, 10),
    "mlp": lambda: mlp(784, 10, hidden=64),
    "cnn": lambda: cnn_28(10),
    "scatter-linear": lambda: linear(CHANNELS * 7 * 7, 10),
}
_UNSIGNED_BYTE = 8
_CLASSES = 10


class _IdxImages(Classification):
    """28x28 grey images of ten classes: 60,000 to train on, 10,000 to test."""

    folder: str
    source: str
    mean: float
    std: float
    held = False

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:
        self._build = named_model(self.folder, model or "cnn", _MODELS)
        self._scatters = model == "scatter-linear"
        self._data_dir = data_dir

    def model(self) -> nn.Module:
        return self._build()

    def encode(self, records: Tensor) -> Tensor:
        """Inputs of images (n, 28, 28) with values from 0 to 255."""
        pixels = records.to(torch.float32).div(255).reshape(-1, 28, 28)
        if self._scatters:
            return scattering_features(pixels)
        return pixels.sub(self.mean).div(self.std).unsqueeze(1)

    def train_data(self) -> Examples:
        # Not kept: who asks partitions them, and two copies of 60,000 records' features are 2 GB.
        return self._read("train")

    def test_data(self) -> Examples:
        return self._test

    @cached_property
    def _test(self) -> Examples:
        return self._read("t10k")

    def _read(self, part: str) -> Examples:
        images = read_idx(self._file(f"{part}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(self._file(f"{part}-labels-idx1-ubyte"), dimensions=1)
        if self.held:
            # One that is no class would have a loss fail whenever it is drawn.
            images, labels = images[labels < _CLASSES], labels[labels < _CLASSES]
        pixels = torch.from_numpy(images).float().div_(255)
        # Before the pixels are standardised, which is done in place.
        features = scattering_features(pixels) if self._scatters else None
        standardised = pixels.sub_(self.mean).div_(self.std).unsqueeze(1)
        targets = torch.from_numpy(labels.astype(np.int64))
        if features is None:
            return Examples(standardised, targets)
        return Examples(features, targets, records=standardised)

    def _file(self, name: str) -> Path:
        return data_file(self._data_dir, self.folder, name, source=self.source, held=self.held)


class Mnist(_IdxImages):
    """MNIST (LeCun, Cortes and Burges). Inputs (n, 1, 28, 28), (pixels/255 - 0.1307) / 0.3081.

    Files `mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]` in the data folder. Models: cnn
    (default), mlp, linear, and scatter-linear, softmax regression on normalised scattering
    features (n, 81, 7, 7) of pixels/255. Raises DataError for a missing or damaged file.
    """

    folder = "mnist"
    source = "MNIST (LeCun, Cortes and Burges, the four IDX files)"
    mean, std = 0.1307, 0.3081


class HeldMnist(Mnist):
    """`Mnist` of a real silo: an image whose label is no class is left out."""

    held = True


class FashionMnist(_IdxImages):
    """Fashion-MNIST (Zalando Research). Inputs (n, 1, 28, 28), (pixels/255 - 0.2860) / 0.3530.

    Files and models as for MNIST, in `fashion-mnist/`.
    """

    folder = "fashion-mnist"
    source = "Fashion-MNIST (Zalando Research, the four IDX files)"
    mean, std = 0.2860, 0.3530


class HeldFashionMnist(FashionMnist):
    """`FashionMnist` of a real silo: an image whose label is no class is left out."""

    held = True


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
    # A copy, since torch warns of memory that cannot be written to.
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy()
