"""Encrypted sums that nothing but tags and the silos' memory protects: a server alone, no masks.

CKKS, and BFV with `pairwise_masks = false`. A silo that sides with the server reads every upload;
a server without one must read nothing, and have nothing opened but one sum of a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import MessageType

from privet.client import sealed
from privet.wire import EvaluateRequest, MaskAnswer, Sealed
from sums_under_attack import MaliciousServer, job, malicious_server, messages_of, refusals

SETTINGS: dict[str, dict[str, Any]] = {
    "bfv": {"encryption__pairwise_masks": False},
    "ckks": {"encryption__scheme": "ckks"},
}


@pytest.fixture(params=SETTINGS)
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MaliciousServer]:
    """Four silos that have the key of epoch 1."""
    with malicious_server(tmp_path, experiment=job(**SETTINGS[request.param])) as made:
        made.distribute(1)
        yield made


def part_of(uploads: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: uploads[name] for name in names}


@pytest.mark.parametrize("second", ["abc", "abd", "ab", "acd"])
def test_two_sums_of_one_round_are_not_opened(server: MaliciousServer, second: str) -> None:
    """Their difference is one silo's update, for whoever sees both models."""
    agreed = server.agree(1)
    uploads = server.train(agreed)
    total = server.total(agreed, uploads)
    first = server.confirm(agreed, total, "ab")
    assert not refusals(first)
    # Its answer may not have come; the same sum says nothing new.
    assert messages_of(server.confirm(agreed, total, "ab")) == messages_of(first)
    less = server.total(agreed, part_of(uploads, second))
    for _ in range(2):
        assert set(refusals(server.confirm(agreed, less, "ab"))) == {"a", "b"}
    assert server.score.wrong(threshold=2) == []


def test_a_sum_without_ones_own_update_is_not_opened(server: MaliciousServer) -> None:
    agreed = server.agree(1)
    others = server.total(agreed, part_of(server.train(agreed), "abc"))
    assert set(refusals(server.confirm(agreed, others, "d"))) == {"d"}
    assert server.score.spoilt == [("d", 1)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_round_that_was_opened_is_not_begun_again(server: MaliciousServer, epoch: int) -> None:
    """The first sum is not told of: the model of before is the one that was confirmed."""
    agreed = server.agree(1)
    server.confirm(agreed, server.total(agreed, server.train(agreed)), server.names)
    if epoch > server.epoch:
        server.distribute(epoch)
    assert set(refusals(server.advert(1, "abc"))) == {*"abc"}


@pytest.mark.parametrize("privacy", [False, True])
@pytest.mark.parametrize("epoch", [1, 2])
def test_two_sums_from_one_model_are_over_different_silos_only_with_noise(
    tmp_path: Path, epoch: int, privacy: bool
) -> None:
    """Without noise the updates may be the same in both rounds."""
    noised = {"privacy": {"noise_multiplier": 1.0}} if privacy else {}
    settings = {**SETTINGS["bfv"], **noised}
    with malicious_server(tmp_path, experiment=job(**settings)) as server:
        server.distribute(1)
        agreed = server.agree(1)
        server.confirm(agreed, server.total(agreed, server.train(agreed)), server.names)
        if epoch > server.epoch:
            server.distribute(epoch)
        agreed = server.agree(2)
        uploads = server.train(agreed)
        for members, refused in (("abc", not privacy), ("abcd", privacy)):
            total = server.total(agreed, part_of(uploads, members))
            asked = server.confirm(agreed, total, members)
            assert set(refusals(asked)) == (set(members) & set("abc" if refused else ""))


def test_what_a_silo_opens_it_is_bound_to_before(
    server: MaliciousServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it opens a sum has opened it."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    agreed = server.agree(1)
    uploads = server.train(agreed)
    total = server.total(agreed, uploads)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "_state_after", dies)
        with pytest.raises(KeyboardInterrupt):
            server.confirm(agreed, total, "a")
    less = server.total(agreed, part_of(uploads, "abc"))
    assert set(refusals(server.confirm(agreed, less, "a"))) == {"a"}
    assert not refusals(server.confirm(agreed, total, "a"))


def test_a_silo_is_told_one_model_of_a_round(server: MaliciousServer) -> None:
    """Of two sums that were opened by different silos nobody gets to have both."""
    agreed = server.agree(1)
    uploads = server.train(agreed)
    models = []
    for told, members in (("ab", "abcd"), ("cd", "acd")):
        total = server.total(agreed, part_of(uploads, members))
        answers = server.confirm(agreed, total, told, carry=True)
        model = MaskAnswer.from_records(answers[told[0]]).model
        models.append(Sealed(1, 1, messages_of(answers), model=model))
    for kind in ("evaluate", "advert"):
        for model, strangers in zip(models, ("cd", "ab"), strict=True):
            if kind == "advert":
                asked = server.advert(2, strangers, sealed=model)
            else:
                request = EvaluateRequest(1, None, model).to_records()
                asked = server.ask(MessageType.EVALUATE, dict.fromkeys(strangers, request))
            assert set(refusals(asked)) == {*strangers}
    # Its own one it goes on with.
    assert not refusals(server.advert(2, "ab", sealed=models[0]))
