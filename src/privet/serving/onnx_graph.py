"""ONNX graphs: the module as torch exports it, and for a table what makes its inputs before it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from privet.errors import DataError, ModelError, PrivetError
from privet.serving.model import TrainedModel
from privet.tasks.columns import Frame, Numbers, Standardiser
from privet.tasks.encoding import TableEncoding
from privet.tasks.objectives import Classes, Number

if TYPE_CHECKING:
    import onnx

Columns = Mapping[str, np.ndarray]

OUTPUTS, PREDICTION, SHARES = "outputs", "prediction", "probabilities"
_SMALLEST = 64
"""Numbers from which on a tensor is worth a scale of its own."""
_ROWS = "n"


@contextmanager
def _installed() -> Iterator[None]:
    """PrivetError where the packages are not there."""
    try:
        yield
    except ImportError as error:
        raise PrivetError(
            f"--format onnx needs the extra onnx: pip install 'privet[onnx]' ({error})"
        ) from None


def columns_of(encoding: TableEncoding, frame: Frame) -> Columns:
    """What the graph of a table takes: float64 (n,), texts (n,); a gap is NaN or no text."""
    layout = encoding.layout
    numbers = {name: frame.parsed(name) for name in layout.numeric}
    words = {
        name: np.array(["" if word is None else word for word in frame.labels(name)], dtype=object)
        for name in layout.vocabularies
    }
    return {**numbers, **words}


def graph_of(model: TrainedModel, example: Tensor, *, silo: str | None) -> onnx.ModelProto:
    """The module behind what makes its inputs and before what reads its outputs.

    ModelError for preprocessing that the model's own file may not have, either.
    """
    if model.card.withheld:
        raise ModelError(
            f"an ONNX file would hold {' and '.join(model.card.withheld)}, which epsilon does not "
            "cover: --format torchscript has the module alone; data.ranges, data.categories and "
            "data.classes, declared, need nothing from records"
        )
    with _installed():
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter is made of it

    module = _exported(model, example)
    parts = _Parts(taken={*(model.encoding.layout.numeric if model.encoding else ())})
    if model.encoding is not None:
        source = _table(parts, model.encoding, silo)
    else:
        source = parts.input("inputs", onnx.TensorProto.FLOAT, [_ROWS, *example.shape[1:]])
    inner, result = _renamed(module, source)
    parts.nodes += inner.graph.node
    parts.constants += inner.graph.initializer
    parts.node("Identity", [result], OUTPUTS)
    parts.output(OUTPUTS, onnx.TensorProto.FLOAT, [_ROWS, *model.outputs(example).shape[1:]])
    objective = model.encoding.layout.objective if model.encoding else None
    if isinstance(objective, Number):
        _number(parts, objective)
    elif isinstance(objective, Classes) or (
        objective is None and hasattr(model.task, "class_names")
    ):
        width = model.outputs(example).shape[1]
        _classes(parts, getattr(model.task, "class_names", None) or tuple(map(str, range(width))))
    return parts.model(inner)


def _exported(model: TrainedModel, example: Tensor) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    rows = torch.export.Dim(_ROWS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.module, (example,), dynamo=True, dynamic_shapes=({0: rows},), verbose=False
            )
    except Exception as error:
        raise ModelError(
            f"torch cannot export the model to ONNX: {str(error).splitlines()[0]}"
        ) from error
    assert program is not None
    return program.model_proto


def _renamed(module: onnx.ModelProto, source: str) -> tuple[onnx.ModelProto, str]:
    """The module with names that no column has, and `source` as its input."""
    from onnx import compose

    inner = compose.add_prefix(module, "privet/module/")
    name = inner.graph.input[0].name
    for node in inner.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = source
    return inner, inner.graph.output[0].name


class _Parts:
    """A graph that grows by nodes; names of its own begin as no column may."""

    def __init__(self, *, taken: set[str]) -> None:
        reserved = [name for name in taken if name.startswith("privet/")]
        if reserved:
            raise DataError(f"a column may not be called {reserved[0]!r} in an ONNX graph")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        from onnx import helper

        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> None:
        from onnx import helper

        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, values: np.ndarray) -> str:
        from onnx import TensorProto, helper, numpy_helper

        name = f"privet/constant/{len(self.constants)}"
        if values.dtype == object:
            texts = [str(value).encode() for value in values]
            made = helper.make_tensor(name, TensorProto.STRING, values.shape, cast(Any, texts))
        else:
            made = numpy_helper.from_array(values, name)
        self.constants.append(made)
        return name

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **facts: Any
    ) -> str:
        from onnx import helper

        name = output or f"privet/value/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **facts))
        return name

    def model(self, inner: onnx.ModelProto) -> onnx.ModelProto:
        from onnx import helper

        import privet

        graph = helper.make_graph(self.nodes, "privet", self._inputs, self._outputs, self.constants)
        sets = [helper.make_opsetid("ai.onnx.ml", 3), *inner.opset_import]
        made = helper.make_model(
            graph, opset_imports=sets, producer_name="privet", producer_version=privet.__version__
        )
        made.ir_version = inner.ir_version
        return made


def _table(parts: _Parts, encoding: TableEncoding, silo: str | None) -> str:
    """The model's inputs, float32 (n, width), of columns by their names."""
    from onnx import TensorProto

    layout = encoding.layout
    blocks: list[str] = []
    if layout.numeric:
        blocks += _numbers(parts, layout.numeric, _scale(encoding, silo), layout.imputes)
    for name in layout.vocabularies:
        blocks.append(_words(parts, name, layout.words(name), layout.imputes))
    joined = parts.node("Concat", blocks, axis=1) if len(blocks) > 1 else blocks[0]
    return parts.node("Cast", [joined], to=TensorProto.FLOAT)


def _scale(encoding: TableEncoding, silo: str | None) -> Standardiser:
    scales = encoding.scales
    found = scales.get(silo) if silo in scales or len(scales) > 1 else next(iter(scales.values()))
    if found is None:
        raise DataError(
            "each silo's numbers were scaled by its own records: say whose scales the file is to "
            f"have, with --silo, one of {', '.join(str(name) for name in scales)}"
        )
    return found


def _numbers(parts: _Parts, names: Sequence[str], scale: Standardiser, imputes: bool) -> list[str]:
    """Scaled numbers, float64 (n, k), with 0 for gaps; and which are gaps."""
    from onnx import TensorProto

    last = parts.constant(np.array([1], dtype=np.int64))
    columns = [
        parts.node("Unsqueeze", [parts.input(name, TensorProto.DOUBLE, [_ROWS]), last])
        for name in names
    ]
    values = parts.node("Concat", columns, axis=1)
    missing = parts.node("IsNaN", [values])
    zero = parts.constant(np.zeros(len(names)))
    known = parts.node("Where", [missing, zero, values])
    centred = parts.node("Sub", [known, parts.constant(scale.centre)])
    scaled = parts.node("Div", [centred, parts.constant(scale.spread)])
    limit: Numbers = np.minimum(scale.limit, np.finfo(np.float64).max)
    below = parts.node("Min", [scaled, parts.constant(limit)])
    inside = parts.node("Max", [below, parts.constant(-limit)])
    filled = parts.node("Where", [missing, zero, inside])
    indicators = [parts.node("Cast", [missing], to=TensorProto.DOUBLE)] if imputes else []
    return [filled, *indicators]


def _words(parts: _Parts, name: str, words: Sequence[str], imputes: bool) -> str:
    """A column for each word, float64 (n, w); without gaps, a strange word is none of them."""
    from onnx import TensorProto

    gap = len(words) - 1 if imputes else -1
    known = list(words[:-1] if imputes else words)
    place = parts.node(
        "LabelEncoder",
        [parts.input(name, TensorProto.STRING, [_ROWS])],
        domain="ai.onnx.ml",
        keys_strings=known,
        values_int64s=list(range(len(known))),
        default_int64=gap,
    )
    last = parts.constant(np.array([1], dtype=np.int64))
    column = parts.node("Unsqueeze", [place, last])
    every = parts.constant(np.arange(len(words), dtype=np.int64))
    return parts.node("Cast", [parts.node("Equal", [column, every])], to=TensorProto.DOUBLE)


def _number(parts: _Parts, objective: Number) -> None:
    """The number that the output stands for, float64 (n,), in its own unit."""
    from onnx import TensorProto

    first = parts.node("Gather", [OUTPUTS, parts.constant(np.array(0, dtype=np.int64))], axis=1)
    value = parts.node("Cast", [first], to=TensorProto.DOUBLE)
    if objective.kind == "poisson":
        factor, shift, value = objective.high, 0.0, parts.node("Exp", [value])
    else:
        factor = (objective.high - objective.low) / 2
        shift = (objective.low + objective.high) / 2
    scaled = parts.node("Mul", [value, parts.constant(np.array(factor))])
    parts.node("Add", [scaled, parts.constant(np.array(shift))], PREDICTION)
    parts.output(PREDICTION, TensorProto.DOUBLE, [_ROWS])


def _classes(parts: _Parts, names: Sequence[str]) -> None:
    """The likeliest class as a text (n,), and the probability of each (n, classes)."""
    from onnx import TensorProto

    parts.node("Softmax", [OUTPUTS], SHARES, axis=1)
    likeliest = parts.node("ArgMax", [OUTPUTS], axis=1, keepdims=0)
    parts.node("Gather", [parts.constant(np.array(names, dtype=object)), likeliest], PREDICTION)
    parts.output(SHARES, TensorProto.FLOAT, [_ROWS, len(names)])
    parts.output(PREDICTION, TensorProto.STRING, [_ROWS])


def with_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights as int8 and a scale for each row; sums stay float32."""
    from onnx import helper, numpy_helper

    kept, made = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < _SMALLEST:
            kept.append(tensor)
            continue
        largest = np.abs(values).reshape(len(values), -1).max(axis=1)
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        whole = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        stem = f"privet/int8/{tensor.name}"
        zeros = np.zeros(len(scale), dtype=np.int8)
        kept += [
            numpy_helper.from_array(whole, stem),
            numpy_helper.from_array(scale, f"{stem}/scale"),
            numpy_helper.from_array(zeros, f"{stem}/zero"),
        ]
        inputs = [stem, f"{stem}/scale", f"{stem}/zero"]
        made.append(helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=0))
    if not made:
        raise ModelError(f"--int8: no weight has {_SMALLEST} numbers; nothing would get smaller")
    changed = type(model)()
    changed.CopyFrom(model)
    del changed.graph.initializer[:], changed.graph.node[:]
    changed.graph.initializer.extend(kept)
    changed.graph.node.extend([*made, *model.graph.node])
    return changed


def checked_bytes(model: onnx.ModelProto, facts: Mapping[str, str]) -> bytes:
    """The graph as bytes, with `facts` among its metadata; ModelError for one that is none."""
    import onnx

    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the ONNX graph is not valid: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def run(content: bytes, records: Columns | np.ndarray) -> np.ndarray:
    """The outputs of the graph, float32 (n, ...), by ONNX Runtime."""
    with _installed():
        import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = records if isinstance(records, Mapping) else {"inputs": records}
    found: np.ndarray = session.run([OUTPUTS], dict(given))[0]
    return found
