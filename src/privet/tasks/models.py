"""Small models that train alike with and without per-example clipping.

No BatchNorm, which mixes the examples of a batch. Without normalisation tanh survives noise
better than ReLU (Papernot et al. 2021, "Tempered Sigmoid Activations for Deep Learning with
Differential Privacy"); after GroupNorm ReLU does. Initial weights come from torch's global
generator.

Loss and accuracy of a classifier, shared by the built-in tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from privet.errors import ExperimentError, nearest

Build = Callable[[], nn.Module]


def named_model(task: str, name: str, models: Mapping[str, Build]) -> Build:
    """The builder called `name` among the `models` of `task`, or ExperimentError."""
    if name not in models:
        raise ExperimentError(
            f"model = {name!r}: {task} has {', '.join(models)}.{nearest(name, models)}"
        )
    return models[name]


def linear(inputs: int, classes: int) -> nn.Module:
    """Softmax regression, starting at zero: its loss is convex, so no start is better."""
    layer = nn.Linear(inputs, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def mlp(inputs: int, classes: int, *, hidden: int) -> nn.Module:
    """One hidden layer of `hidden` tanh units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    )


def cnn_28(classes: int) -> nn.Module:
    """Two convolutions for grey 28x28 images, inputs (n, 1, 28, 28), 14,490 weights for 10 classes.

    The convolutions of Papernot et al. (2021) without their hidden layer of 32, with GroupNorm and
    ReLU: fewer weights get noise.
    """
    first = _normalised(nn.Conv2d(1, 16, 8, stride=2, padding=3))
    second = _normalised(nn.Conv2d(16, 32, 4, stride=2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 4 * 4, classes))


def cnn_8(classes: int) -> nn.Module:
    """Two convolutions for grey 8x8 images, inputs (n, 1, 8, 8)."""
    first = _normalised(nn.Conv2d(1, 16, 3, padding=1))
    second = _normalised(nn.Conv2d(16, 32, 3, padding=1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 6 * 6, classes))


def _normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution, GroupNorm in four groups, ReLU, and overlapping 2x2 maxima."""
    norm = nn.GroupNorm(4, convolution.out_channels)
    return [convolution, norm, nn.ReLU(), nn.MaxPool2d(2, stride=1)]


class Classification:
    """Cross entropy and accuracy for outputs (n, classes) and int64 targets (n,)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a privacy figure for this task leaves out; nothing here."""
        return ()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over the batch, in nats."""
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """ "accuracy": the share of examples whose largest output is their class."""
        return {"accuracy": (outputs.argmax(dim=1) == targets).float().mean().item()}
