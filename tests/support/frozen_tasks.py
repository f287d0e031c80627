"""Tasks whose models train in part: task = "frozen_tasks:Head"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from privet import Examples
from toy_tasks import Tiny

WIDTH, CLASSES = 12, 3


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Head(Tiny):
    """A linear head behind a frozen part with a BatchNorm, which was trained elsewhere.

    `scale` stands for what makes the base of one place another than that of the others.
    """

    def __init__(
        self, *, model: str | None, data_dir: Path | None, scale: float = 1.0, **_: Any
    ) -> None:
        super().__init__(model=model, data_dir=data_dir)
        self.scale = scale

    def model(self) -> nn.Module:
        base = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))
        _read_in(base, self.scale)
        return nn.Sequential(base.requires_grad_(False), nn.Linear(8, CLASSES))

    def train_data(self) -> Examples:
        inputs = drawn(3, 120, WIDTH)
        return Examples(inputs, inputs[:, :CLASSES].argmax(1))

    def test_data(self) -> Examples:  # type: ignore[override]
        inputs = drawn(4, 60, WIDTH)
        return Examples(inputs, inputs[:, :CLASSES].argmax(1))


class Constant(Head):
    """A table of int8 and its scale in buffers, which nothing but the task's word says are fixed.

    A mean is moved by each batch where the task says `moving`.
    """

    constant_buffers = ("table", "scale*")

    def __init__(self, *, moving: bool = False, **rest: Any) -> None:
        super().__init__(**rest)
        self.moving = moving

    def model(self) -> nn.Module:
        return _Table(moving=self.moving)


class Undeclared(Constant):
    constant_buffers = ("tabel",)


class Half(Head):
    """A base of another type than what trains."""

    def model(self) -> nn.Module:
        return _Half()


class Writing(Head):
    """A forward pass writes to a frozen parameter."""

    def model(self) -> nn.Module:
        return _Writing()


class Flipping(Head):
    """A frozen parameter trains from the second pass on."""

    def model(self) -> nn.Module:
        return _Flipping()


class Frozen(Head):
    """Nothing trains."""

    def model(self) -> nn.Module:
        return super().model().requires_grad_(False)


class Drawn(Head):
    """A base that is drawn: random features."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8).requires_grad_(False), nn.Linear(8, CLASSES))


class Adapters(Head):
    """642 of 320,642 numbers train: an adapter inside of what is frozen."""

    def model(self) -> nn.Module:
        first = nn.Sequential(nn.Linear(WIDTH, 2272, bias=False), nn.Linear(2272, 128, bias=False))
        last = nn.Linear(128, 15, bias=False)
        for part in (first, last):
            _read_in(part, 0.01)
            part.requires_grad_(False)
        return nn.Sequential(first, _Adapter(128, 2), last)


class ResNet18(Head):
    """Of 11.2 million numbers the 5,130 of the last layer train."""

    def __init__(self, *, images: int = 24, **rest: Any) -> None:
        super().__init__(**rest)
        self.images = images

    def model(self) -> nn.Module:
        model = resnet18(10)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        model.requires_grad_(False)
        model[-1].requires_grad_(True)
        return model

    def train_data(self) -> Examples:
        return Examples(drawn(5, self.images, 3, 32, 32), torch.arange(self.images) % 10)

    def test_data(self) -> None:  # type: ignore[override]
        return None


class _Adapter(nn.Module):
    """A bottleneck beside the identity (Houlsby et al. 2019)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.up(torch.tanh(self.down(inputs)))


class _Table(nn.Module):
    def __init__(self, *, moving: bool) -> None:
        super().__init__()
        table = (drawn(6, WIDTH, 8) * 50).to(torch.int8)
        self.register_buffer("table", table)
        self.register_buffer("scale", torch.tensor(0.02))
        self.head, self.moving = nn.Linear(8, CLASSES), moving

    def forward(self, inputs: Tensor) -> Tensor:
        if self.moving:
            self.scale.mul_(0.99)
        return self.head(torch.tanh(inputs @ (self.table.float() * self.scale)))


class _Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(drawn(7, WIDTH, 8).half(), requires_grad=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(inputs @ self.weight.float()))


class _Writing(_Half):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        self.weight.data.mul_(0.5)
        return outputs


class _Flipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)
        _read_in(self.first, 1.0)
        self.first.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.head(torch.tanh(self.first(inputs)))
        self.first.requires_grad_(True)
        return outputs


def _read_in(module: nn.Module, scale: float) -> None:
    """Make the numbers of the module those of a file, as it were, and not of chance."""
    with torch.no_grad():
        for number, tensor in enumerate([*module.parameters(), *module.buffers()]):
            if tensor.is_floating_point():
                tensor.copy_(drawn(number + 10, *tensor.shape).mul(0.2 * scale).abs() + 0.05)


class _Block(nn.Module):
    """Two convolutions beside the identity (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.through = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.beside = nn.Sequential()
        if stride > 1:
            resized = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.beside = nn.Sequential(resized, nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.through(inputs) + self.beside(inputs))


def resnet18(classes: int) -> nn.Sequential:
    """ResNet-18 with torchvision's number of weights: 11,176,512 before the last layer."""
    first = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512)):
        layers += [
            _Block(inputs, outputs, 1 if inputs == outputs else 2),
            _Block(outputs, outputs, 1),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Detached(Head):
    """Its loss gives nothing any gradient."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs.detach() + 0 * outputs, targets)


class PartlyDetached(Head):
    """A layer that takes part in the pass, and whose gradient is zero whatever the inputs are."""

    def model(self) -> nn.Module:
        return _Beside()


class _Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.beside = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs) + 0.0 * self.beside(inputs)
