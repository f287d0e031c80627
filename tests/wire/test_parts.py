"""Parts that travel together: what is packed comes out, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.wire.transport import pack, unpack

PARTS = st.dictionaries(st.text(max_size=20), st.binary(max_size=200), max_size=6)


@given(PARTS, st.integers(0, 2**63))
def test_what_is_packed_comes_out(parts: dict[str, bytes], run: int) -> None:
    assert unpack(pack(parts, run=run)) == (parts, {"run": run})


@given(PARTS, st.data())
def test_a_change_is_an_error_or_other_parts_and_never_a_crash(
    parts: dict[str, bytes], data: st.DataObject
) -> None:
    body = bytearray(pack(parts, run=1))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut]), bytes(body) + b"x"):
        try:
            found, _ = unpack(damaged)
        except ValueError:
            continue
        assert sum(map(len, found.values())) <= len(damaged)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b'{"names": ["a"], "sizes": [-1]}\n',
        b'{"names": ["a"], "sizes": [true]}\nx',
        b'{"names": ["a", "a"], "sizes": [1, 1]}\nxx',
        b'{"names": ["a"], "sizes": [2]}\nx',
        b'{"names": "a", "sizes": [1]}\nx\n',
        b"[" * 100_000 + b"\n",
        b'{"names": [], "sizes": []}' + b" " * (1 << 20) + b"\n",
    ],
)
def test_what_nobody_packs_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="parts"):
        unpack(body)
