"""Attacks on encrypted sums, by a server alone or with silos on its side, that worked once.

Each drives silos step by step as a server that keeps to nothing; what an honest one may see is
known to nobody here but to silos that side with it, and to the score that a test keeps.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MessageType, RecordDict

from privet.client import sealed as holder_module
from privet.client.keyring import MOST_FAILED_OPENINGS, OutOfOrder, secret_of
from privet.files import write_whole
from privet.privacy.encryption import Terms, make_cipher, read_header
from privet.privacy.encryption.keys import Session
from privet.privacy.encryption.keys.agreement import encrypt
from privet.privacy.encryption.masks import gather_adverts, sum_label, write_confirmation
from privet.wire import (
    CONFIRM,
    CONSENT,
    KEEP,
    MASKS,
    OFFER,
    REVEAL,
    SHARE,
    EvaluateRequest,
    MaskAnswer,
    ModelState,
    TrainReply,
)
from privet.wire.records import KeyRequest, Sealed, blob
from sums_under_attack import (
    RUN_ID,
    Agreed,
    MaliciousServer,
    job,
    malicious_server,
    messages_of,
    refusals,
    run,
)

FIVE = ("a", "b", "c", "d", "e")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MaliciousServer]:
    """Four silos that have the key of epoch 1, which serves the whole run."""
    with malicious_server(tmp_path, experiment=job(encryption__rotate_every=None)) as made:
        made.distribute(1)
        yield made


@pytest.fixture
def five(tmp_path: Path) -> Iterator[MaliciousServer]:
    with malicious_server(tmp_path, names=FIVE, experiment=job(federation__silos=5)) as made:
        made.distribute(1)
        yield made


def upload_of(content: RecordDict) -> bytes:
    sealed = TrainReply.from_records(content).sealed
    assert sealed is not None
    return sealed.upload


def alone(server: MaliciousServer, agreed: Agreed, name: str, content: RecordDict) -> bytes:
    """One silo's upload, handed out as a sum."""
    return server.total(agreed, {name: content})


# Masks that a field of the server's switched off, after which a silo's key opened single updates.


@pytest.mark.parametrize("field", ["bits", "mask-bits", "modulus", "masked", "pairwise-masks"])
def test_no_word_of_the_server_switches_masks_off(server: MaliciousServer, field: str) -> None:
    agreed = server.agree(1)
    uploads = server.train(agreed, **{field: 0})
    for name, content in uploads.items():
        assert server.opened("d", alone(server, agreed, name, content)) is None
    _, reveals = server.unmask(agreed, agreed.members)
    assert server.opened("d", server.total(agreed, uploads, reveals)) is not None


def test_masks_of_two_silos_with_one_on_the_servers_side_are_refused(
    server: MaliciousServer,
) -> None:
    for members in (("a",), ("a", "b")):
        adverts = server.advert(1, members)
        shares = server.step(SHARE, 1, members, messages=messages_of(adverts))
        assert set(refusals(shares)) == set(members)


# What scales or replaces one silo's update, so that the sum was another's: lr = 0 for all but one.


@pytest.mark.parametrize(
    "more",
    [
        {"lr": 0.0},
        {"learning-rate": 0.0},
        {"weight": 1e-9},
        {"weight-unit": 1e9},
        {"clamp": 1e-9},
        {"steps": 0},
    ],
)
def test_no_word_beside_the_agreement_scales_an_update(
    server: MaliciousServer, more: dict[str, Any]
) -> None:
    agreed = server.agree(1)
    uploads = server.train(agreed, ("b", "c", "d"), **more) | server.train(agreed, ("a",))
    _, reveals = server.unmask(agreed, agreed.members)
    server.confirm(agreed, server.total(agreed, uploads, reveals), agreed.members)
    assert server.score.wrong() == []
    weights = {each["silo"]: each["weight"] for each in server.score.seals}
    assert set(weights.values()) == {1.0}
    assert all(np.abs(each["update"]).max() > 1e-3 for each in server.score.seals)


def test_a_model_in_the_train_message_is_not_trained_from(server: MaliciousServer) -> None:
    agreed = server.agree(1)
    asked = server.train(agreed, ("a",))
    assert not refusals(asked)
    (seal,) = server.score.seals
    assert np.array_equal(seal["state"].weights, server.first)


def test_tensors_of_another_model_than_the_tasks_are_not_trained(server: MaliciousServer) -> None:
    """Where the tensors of the public first model end, every silo knows by its own task."""
    agreed = server.agree(1, sealed=Sealed(1, sizes=(sum(server.flat.sizes),)))
    assert set(refusals(server.train(agreed))) == set(server.names)
    assert server.score.seals == []


def test_extras_for_the_rule_are_refused_with_encryption(server: MaliciousServer) -> None:
    """A control variate is added to every gradient: as good as a model of one's own."""
    from privet.wire import MaskRequest, TrainRequest

    agreed = server.agree(1)
    content = TrainRequest(1, server.first, {"control": server.first}).to_records()
    shares = {n: each["a"] for n, each in agreed.shares.items() if "a" in each}
    content[MASKS] = MaskRequest(1, 1, encrypted_shares=shares).record()
    assert refusals(server.ask(MessageType.TRAIN, {"a": content}))


def test_different_models_for_different_silos_end_before_training(server: MaliciousServer) -> None:
    """Else the server picks whose update is large in the sum (Pasquini et al., CCS 2022)."""
    for lied_to in (("a",), ("a", "b"), ("b", "c", "d")):
        adverts = server.advert(1, weights=dict.fromkeys(lied_to, server.first + 1))
        shares = server.step(SHARE, 1, server.names, messages=messages_of(adverts))
        assert set(refusals(shares)) == set(server.names)
    assert server.score.seals == []


def test_groups_with_a_model_each_are_no_smaller_than_one_sum_may_be(
    server: MaliciousServer,
) -> None:
    adverts = server.advert(1, ("a", "b"), weights=dict.fromkeys("ab", server.first + 1))
    shares = server.step(SHARE, 1, ("a", "b"), messages=messages_of(adverts))
    assert set(refusals(shares)) == {"a", "b"}


@pytest.mark.parametrize("noise", [1.5, 0.0, float("nan"), None])
def test_another_noise_multiplier_for_one_silo_ends_before_training(
    tmp_path: Path, noise: float | None
) -> None:
    shared = job(privacy={"epsilon": 50.0, "calibrate": "shared"})
    with malicious_server(tmp_path, experiment=shared) as server:
        server.distribute(1)
        told: dict[str, Any] = {**dict.fromkeys(server.names, 1.0), "a": noise}
        adverts = server.advert(1, noise=told)
        shares = server.step(SHARE, 1, server.names, messages=messages_of(adverts))
        assert set(refusals(shares)) == set(server.names)
        # Agreed on, and told otherwise with the train message.
        agreed = server.agree(2, noise=dict.fromkeys(server.names, 1.0))
        more = {} if noise is None else {"noise-multiplier": noise}
        assert set(refusals(server.train(agreed, ("a",), **more))) == {"a"}
        assert server.score.seals == []


@pytest.mark.parametrize("round_", [2, 3])
def test_a_round_is_trained_under_the_number_that_was_agreed_on(
    server: MaliciousServer, round_: int
) -> None:
    """The learning rate follows from the round."""
    agreed = server.agree(1)
    asked = server.train(agreed, ("a",), round=round_)
    assert refusals(asked)
    assert server.score.seals == []


# Sums over subsets, of which the difference was one update.


def test_survivors_below_the_threshold_or_two_lists_are_never_unmasked(
    five: MaliciousServer,
) -> None:
    """It was asked for three lists of one round; any two of them give single updates."""
    agreed = five.agree(1)
    assert not refusals(five.train(agreed))
    for few in itertools.combinations(FIVE, 3):
        asked = five.step(CONSENT, 1, few, survivors=few)
        assert set(refusals(asked)) == set(few)
    one, two = FIVE, FIVE[:4]
    first = five.step(CONSENT, 1, ("a", "b", "e"), survivors=one)
    second = five.step(CONSENT, 1, ("c", "d"), survivors=two)
    assert not refusals(first)
    assert not refusals(second)
    told = messages_of(first | second)
    assert set(refusals(five.step(REVEAL, 1, FIVE, messages=told))) == set(FIVE)
    # Who has consented does not do it again, to the same list or another.
    assert set(refusals(five.step(CONSENT, 1, FIVE, survivors=two))) == set(FIVE)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_round_that_was_unmasked_is_not_unmasked_in_another_epoch(
    five: MaliciousServer, epoch: int
) -> None:
    agreed = five.agree(1)
    five.train(agreed)
    five.unmask(agreed, FIVE)
    for number in range(2, epoch + 1):
        five.distribute(number)
    asked = five.advert(1, FIVE[:4], epoch=epoch)
    assert set(refusals(asked)) == set(FIVE[:4])


@pytest.mark.parametrize("number", [True, 1.0, "1", " 1", "01"])
@pytest.mark.parametrize("place", ["round", "epoch"])
def test_a_number_written_in_another_way_is_no_second_round(
    five: MaliciousServer, number: Any, place: str
) -> None:
    """To Python 1 == True == 1.0: a second file of masks for the same round, in the same epoch."""
    agreed = five.agree(1)
    five.train(agreed)
    told = {"round_": number} if place == "round" else {"round_": 1, "epoch": number}
    asked = five.advert(**told)
    assert set(refusals(asked)) == set(FIVE)
    kept = {path.name for path in (five.keys.folder / "a").glob("*.masks")}
    assert kept == {f"run-{RUN_ID}-1.1.masks"}


def test_a_number_written_in_another_way_gives_no_consent_that_is_not_remembered(
    five: MaliciousServer,
) -> None:
    agreed = five.agree(1)
    five.train(agreed)
    for number in ("1", True, 1.0):
        five.step(CONSENT, number, FIVE, survivors=FIVE)
    consents = five.step(CONSENT, 1, FIVE, survivors=FIVE)
    told = messages_of(consents)
    five.step(REVEAL, 1, FIVE, messages=told)
    assert len(five.score.reveals) == 5
    assert [five.ring(name).memory().unmasked for name in FIVE] == 5 * [1]


def test_train_messages_are_answered_once(five: MaliciousServer) -> None:
    agreed = five.agree(1)
    assert not refusals(five.train(agreed))
    assert set(refusals(five.train(agreed))) == set(FIVE)
    assert set(refusals(five.advert(1))) == set(FIVE)
    assert len(five.score.seals) == 5


def test_of_two_processes_that_promise_at_once_one_is_too_late(five: MaliciousServer) -> None:
    """Both look at what the silo remembers before either has written."""
    one, two = five.agree(1), five.agree(2, FIVE[:4])
    ring = five.ring("a")
    model = ModelState.first(five.first, five.flat.sizes, momentum=False)
    late = ring.promising(five.plan(two), model, FIVE[:4], exact=True)
    with pytest.raises(OutOfOrder), late:  # noqa: SIM117 - the other process is inside
        with ring.promising(five.plan(one), model, FIVE, exact=True):
            pass
    assert (ring.memory().unmasked, ring.memory().survivors) == (1, FIVE)


# The padding oracle: "opened" or "could not open" told a bit of the noise, thousands of times.


def touched(total: bytes, place: int) -> bytes:
    changed = bytearray(total)
    changed[-1000 - place] ^= 0x40
    return bytes(changed)


def test_the_first_sum_that_does_not_open_is_the_last_question_to_a_key(
    server: MaliciousServer,
) -> None:
    """It took 19,544 questions to one key; now there is one."""
    server.whole_round(1)
    agreed = server.agree(2)
    uploads = server.train(agreed)
    _, reveals = server.unmask(agreed, agreed.members)
    total = server.total(agreed, uploads, reveals)
    asked = server.confirm(agreed, touched(total, 0), ("a", "b"))
    assert set(refusals(asked)) == {"a", "b"}
    assert server.score.spoilt == [("a", 1), ("b", 1)]
    for name in ("a", "b"):
        assert not list((server.keys.folder / name).glob("*.key.*"))
        assert [p.name for p in (server.keys.folder / name).glob("*-1.key")] == []
    # The right one, another one, and every other kind of message under that key.
    for more in (total, touched(total, 1)):
        assert set(refusals(server.confirm(agreed, more, ("a", "b")))) == {"a", "b"}
    assert set(refusals(server.advert(3, ("a", "b")))) == {"a", "b"}
    assert set(refusals(server.train(agreed, ("a", "b")))) == {"a", "b"}
    assert server.score.spoilt == [("a", 1), ("b", 1)]
    # For the others the round is as good as before.
    assert not refusals(server.confirm(agreed, total, ("c", "d")))
    assert server.score.wrong() == []


def test_after_three_keys_that_failed_a_silo_leaves_the_run(server: MaliciousServer) -> None:
    for epoch in range(1, MOST_FAILED_OPENINGS + 1):
        if epoch > 1:
            assert not refusals(server.distribute(epoch))
        agreed = server.agree(epoch)
        uploads = server.train(agreed)
        _, reveals = server.unmask(agreed, agreed.members)
        total = server.total(agreed, uploads, reveals)
        server.confirm(agreed, touched(total, 0), server.names)
    assert len(server.score.spoilt) == 4 * MOST_FAILED_OPENINGS
    after = MOST_FAILED_OPENINGS + 1
    with suppress(AssertionError):  # whether it gets one more key or none
        server.distribute(after)
    assert set(refusals(server.advert(after, epoch=after))) == set(server.names)


@pytest.mark.parametrize("bad", [b"", b"x", b"\x00" * 40, "cut", "long", "upload", "kind"], ids=str)
def test_bytes_that_are_no_sum_end_the_key_too(server: MaliciousServer, bad: Any) -> None:
    """However it fails: a difference between failures would be an answer."""
    agreed = server.agree(1)
    uploads = server.train(agreed)
    _, reveals = server.unmask(agreed, agreed.members)
    total = server.total(agreed, uploads, reveals)
    made = {
        "cut": total[:-1],
        "long": total + b"x",
        "upload": upload_of(uploads["a"]),
        "kind": b"\xff" * len(total),
    }
    data = made.get(bad, bad) if isinstance(bad, str) else bad
    assert set(refusals(server.confirm(agreed, data, ("a",)))) == {"a"}
    assert set(refusals(server.confirm(agreed, total, ("a",)))) == {"a"}
    assert server.score.opened == []


def test_a_model_that_was_touched_says_nothing_of_a_key(server: MaliciousServer) -> None:
    """Evaluate messages were answered under the same key: the second half of the oracle."""
    server.whole_round(1, ("a", "b", "c"))
    assert server.carried is not None
    whole = server.sealed()
    broken = replace(whole, model=touched(server.carried, -900))
    assert broken.model != whole.model
    told = EvaluateRequest(1, None, broken).to_records()
    assert refusals(server.ask(MessageType.EVALUATE, {"d": told}))
    told = EvaluateRequest(1, None, whole).to_records()
    assert not refusals(server.ask(MessageType.EVALUATE, {"d": told}))


# Epochs, models and runs that were turned back.


def test_an_epoch_that_is_over_is_over(server: MaliciousServer) -> None:
    """In epoch 3 the server named epoch 1, whose key a silo that had left still had."""
    agreed = server.whole_round(1)
    old = server.sealed()
    kept = server.keys.folder / "a" / f"run-{RUN_ID}-1.key"
    of_before = kept.read_bytes()
    server.distribute(2)
    for name in server.names:
        assert not (server.keys.folder / name / f"run-{RUN_ID}-1.key").exists()
    # A backup of the folder brings the key back, and the silo goes by what it remembers.
    write_whole(kept, of_before, mode=0o600)
    assert set(refusals(server.advert(2, epoch=1))) == set(server.names)
    for kind in (SHARE, CONSENT, REVEAL):
        told = {"survivors": server.names} if kind == CONSENT else {}
        asked = server.step(kind, 1, server.names, epoch=1, **told)
        assert set(refusals(asked)) == set(server.names)
    for epoch in (0, 1, 2):
        asks = {name: KeyRequest(epoch, 1).to_records() for name in server.names}
        assert set(refusals(server.ask(OFFER, asks))) == set(server.names)
    # The model of before is confirmed in epoch 1, and goes on in epoch 2.
    server.confirmed = old.confirmed_in, old.confirmations
    assert not refusals(server.advert(2))
    assert agreed.round == 1


@pytest.mark.parametrize("since", [1, 2, 3, 9])
def test_a_key_serves_the_rounds_that_the_job_says_and_no_others(
    tmp_path: Path, since: int
) -> None:
    """The server alone kept to `rotate_every`, or not."""
    with malicious_server(tmp_path, experiment=job(rounds=9, encryption__rotate_every=2)) as made:
        made.distribute(1, since=since)
        begun = [round_ for round_ in range(1, 10) if not refusals(made.advert(round_))]
        assert begun == [round_ for round_ in (since, since + 1) if round_ < 10]


def test_a_public_model_is_not_trained_from_after_the_first_sum(server: MaliciousServer) -> None:
    """Unless nobody has been told that enough silos opened the sum: its round may be void."""
    server.whole_round(1)
    assert not refusals(server.advert(2))
    public = Sealed(1, sizes=server.flat.sizes)
    assert set(refusals(server.advert(2, sealed=public))) == set(server.names)
    told = EvaluateRequest(2, server.first, public).to_records()
    assert refusals(server.ask(MessageType.EVALUATE, {"a": told}))


def test_a_confirmed_model_is_not_turned_back_to_an_older_one(server: MaliciousServer) -> None:
    server.whole_round(1)
    first = server.sealed()
    server.whole_round(2)
    second = server.sealed()
    assert not refusals(server.advert(3))
    assert set(refusals(server.advert(3, sealed=first))) == set(server.names)
    told = EvaluateRequest(3, None, first).to_records()
    assert refusals(server.ask(MessageType.EVALUATE, {"a": told}))
    assert not refusals(server.advert(3, sealed=second))


def test_a_round_is_not_replayed_in_another_run(server: MaliciousServer, tmp_path: Path) -> None:
    """The same silos with the same keys and roster; everything recorded in the first run."""
    agreed = server.whole_round(1)
    recorded = server.sealed()
    # A run of another number: silos know runs apart by themselves.
    for place, node in enumerate(server.grid._executor._contexts.values()):  # type: ignore[attr-defined]
        node.node_config["job"] = "another"
        assert place < 4
    assert set(refusals(server.advert(1))) == set(server.names), "no key of that run"
    asks = {name: KeyRequest(1, 1).to_records() for name in server.names}
    offers = server.ask(OFFER, asks)
    assert not refusals(offers), "a new run begins at its own epoch 1"
    confirmed, server.confirmed = server.confirmed, (0, ())
    server.distribute(2)
    server.confirmed = confirmed
    assert set(refusals(server.advert(2, sealed=recorded))) == set(server.names)
    server.confirmed = (0, ())
    adverts = server.advert(1)
    assert not refusals(adverts)
    asked = server.step(SHARE, 1, server.names, messages=agreed.adverts)
    assert set(refusals(asked)) == set(server.names)


def key_files(server: MaliciousServer, name: str) -> set[str]:
    """All that a silo keeps of runs, but for its memory of them."""
    found = {path.name for path in (server.keys.folder / name).iterdir()}
    return {each for each in found if "run-" in each and not each.endswith(".memory")}


def test_what_a_process_left_half_written_goes_with_the_keys(server: MaliciousServer) -> None:
    """It died before the file had its name: whoever reads the folder later had the key."""
    agreed = server.agree(1)
    folder = server.keys.folder / "a"
    masks = folder / f".run-{RUN_ID}-1.1.masks.0123abcd.part"
    masks.write_bytes(b"both shares of everybody")
    server.train(agreed)
    assert not masks.exists(), "the step that it died at was taken since"
    for left in ("1.key", "2.key", "1.offer", "1.3.masks", f"1-{64 * '0'}.model"):
        (folder / f".run-{RUN_ID}-{left}.0123abcd.part").write_bytes(b"secret")
    server.whole_round(2)
    told = KeyRequest(1, 1, carried=server.sealed()).to_records()
    assert not refusals(server.ask(KEEP, {"a": told}))
    assert key_files(server, "a") == set()


def test_shares_of_a_round_that_went_on_without_a_silo_go_with_the_next_one(
    server: MaliciousServer,
) -> None:
    """It kept two of each silo's: whoever had the files of enough silos had single updates."""
    agreed = server.agree(1)
    uploads = server.train(agreed)
    others = ("a", "b", "c")
    _, reveals = server.unmask(agreed, others)
    total = server.total(agreed, {name: uploads[name] for name in others}, reveals)
    answers = server.confirm(agreed, total, others, carry=True)
    server.confirmed = 1, messages_of(answers)
    server.carried = MaskAnswer.from_records(answers["a"]).model
    assert f"run-{RUN_ID}-1.1.masks" in key_files(server, "d")
    server.whole_round(2)
    for name in server.names:
        assert {each for each in key_files(server, name) if each.endswith(".masks")} == {
            f"run-{RUN_ID}-1.2.masks"
        }
    # No second chance comes with it.
    assert set(refusals(server.advert(1))) == set(server.names)


def test_keys_of_a_job_that_has_ended_go_without_the_servers_word(server: MaliciousServer) -> None:
    """It told nobody that the job was over, and the last epoch's key stayed for good."""
    contexts = list(server.grid._executor._contexts.values())  # type: ignore[attr-defined]
    for context in contexts:
        context.node_config["until"] = time.time() + 3600
    server.distribute(2)
    server.whole_round(1)
    for context in contexts:
        context.node_config |= {"job": "another", "until": time.time() + 7200}
    asks = {name: KeyRequest(1, 1).to_records() for name in server.names}
    assert not refusals(server.ask(OFFER, asks))
    assert any(each.endswith("2.key") for each in key_files(server, "a")), "it may go on"
    with pytest.MonkeyPatch.context() as patch:
        later = time.time() + 3601
        patch.setattr(time, "time", lambda: later)
        assert not refusals(server.ask(OFFER, asks))
    assert key_files(server, "a") == set()
    assert server.ring("a").memory().epoch == 2, "nothing of it is turned back"


# Certificates of models.


def digest_of(server: MaliciousServer, name: str, round_: int) -> bytes:
    (kept,) = (server.keys.folder / name).glob(f"*-{round_}-*.model")
    return bytes.fromhex(kept.stem.rpartition("-")[2])


def signed(
    server: MaliciousServer, name: str, model: ModelState, *, epoch: int = 1, run: str = ""
) -> bytes:
    ring = server.ring(name)
    session = ring.session(epoch)
    session = Session(run=run, epoch=epoch, roster=session.roster) if run else session
    return write_confirmation(
        model.round, model.digest, session=session, name=name, identity=ring.signer()
    )


def forged(server: MaliciousServer, round_: int = 1) -> ModelState:
    first = ModelState.first(server.first + 3, server.flat.sizes, momentum=False)
    return replace(first, round=round_)


def test_as_many_confirmations_as_may_collude_are_not_enough(server: MaliciousServer) -> None:
    server.whole_round(1)
    model = forged(server, 2)
    blob_ = carried(server, "d", model)
    once = signed(server, "d", model)
    honest = server.confirmed[1]
    for certificate in ((once,), (once, once), (once, honest[0]), ()):
        told = Sealed(1, 1, certificate, model=blob_)
        assert set(refusals(server.advert(3, ("a", "b", "c"), sealed=told))) == {"a", "b", "c"}


def carried(server: MaliciousServer, name: str, model: ModelState) -> bytes:
    from privet.client.sealed import ModelHolder
    from privet.strategies import load_strategy

    settings = server.experiment.encryption
    assert settings is not None
    ring = server.ring(name)
    holder = ModelHolder(ring, settings, load_strategy("fedavg", {}))
    return holder.carry(model, ring.key(server.epoch))


def test_confirmations_of_another_epoch_or_run_or_by_others_do_not_count(
    server: MaliciousServer,
) -> None:
    """Of a model that even two silos sign for: in a session of their own."""
    model = forged(server)
    blob_ = carried(server, "d", model)
    two = [signed(server, name, model, run="another") for name in ("c", "d")]
    assert (
        len(refusals(server.advert(2, ("a",), sealed=Sealed(1, 1, tuple(two), model=blob_)))) == 1
    )
    two = [signed(server, name, model) for name in ("c", "d")]
    assert (
        len(refusals(server.advert(2, ("a",), sealed=Sealed(1, 2, tuple(two), model=blob_)))) == 1
    )
    ring = server.ring("d")
    with pytest.raises(Exception, match="identity"):
        write_confirmation(
            1, model.digest, session=ring.session(1), name="c", identity=ring.signer()
        )
    # What holds is the bound: more than may collude are believed.
    assert not refusals(server.advert(2, ("a",), sealed=Sealed(1, 1, tuple(two), model=blob_)))


def test_a_carried_model_is_the_one_that_was_confirmed(server: MaliciousServer) -> None:
    """Silo c is asked to carry, and makes a model of its own."""
    server.whole_round(1, ("a", "b", "c"))
    wrong = carried(server, "c", forged(server))
    told = replace(server.sealed(), model=wrong)
    assert refusals(server.advert(2, ("d",), sealed=told))
    assert refusals(server.advert(2, ("d",), sealed=replace(told, model=b"garbage")))
    # Sealed as if it were the one that was confirmed.
    key = server.ring("c").key(1)
    bound = holder_module._blob_facts(key, digest_of(server, "a", 1))
    wrong = encrypt(forged(server).to_bytes(), key=holder_module._model_key(key), bound=bound)
    assert refusals(server.advert(2, ("d",), sealed=replace(told, model=wrong)))
    assert refusals(server.advert(2, ("d",), sealed=replace(told, model=None)))
    assert not refusals(server.advert(2, ("d",), sealed=server.sealed()))


# What one silo may do to the others.


def test_a_silo_that_never_opens_costs_the_others_nothing(tmp_path: Path) -> None:
    """After six void rounds all had spent their budgets, and nothing was learnt."""

    def deny(message: Any) -> None:
        if message.metadata.message_type == CONFIRM and message.metadata.dst_node_id == 5:
            message.content["sealed-sum"] = ArrayRecord({"total": blob(b"denied")})

    score = run(tmp_path, down=deny, experiment=job(rounds=6, encryption__rotate_every=None))
    assert score.wrong() == []
    assert [each["skipped"] for each in score.entries] == 7 * [None]
    trained = [each["silo"] for each in score.seals]
    assert [trained.count(name) for name in "abc"] == [6, 6, 6]
    assert trained.count("d") <= 3, "who fails where others open is left out of the next round"


def sealed_by_hand(
    server: MaliciousServer, agreed: Agreed, name: str, x: Any, *, weight: float, client: str = ""
) -> Any:
    """An upload that a silo makes as it likes, with the mask that it has to use."""
    ring = server.ring(name)
    adverts = gather_adverts(agreed.adverts, plan=server.plan(agreed))
    return make_cipher("bfv").encrypt(
        np.asarray(x, dtype=np.float64),
        key=secret_of(ring.key(server.epoch)),
        terms=Terms(run=sum_label(adverts), round=agreed.round, size=len(x), clamp=1.0),
        weight=weight,
        client=client or name,
        rng=np.random.default_rng(0),
        mask=None,
    )


def forged_total(
    server: MaliciousServer, agreed: Agreed, x: Any, *, weights: dict[str, float], by: str = "d"
) -> bytes:
    """A sum in all silos' names, by a silo that gives the server what it knows."""
    adverts = gather_adverts(agreed.adverts, plan=server.plan(agreed))
    terms = Terms(run=sum_label(adverts), round=agreed.round, size=len(x), clamp=1.0)
    adder = make_cipher("bfv").adder(terms)
    for name, weight in weights.items():
        upload = sealed_by_hand(server, agreed, by, x, weight=weight, client=name)
        adder.add(upload.data, client=name)
    return adder.to_bytes()


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.5},
        {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0**-47},
        {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1},
        {"a": 1.0, "b": 1.0, "c": 1.0},
    ],
    ids=str,
)
def test_a_sum_of_other_weights_than_were_adverted_does_not_open(
    server: MaliciousServer, weights: dict[str, float]
) -> None:
    """A claimed weight of 20 took 69 % of the mean, and one of -9 made the model 1e14."""
    agreed = server.agree(1)
    server.train(agreed)
    server.unmask(agreed, agreed.members)
    total = forged_total(server, agreed, np.full(server.first.size, 0.01), weights=weights)
    assert set(refusals(server.confirm(agreed, total, ("a",)))) == {"a"}
    assert server.score.spoilt == [("a", 1)]


def test_what_a_forged_sum_moves_stays_within_the_clamp(server: MaliciousServer) -> None:
    """Server and a silo know the key that tags are made with: within bounds they make any sum."""
    agreed = server.agree(1)
    server.train(agreed)
    server.unmask(agreed, agreed.members)
    weights = dict.fromkeys(server.names, 1.0)
    total = forged_total(server, agreed, np.full(server.first.size, 50.0), weights=weights)
    server.confirm(agreed, total, ("a",))
    moved = [np.abs(each["state"].weights - each["before"].weights) for each in server.score.opened]
    assert all(each.max() <= 0.5 * 1.01 for each in moved)


def test_two_models_of_one_round_are_not_both_confirmed(server: MaliciousServer) -> None:
    """Silo d makes two sums that open; from each model a sum over other silos was unmasked."""
    agreed = server.agree(1)
    server.train(agreed)
    server.unmask(agreed, agreed.members)
    weights = dict.fromkeys(server.names, 1.0)
    one, two = (
        forged_total(server, agreed, np.full(server.first.size, value), weights=weights)
        for value in (0.0, 1e-4)
    )
    honest = ("a", "b", "c")
    assert not refusals(server.confirm(agreed, one, honest))
    assert set(refusals(server.confirm(agreed, two, honest))) == set(honest)


def test_shares_leave_only_for_a_promise_that_is_remembered(server: MaliciousServer) -> None:
    """A process that ends between the two would help to unmask the round twice."""
    agreed = server.agree(1)
    server.train(agreed)
    consents = server.step(CONSENT, 1, server.names, survivors=server.names)
    memory = server.ring("a").memory()
    path = server.keys.folder / "a" / f"run-{RUN_ID}.memory"
    kept = json.loads(path.read_bytes()) | {"unmasked": 0, "summed": ""}
    path.write_text(json.dumps(kept))
    told = messages_of(consents)
    reveals = server.step(REVEAL, 1, server.names, messages=told)
    assert set(refusals(reveals)) == {"a"}
    assert memory.unmasked == 1


def test_nothing_leaves_beside_a_sealed_update(server: MaliciousServer) -> None:
    """How many values were cut off said something of one silo's update, in the clear."""
    agreed = server.agree(1)
    uploads = server.train(agreed)
    left = {f"{n}.{key}" for each in uploads.values() for n in each for key in each[n]}
    assert left == {"sealed.statement", "sealed-update.upload"}
    # Of one size, whatever is in them.
    assert len({len(upload_of(each)) for each in uploads.values()}) == 1
    assert {read_header(upload_of(each))[0].terms.clamp for each in uploads.values()} == {1.0}


def test_what_is_kept_of_public_models_does_not_grow_with_questions(
    server: MaliciousServer,
) -> None:
    """Each model that a server made up stayed on the disk of every silo."""
    for number in range(6):
        server.advert(1, weights=dict.fromkeys(server.names, server.first + number))
    assert len(list((server.keys.folder / "a").glob("*.model"))) <= 2
