"""What a data set is: its size, its layout and a digest of its records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privet.errors import DataError
from privet.privacy.ledger.keys import SiloKey

PARTS = ("rows", "schema", "content")


@dataclass(frozen=True)
class Fingerprint:
    """Row count, layout of a record and digest of all records.

    It never leaves the silo: a digest of few or guessable records confirms a guess. The ledger
    keeps only what `sealed` makes of it, and `repr` does not show the digest.
    """

    rows: int
    schema: str
    content: str = field(repr=False)

    def named(self, name: str) -> Fingerprint:
        """The same records as they are recognised under `name` alone."""
        content = hashlib.sha256(f"{name}\n{self.content}".encode()).hexdigest()
        return Fingerprint(self.rows, self.schema, content)

    def sealed(self, key: SiloKey) -> dict[str, str]:
        """Keyed digests of the three parts: equal parts give equal digests, under this key only."""
        return {part: key.seal(f"{part}:{getattr(self, part)}") for part in PARTS}


def fingerprint_of(inputs: NDArray[np.generic], *columns: NDArray[np.generic]) -> Fingerprint:
    """The fingerprint of records held in arrays whose first axis counts them.

    `inputs` is (n, ...), each of `columns` (targets and the like) is (n, ...). The order of the
    records does not matter, every bit of them does. DataError for arrays of unequal length, of
    Python objects, or without a record.
    """
    arrays = [np.asarray(array) for array in (inputs, *columns)]
    if any(array.ndim == 0 or array.dtype.hasobject for array in arrays):
        raise DataError("a fingerprint needs arrays of numbers or fixed-length text, one row each")
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise DataError(f"a fingerprint needs equally many rows: {[len(a) for a in arrays]}")
    # Little-endian everywhere, so that two machines agree about the same records.
    arrays = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    schema = json.dumps([[array.dtype.str, list(array.shape[1:])] for array in arrays])
    digests = sorted(
        hashlib.sha256(b"".join(array[row].tobytes() for array in arrays)).digest()
        for row in range(len(arrays[0]))
    )
    content = hashlib.sha256(schema.encode() + b"".join(digests)).hexdigest()
    return Fingerprint(len(digests), schema, content)
