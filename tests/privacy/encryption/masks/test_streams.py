"""Masks as long as an update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from privet.privacy.encryption.backend import DEGREE
from privet.privacy.encryption.keys import AgreementKey, Secret
from privet.privacy.encryption.masks.shares import (
    add_stream,
    no_mask,
    pair_stream,
    personal_stream,
)
from privet.privacy.encryption.masks.statements import gather_adverts


def stream(seed: Secret) -> np.ndarray:
    total = no_mask()
    add_stream(total, seed, sign=1)
    return total


def test_the_stream_is_chacha20():
    # First block for a zero key, nonce and counter: RFC 8439, appendix A.1, test vector 1.
    block = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert stream(Secret(bytes(32))).astype("<u2").tobytes().startswith(block)


def test_what_one_adds_another_subtracts():
    values = np.arange(DEGREE, dtype=np.uint16)
    total = values.copy()
    for number in range(5):
        add_stream(total, Secret(bytes([number]) * 32), sign=1)
    assert not np.array_equal(total, values)
    for number in range(5):
        add_stream(total, Secret(bytes([number]) * 32), sign=-1)
    assert np.array_equal(total, values)


def test_numbers_are_uniform():
    # Chi-square over 16 classes of the highest bits and of the lowest ones, fixed seed, 15 degrees
    # of freedom: 37.7 is exceeded once in a thousand times.
    drawn = np.concatenate([stream(Secret(bytes([number]) * 32)) for number in range(16)])
    for classes in (drawn >> 12, drawn & 15):
        counts = np.bincount(classes, minlength=16)
        expected = len(drawn) / 16
        assert ((counts - expected) ** 2 / expected).sum() < 37.7


def test_seeds_belong_to_the_silos_and_to_all_adverts(group, build):
    # Even keys that were used twice by mistake would give other masks in another round.
    one = gather_adverts(group.adverts, plan=group.plan)
    key = AgreementKey.generate()
    adverts = (*one.adverts[:3], replace(one.adverts[3], commitment=bytes(32)))
    other = replace(one, adverts=adverts, messages=(*one.messages[:3], bytes(100)))
    seeds = [
        pair_stream(adverts, name, key, "silo-b").reveal()
        for adverts in (one, other)
        for name in ("silo-a", "silo-c")
    ]
    seeds += [
        personal_stream(adverts, name, key.secret()).reveal()
        for adverts in (one, other)
        for name in ("silo-a", "silo-c")
    ]
    assert len(set(seeds)) == 8
