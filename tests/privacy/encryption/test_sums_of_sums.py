"""A sum of ciphertext sums is the sum: what regional servers would rest on (docs/scale.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privet.privacy.encryption.header import assembled, read_header
from privet.privacy.encryption.residues import pack, pack_secret, read_frames


def together(one: bytes, other: bytes, *, length: int) -> bytes:
    """Two sums of 50 values, added: residues modulo 2^56, secrets modulo 2^11, nonces of both."""
    (first, body), (second, more) = read_header(one), read_header(other)
    left = read_frames(body, length=length, clients=len(first.clients))
    right = read_frames(more, length=length, clients=len(second.clients))
    (total,) = (a + b for a, b in zip(left.chunks(), right.chunks(), strict=True))
    secret = pack_secret(left.secret + right.secret)
    clients = tuple(sorted(first.clients + second.clients))
    parts = [pack(total), *left.nonces, *right.nonces, secret]
    return assembled(replace(first, clients=clients), parts)


@pytest.mark.parametrize("profile", ["default", "compact", "precise"])
def test_a_sum_of_sums_opens_to_the_sum(rounds, profile: str) -> None:
    round_ = rounds(profile, size=50)
    draw = np.random.default_rng(0)
    uploads = {
        client: round_.encrypt(draw.uniform(-0.5, 0.5, 50), client=client, seed=place)
        for place, client in enumerate("abcde")
    }
    north = round_.add({client: uploads[client] for client in "ad"})
    south = round_.add({client: uploads[client] for client in "bce"})
    length = round_.cipher._codec.length(50)
    both = round_.open(together(north, south, length=length))
    whole = round_.open(round_.add(uploads))
    assert both.clients == whole.clients == tuple("abcde")
    assert np.array_equal(both.mean, whole.mean)
