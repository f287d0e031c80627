"""Every layer and loss of torch.nn that takes a batch, with its options, and what became of each.

`python tests/support/torch_layers.py` prints the page docs/layers.md, which a test holds against
this list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from privet.errors import ModelError
from privet.privacy.mechanisms import ExampleLoss, ExampleType, check_training

FLOAT, INDEX = torch.float32, torch.int64
SEQUENCE, PICTURE, VOLUME = (4, 12), (4, 8, 8), (4, 6, 6, 6)

Make = Callable[[], nn.Module]


class Pair(nn.Module):
    """A layer of two inputs, given the halves of one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(*inputs.chunk(2, dim=1))  # type: ignore[no-any-return]


class Part(nn.Module):
    """A layer that returns more than one tensor; the first goes on."""

    def __init__(self, layer: nn.Module, *, itself: bool = False) -> None:
        super().__init__()
        self.layer, self.times = layer, 3 if itself else 1

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.layer(*[inputs] * self.times)
        return out[0] if isinstance(out, tuple) else out


class Restored(nn.Module):
    """A pooling and the layer that undoes it."""

    def __init__(self, pool: nn.Module, restore: nn.Module) -> None:
        super().__init__()
        self.pool, self.restore = pool, restore

    def forward(self, inputs: Tensor) -> Tensor:
        return self.restore(*self.pool(inputs))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Layer:
    """A layer as it is written in a program, and the shape of an example that it takes."""

    written: str
    inputs: tuple[int, ...]
    type: torch.dtype = FLOAT
    around: Callable[[nn.Module], nn.Module] | None = None
    first: bool = True
    """Whether parameters come before it, so that its own gradient is looked at."""

    @property
    def name(self) -> str:
        return self.written.partition("(")[0]

    def make(self) -> nn.Module:
        """A classifier with this layer in it, (n, *inputs) to (n, 3)."""
        torch.manual_seed(3)
        layer = eval(f"nn.{self.written}", {"nn": nn})
        layer = self.around(layer) if self.around else layer
        front = self.first and self.type == FLOAT
        before = [nn.Linear(self.inputs[-1], self.inputs[-1])] if front else []
        body = nn.Sequential(*before, layer, nn.Flatten())
        with torch.no_grad():
            width = body(torch.zeros((2, *self.inputs), dtype=self.type)).shape[1]
        return nn.Sequential(*body, nn.Linear(width, 3))


def verdict(layer: Layer) -> str:
    """ "trains", or why not, in one line."""
    try:
        model = layer.make()
    except Exception as error:  # no batch of examples comes out of it
        return f"no batch: {str(error).splitlines()[0]}"
    like = ExampleType(layer.inputs, layer.type)
    try:
        check_training(model, ExampleLoss(nn.functional.cross_entropy), like)
    except ModelError as error:
        return str(error)
    return "trains"


def _all(inputs: tuple[int, ...], *written: str) -> list[Layer]:
    return [Layer(each, inputs) for each in written]


def _recurrent() -> list[Layer]:
    return (
        [
            Layer(f"{kind}(12, 5{options})", SEQUENCE, around=Part)
            for kind in ("LSTM", "GRU", "RNN")
            for options in (
                ", batch_first=True",
                ", batch_first=True, bias=False",
                ", batch_first=True, bidirectional=True, num_layers=2",
                ", batch_first=True, dropout=0.3, num_layers=2",
            )
        ]
        + [Layer("LSTM(12, 5, batch_first=True, proj_size=3)", SEQUENCE, around=Part)]
        + [
            Layer(f"{kind}(12, 5)", (12,), around=Part)
            for kind in ("LSTMCell", "GRUCell", "RNNCell")
        ]
    )


def _convolutions() -> list[Layer]:
    found = []
    for n, inputs in ((1, SEQUENCE), (2, PICTURE), (3, VOLUME)):
        for options in (
            "",
            ", bias=False",
            ", stride=2",
            ", padding=1",
            ', padding="same"',
            ', padding="valid"',
            ", dilation=2",
            ", groups=2",
            ", groups=4",
            *(f', padding=1, padding_mode="{m}"' for m in ("reflect", "replicate", "circular")),
        ):
            found.append(Layer(f"Conv{n}d(4, 8, 3{options})", inputs))
        for options in ("", ", bias=False", ", stride=2, padding=1, output_padding=1",
                        ", dilation=2", ", groups=2"):  # fmt: skip
            found.append(Layer(f"ConvTranspose{n}d(4, 8, 3{options})", inputs))
    return found


def _by_dimension() -> list[Layer]:
    found = []
    for n, inputs in ((1, SEQUENCE), (2, PICTURE), (3, VOLUME)):
        found += _all(
            inputs,
            f"MaxPool{n}d(2)",
            f"MaxPool{n}d(3, stride=1, padding=1, dilation=1, ceil_mode=True)",
            f"AvgPool{n}d(2)",
            f"AvgPool{n}d(3, stride=1, padding=1, ceil_mode=True, count_include_pad=False)",
            f"LPPool{n}d(2, 3)",
            f"AdaptiveAvgPool{n}d(2)",
            f"AdaptiveMaxPool{n}d(2)",
            *(f"{kind}Pad{n}d(1)" for kind in ("Circular", "Reflection", "Replication", "Zero")),
            f"ConstantPad{n}d(1, 0.5)",
            f"Dropout{n}d(0.4)",
            f"InstanceNorm{n}d(4)",
            f"InstanceNorm{n}d(4, affine=True)",
            f"InstanceNorm{n}d(4, track_running_stats=True)",
            f"BatchNorm{n}d(4)",
            f"BatchNorm{n}d(4, affine=False)",
            f"BatchNorm{n}d(4, track_running_stats=False)",
            f"BatchNorm{n}d(4).eval()",
            f"BatchNorm{n}d(4).requires_grad_(False)",
        )
        pool = nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d

        def restored(layer: nn.Module, make: Callable[..., nn.Module] = pool[n - 1]) -> nn.Module:
            return Restored(make(2, return_indices=True), layer)

        found.append(Layer(f"MaxUnpool{n}d(2)", inputs, around=restored))
        found.append(Layer(f"MaxPool{n}d(2, return_indices=True)", inputs, around=Part))
    return found


def _activations() -> list[Layer]:
    plain = (
        "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU "
        "ReLU6 RReLU SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"
    )
    in_place = "CELU ELU Hardsigmoid Hardswish Hardtanh LeakyReLU Mish ReLU ReLU6 RReLU SELU SiLU"
    return _all(
        SEQUENCE,
        *(f"{name}()" for name in plain.split()),
        *(f"{name}(inplace=True)" for name in in_place.split()),
        'GELU(approximate="tanh")',
        "GLU()",
        "GLU(dim=1)",
        "Threshold(0.1, 0.2)",
        "PReLU()",
        "PReLU(4)",
        *(f"{kind}(dim={dim})" for kind in ("Softmax", "LogSoftmax", "Softmin") for dim in (-1, 0)),
        "Softmax()",
        *(f"{kind}Dropout(0.3)" for kind in ("Alpha", "FeatureAlpha")),
        "Dropout(0.5)",
        "Dropout(0.5, inplace=True)",
        "Identity()",
    )


def _embeddings() -> list[Layer]:
    words = (6,)
    return [
        Layer(written, words, INDEX)
        for written in (
            "Embedding(9, 4)",
            "Embedding(9, 4, padding_idx=0)",
            "Embedding(9, 4, max_norm=1.0)",
            "Embedding(9, 4, scale_grad_by_freq=True)",
            "Embedding(9, 4, sparse=True)",
            *(f'EmbeddingBag(9, 4, mode="{mode}")' for mode in ("sum", "mean", "max")),
            "EmbeddingBag(9, 4, padding_idx=0)",
            "EmbeddingBag(9, 4, max_norm=1.0)",
            "EmbeddingBag(9, 4, scale_grad_by_freq=True)",
            'EmbeddingBag(9, 4, mode="sum", sparse=True)',
            'EmbeddingBag(9, 4, mode="sum", include_last_offset=True)',
        )
    ]


def _attention() -> list[Layer]:
    itself = "batch_first=True, dim_feedforward=16"

    def thrice(layer: nn.Module) -> nn.Module:
        return Part(layer, itself=True)

    def twice(layer: nn.Module) -> nn.Module:
        return Twice(layer)

    return [
        Layer("MultiheadAttention(12, 3, batch_first=True)", SEQUENCE, around=thrice),
        Layer("MultiheadAttention(12, 3)", SEQUENCE, around=thrice),
        Layer(f"TransformerEncoderLayer(12, 3, {itself})", SEQUENCE),
        Layer(f"TransformerEncoder(nn.TransformerEncoderLayer(12, 3, {itself}), 2)", SEQUENCE),
        Layer(f"TransformerDecoderLayer(12, 3, {itself})", SEQUENCE, around=twice),
        Layer(
            f"TransformerDecoder(nn.TransformerDecoderLayer(12, 3, {itself}), 2)",
            SEQUENCE,
            around=twice,
        ),
        Layer(f"Transformer(12, 3, 1, 1, {itself})", SEQUENCE, around=twice),
    ]


class Twice(nn.Module):
    """A layer of source and target, given the same for both."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs, inputs)  # type: ignore[no-any-return]


def _others() -> list[Layer]:
    return [
        *_all(
            SEQUENCE,
            "Linear(12, 5)",
            "Linear(12, 5, bias=False)",
            "LayerNorm(12)",
            "LayerNorm((4, 12))",
            "LayerNorm(12, bias=False)",
            "LayerNorm(12, elementwise_affine=False)",
            "RMSNorm(12)",
            "RMSNorm((4, 12))",
            "RMSNorm(12, elementwise_affine=False)",
            "GroupNorm(2, 4)",
            "GroupNorm(2, 4, affine=False)",
            "SyncBatchNorm(4)",
            "LocalResponseNorm(3)",
            "Flatten()",
            "Flatten(start_dim=0)",
            "Unflatten(1, (2, 2))",
            "Upsample(scale_factor=2)",
            'Upsample(scale_factor=2, mode="linear")',
        ),
        *_all(
            PICTURE,
            "CrossMapLRN2d(3)",
            "Softmax2d()",
            "ChannelShuffle(2)",
            "PixelShuffle(2)",
            "PixelUnshuffle(2)",
            "Unfold(3)",
            "FractionalMaxPool2d(2, output_size=4)",
            'Upsample(scale_factor=2, mode="bilinear")',
            'Upsample(scale_factor=2, mode="bicubic", align_corners=True)',
            "UpsamplingBilinear2d(scale_factor=2)",
            "UpsamplingNearest2d(scale_factor=2)",
        ),
        Layer("Fold((4, 4), 2)", (4, 9)),
        Layer("FractionalMaxPool3d(2, output_size=3)", VOLUME),
        Layer('Upsample(scale_factor=2, mode="trilinear")', VOLUME),
        Layer("Bilinear(6, 6, 5)", (12,), around=Pair),
        Layer("Bilinear(6, 6, 5, bias=False)", (12,), around=Pair),
        Layer("CosineSimilarity()", SEQUENCE, around=Pair),
        Layer("CosineSimilarity(dim=0)", SEQUENCE, around=Pair),
        Layer("PairwiseDistance(keepdim=True)", SEQUENCE, around=Pair),
        *_all(SEQUENCE, "LazyLinear(5)", "LazyConv1d(8, 3)"),
    ]


LAYERS = (
    *_others(),
    *_embeddings(),
    *_recurrent(),
    *_attention(),
    *_convolutions(),
    *_by_dimension(),
    *_activations(),
)


@dataclass(frozen=True)
class Loss:
    """A loss as it is written in a program; `classes` says what its targets are."""

    written: str
    classes: bool = True
    outputs: tuple[int, ...] = (3,)
    targets: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.written.partition("(")[0]


def _losses() -> list[Loss]:
    def every(name: str, *options: str, **more: Any) -> list[Loss]:
        ways = ("", *(f'reduction="{way}"' for way in ("sum", "none")), *options)
        return [Loss(f"{name}({way})", **more) for way in ways]

    numbers = {"classes": False, "outputs": (), "targets": ()}
    return [
        *every(
            "CrossEntropyLoss",
            "label_smoothing=0.1",
            "ignore_index=1",
            "weight=torch.tensor([1.0, 1.0, 5.0])",
            "weight=torch.ones(3)",
        ),
        *every("NLLLoss", "weight=torch.tensor([1.0, 1.0, 5.0])"),
        *every("MultiMarginLoss", "weight=torch.tensor([1.0, 1.0, 5.0])"),
        *every("BCEWithLogitsLoss", "pos_weight=torch.tensor(7.0)", **numbers),
        *every("BCELoss", **numbers),
        *every("MSELoss", **numbers),
        *every("L1Loss", **numbers),
        *every("SmoothL1Loss", **numbers),
        *every("HuberLoss", **numbers),
        *every("PoissonNLLLoss", **numbers),
        *every("SoftMarginLoss", **numbers),
        *every("HingeEmbeddingLoss", **numbers),
        *every("KLDivLoss", 'reduction="batchmean"', classes=False, targets=(3,)),
        *every("MultiLabelSoftMarginLoss", classes=False, targets=(3,)),
        *every("MultiLabelMarginLoss", targets=(3,)),
    ]


LOSSES = tuple(_losses())
NOT_LOOKED_AT = {
    "containers and bases": "Module Container Sequential ModuleList ModuleDict ParameterList "
    "ParameterDict RNNBase RNNCellBase DataParallel",
    "layers that become another one with their first input": "LazyBatchNorm1d LazyBatchNorm2d "
    "LazyBatchNorm3d LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d "
    "LazyConvTranspose3d LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d",
    "losses of more than outputs and targets, to be called from a loss of your own": "CTCLoss "
    "CosineEmbeddingLoss GaussianNLLLoss MarginRankingLoss TripletMarginLoss "
    "TripletMarginWithDistanceLoss AdaptiveLogSoftmaxWithLoss LinearCrossEntropyLoss",
    "an old name": "NLLLoss2d",
}


def loss_verdict(loss: Loss) -> str:
    """ "trains", or why not, in one line."""
    function = eval(f"nn.{loss.written}", {"nn": nn, "torch": torch})
    kind = torch.int64 if loss.classes else torch.float32
    like = ExampleType((5,), targets=loss.targets, target_type=kind)
    try:
        ExampleLoss(function).check(torch.zeros((4, *loss.outputs)), like)
    except ModelError as error:
        return str(error)
    return "trains"


def page(layers: Mapping[str, str]) -> str:
    """docs/layers.md, of the verdict on every layer."""
    losses = {each.written: loss_verdict(each) for each in LOSSES}
    left_out = (
        f"- {why}: {', '.join(f'`{name}`' for name in names.split())}"
        for why, names in NOT_LOOKED_AT.items()
    )
    return _PAGE.format(layers=_table(layers), losses=_table(losses), others="\n".join(left_out))


_PAGE = """\
# Layers and losses under differential privacy

What becomes of every layer and loss of `torch.nn` that takes a batch, with its options, in a
model that trains with `[privacy]`. It trains with the gradients that each example has alone, or it
is refused in one line before a record is read. The list is made by running them
(`tests/support/torch_layers.py`). A test holds this page against it, and every layer that trains
against a plain loop over examples (`tests/privacy/mechanisms/test_layers.py`). What makes a layer
unsound: [soundness](soundness.md).

## Layers

{layers}

## Losses

{losses}

## Not in the list

{others}
"""


def on_page(text: str) -> dict[str, str]:
    """What a page says of each layer and loss, as `in_short` puts it."""
    rows = re.findall(r"^\| (\w+) \| (`.*`) \| (.*) \|$", text, re.MULTILINE)
    return {
        name + options: found
        for name, every, found in rows
        for options in re.findall("`([^`]*)`", every)
    }


def _table(verdicts: Mapping[str, str]) -> str:
    """A row for each layer and verdict, with the options that it holds for."""
    rows: dict[tuple[str, str], list[str]] = {}
    for written, found in verdicts.items():
        name, bracket, options = written.partition("(")
        rows.setdefault((name, in_short(found)), []).append(f"`{bracket}{options}`")
    lines = [
        f"| {name} | {', '.join(options)} | {found} |" for (name, found), options in rows.items()
    ]
    return "\n".join(["| | with | verdict |", "|---|---|---|", *lines])


def in_short(found: str) -> str:
    """Without the layer's place in the model."""
    return re.sub(r"^layer \S+ \(\w+\) ", "", found)


if __name__ == "__main__":
    print(page({each.written: verdict(each) for each in LAYERS}), end="")
