"""Flower's records, and the vectors and bytes inside them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privet.vectors import Vector

_BLOB = "bytes"
_Kind = TypeVar("_Kind", ArrayRecord, ConfigRecord, MetricRecord)


def payload_bytes(records: RecordDict) -> int:
    """Bytes of the arrays and of the sealed vectors in `records`, as Flower stores them."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(value) for value in record.values() if isinstance(value, bytes))
    return total


def record_of(records: RecordDict, name: str, kind: type[_Kind]) -> _Kind:
    # Flower's own `records.array_records` copies all of them at every look.
    record = records[name]
    if not isinstance(record, kind):
        raise ValueError(f"'{name}' is a {type(record).__name__}, expected {kind.__name__}")
    return record


def arrays(name: str, vector: Vector, extras: Mapping[str, Vector]) -> ArrayRecord:
    return ArrayRecord({key: _array(value) for key, value in {name: vector, **extras}.items()})


def vectors(name: str, record: ArrayRecord) -> tuple[Vector, dict[str, Vector]]:
    vectors = {key: _vector(array) for key, array in record.items()}
    return vectors.pop(name), vectors


def blob(content: bytes) -> Array:
    """Bytes as an array: Flower sends it in pieces, and the bytes of a ConfigRecord whole."""
    return Array(dtype="uint8", shape=(len(content),), stype=_BLOB, data=content)


def blobs(record: ArrayRecord) -> dict[str, bytes]:
    for name, array in record.items():
        if array.stype != _BLOB:
            raise ValueError(f"'{name}' is a {array.stype!r}, expected {_BLOB!r}")
    return {name: bytes(array.data) for name, array in record.items()}


def named(prefix: str, record: ConfigRecord) -> dict[str, bytes]:
    return {
        name.removeprefix(prefix): cast(bytes, value)
        for name, value in record.items()
        if name.startswith(prefix)
    }


def optional_bytes(value: object) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise ValueError(f"a sealed model is bytes, not {type(value).__name__}")
    return value


def _array(vector: Vector) -> Array:
    """As `Array(vector)` makes it, with one copy of the values instead of three."""
    shape = vector.shape
    data = b"".join((_float32_header(shape), np.ascontiguousarray(vector, dtype="<f4").data))
    return Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)


def _vector(array: Array) -> Vector:
    header = _float32_header(tuple(array.shape))
    if bytes(array.data[: len(header)]) == header:
        # numpy spends more time on parsing its own header than on the values behind it.
        values = np.frombuffer(array.data, dtype=np.float32, offset=len(header))
    else:
        values = array.numpy()
    if values.shape != tuple(array.shape) or values.ndim != 1 or values.dtype != np.float32:
        raise ValueError(f"expected a float32 vector, got {values.dtype} of shape {values.shape}")
    return values


@lru_cache(maxsize=64)
def _float32_header(shape: tuple[int, ...]) -> bytes:
    """What `numpy.save` writes before float32 values of this shape."""
    buffer = BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
