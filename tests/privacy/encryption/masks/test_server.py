"""A server that cheats, alone or with a silo."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from privet.privacy.encryption.backend import DEGREE
from privet.privacy.encryption.keys import AgreementKey, MessageError
from privet.privacy.encryption.masks import MaskError, MaskRound, RoundPlan, TooFewSilos, correction
from privet.privacy.encryption.masks.shares import join, personal_commitment
from privet.privacy.encryption.masks.statements import gather_adverts, write_consent
from privet.privacy.encryption.masks.unmasking import Reveal, read_reveal, write_reveal


def spoils(group, told: dict[str, tuple[str, ...]], traitors: tuple[str, ...], victim: str):
    """Shares of the victim's personal seed and of its mask key, if the server tells each silo the
    list `told` and passes on every consent that could help."""
    rounds = group.again()
    consents = {}
    for name, survivors in told.items():
        with contextlib.suppress(TooFewSilos):
            consents.setdefault(survivors, []).append(rounds[name].consent(survivors))
    for traitor, survivors in itertools.product(traitors, consents):
        if traitor in survivors:
            with contextlib.suppress(TooFewSilos):
                consents[survivors].append(group.again()[traitor].consent(survivors))
    personal = {name: group.phases[name].held[victim].personal for name in traitors}
    pair = {name: group.phases[name].held[victim].pair for name in traitors}
    adverts = gather_adverts(group.adverts, plan=group.plan)
    for name, survivors in told.items():
        try:
            reveal = read_reveal(rounds[name].reveal(consents[survivors]), adverts=adverts)
        except MaskError:
            continue
        (personal if victim in survivors else pair)[name] = reveal.shares[victim]
    return personal, pair


def cheats(group, traitors: tuple[str, ...], victim: str):
    """Every way to tell each honest silo that the victim survived, or that it dropped out."""
    everyone = tuple(group.identities)
    without = tuple(name for name in everyone if name != victim)
    honest = [name for name in without if name not in traitors]
    for lists in itertools.product((everyone, without), repeat=len(honest)):
        told = dict(zip(honest, lists, strict=True)) | {victim: everyone}
        yield spoils(group, told, traitors, victim)


@pytest.mark.parametrize(("silos", "colluding"), [(2, 0), (3, 1), (4, 1), (5, 1), (6, 1), (6, 2)])
def test_no_story_gets_both_secrets_of_a_silo(build, silos, colluding):
    group = build(silos, colluding=colluding)
    names, threshold = tuple(group.identities), group.threshold
    traitors = names[1 : 1 + colluding]
    best = 0
    for personal, pair in cheats(group, traitors, names[0]):
        assert min(len(personal), len(pair)) < threshold
        best = max(best, len(personal), len(pair))
    assert best >= threshold


def test_below_the_bound_the_same_server_gets_them(build, monkeypatch):
    # The attack above is a real one: with a threshold that the plan refuses, it succeeds.
    monkeypatch.setattr(RoundPlan, "least", lambda *_: 2)
    group = build(4)
    names = tuple(group.identities)
    places = {name: place for place, name in enumerate(names, start=1)}
    both = [
        (personal, pair)
        for personal, pair in cheats(group, names[1:2], names[0])
        if min(len(personal), len(pair)) >= 2
    ]
    assert both
    adverts = gather_adverts(group.adverts, plan=group.plan)
    personal, pair = (
        join({places[name]: share for name, share in shares.items()}, threshold=2)
        for shares in both[0]
    )
    advert = adverts.of(names[0])
    assert AgreementKey.from_secret(pair).public == advert.mask
    assert personal_commitment(group.plan, names[0], personal) == advert.commitment


def test_a_silo_bound_to_one_list_never_serves_another(group):
    rounds, names = group.again(), list(group.identities)
    first = {name: rounds[name].consent(names) for name in names}
    with pytest.raises(MaskError, match="is consented; this step is for one that is masked"):
        rounds["silo-a"].consent(names[:3])
    other = [group.again()[name].consent(names[:3]) for name in names[:3]]
    with pytest.raises(MessageError, match="consented to other survivors: nothing is revealed"):
        rounds["silo-a"].reveal(other)
    with pytest.raises(MessageError, match="'silo-b' appears with two consents"):
        rounds["silo-a"].reveal([first["silo-b"]] * 3)
    with pytest.raises(TooFewSilos, match="2 consents are fewer than the threshold of 3"):
        rounds["silo-a"].reveal([first["silo-a"], first["silo-b"]])
    rounds["silo-a"].reveal(first.values())


@pytest.mark.parametrize("dropped", [None, "silo-d"])
def test_of_each_silo_one_share_is_kept_and_it_is_the_right_one(group, dropped):
    survivors = [name for name in group.identities if name != dropped]
    before = group.phases["silo-a"]
    after = before.consent(survivors)
    for name, share in after.shares.items():
        if name == "silo-a":
            assert share == before.own
        else:
            held = before.held[name]
            assert share == (held.pair if name == dropped else held.personal)
    assert set(vars(after)) == {"adverts", "name", "survivors", "shares"}


def test_a_silo_that_is_called_dropped_does_not_help(group):
    with pytest.raises(MessageError, match="'silo-a' is here and not among them"):
        group.again()["silo-a"].consent(["silo-b", "silo-c", "silo-d"])


@pytest.mark.parametrize(
    "survivors",
    [["silo-a", "silo-b", "silo-e"], ["silo-a", "silo-b", "silo-b"], ["silo-a", "silo-b", "eve"]],
)
def test_survivors_are_different_silos_that_masked(group, survivors):
    with pytest.raises(MessageError, match="not different silos that mask together"):
        group.again()["silo-a"].consent(survivors)


def test_a_dropped_silos_update_stays_masked(build):
    # Its pairwise masks are known after the reveal, its own mask is not: what was late is no use.
    values = {f"silo-{letter}": np.zeros(DEGREE, dtype=np.uint16) for letter in "abcd"}
    group = build(4, values=values)
    survivors = ["silo-a", "silo-b", "silo-c"]
    total = group.unmasked(survivors)
    assert not total.any()
    late = group.masked["silo-d"]
    counts = np.bincount(late >> 12, minlength=16)
    assert ((counts - 256) ** 2 / 256).sum() < 50


@pytest.fixture
def begun(group):
    """The same silos at the start of a round, and their adverts."""
    rounds = {
        name: MaskRound.begin(plan=group.plan, name=name, identity=key)
        for name, key in group.identities.items()
    }
    return rounds, [each.advert() for each in rounds.values()]


def test_adverts_of_other_plans_sessions_and_strangers_are_refused(build, group):
    changes = [
        ({"round": 2}, "another round"),
        ({"job": bytes([1]) * 32}, "another job"),
        ({"model": bytes([1]) * 32}, "another global model"),
        ({"noise": "2.0"}, "another noise multiplier"),
        ({"threshold": 4}, "another threshold"),
        ({"colluding": 2}, "another number of colluding silos"),
        ({"masked": False}, "another word on masks"),
        ({"epoch": 2}, "from epoch 2, not 1"),
    ]
    for change, problem in changes:
        other = build(identities=group.identities, **change)
        with pytest.raises(MessageError, match=problem):
            gather_adverts([*group.adverts[:3], other.adverts[3]], plan=group.plan)
    with pytest.raises(MessageError, match="another roster"):
        gather_adverts([*group.adverts[:3], build().adverts[3]], plan=group.plan)


def test_a_swapped_or_repeated_advert_is_refused(group, begun):
    rounds, adverts = begun
    with pytest.raises(MessageError, match="'silo-b' appears with two mask adverts"):
        rounds["silo-a"].share([*adverts, group.adverts[1]])
    with pytest.raises(MessageError, match="another one of silo 'silo-a' than it made"):
        rounds["silo-a"].share([group.adverts[0], *adverts[1:]])
    with pytest.raises(MessageError, match="'silo-a' is not among those"):
        rounds["silo-a"].share(adverts[1:])
    with pytest.raises(MaskError, match="2 silos cannot withstand 1 that collude"):
        rounds["silo-a"].share(adverts[:2])


def test_silos_that_were_shown_different_adverts_part(group, begun):
    rounds, adverts = begun
    encrypted_shares = {
        name: each.share(adverts) for name, each in rounds.items() if name != "silo-d"
    }
    encrypted_shares["silo-d"] = rounds["silo-d"].share([*adverts[1:3], adverts[3]])
    to_b = {name: each["silo-b"] for name, each in encrypted_shares.items() if name != "silo-b"}
    with pytest.raises(MessageError, match="'silo-d' was shown other mask adverts"):
        rounds["silo-b"].mask(to_b)


def test_letters_are_from_and_for_the_right_silo(group, begun):
    rounds, adverts = begun
    encrypted_shares = {name: each.share(adverts) for name, each in rounds.items()}
    right = {name: each["silo-a"] for name, each in encrypted_shares.items() if name != "silo-a"}
    wrong = [
        (
            right | {"silo-b": encrypted_shares["silo-b"]["silo-c"]},
            "not from silo 'silo-b' to silo 'silo-a'",
        ),
        (right | {"silo-b": right["silo-c"]}, "not from silo 'silo-b' to silo 'silo-a'"),
        (
            right | {"silo-b": group.encrypted_shares["silo-b"]["silo-a"]},
            "shown other mask adverts",
        ),
    ]
    for given, problem in wrong:
        with pytest.raises(MessageError, match=problem):
            rounds["silo-a"].mask(given)
    del right["silo-b"]
    with pytest.raises(MaskError, match="'silo-b' has dealt no shares: begin the round again"):
        rounds["silo-a"].mask(right)


def test_too_few_or_mixed_reveals_are_refused(group):
    names = list(group.identities)
    some, others = group.reveals(names), group.reveals(names[:3])
    arguments = {"plan": group.plan, "adverts": group.adverts}
    with pytest.raises(TooFewSilos, match="2 reveals are fewer than the threshold of 3"):
        correction(reveals=some[:2], **arguments)
    with pytest.raises(TooFewSilos, match="0 reveals"):
        correction(reveals=[], **arguments)
    with pytest.raises(MessageError, match="different survivors"):
        correction(reveals=[*some[1:], others[0]], **arguments)
    with pytest.raises(MessageError, match="'silo-a' appears with two reveals"):
        correction(reveals=[some[0], *some], **arguments)


@pytest.mark.parametrize("whose", ["silo-b", "silo-d"])
def test_a_wrong_share_is_found(group, whose):
    # Of a survivor by its commitment, of a dropped silo by its public key.
    names = list(group.identities)[:3]
    adverts = gather_adverts(group.adverts, plan=group.plan)
    reveals = group.reveals(names)
    honest = read_reveal(reveals[0], adverts=adverts)
    other = replace(honest, shares={**honest.shares, whose: honest.shares["silo-c"]})
    reveals[0] = write_reveal(other, adverts=adverts, identity=group.identities["silo-a"])
    with pytest.raises(MessageError, match=f"do not fit the secret of silo '{whose}'"):
        correction(plan=group.plan, adverts=group.adverts, reveals=reveals)


def test_consents_and_reveals_of_those_who_dropped_are_refused(group):
    adverts = gather_adverts(group.adverts, plan=group.plan)
    names = tuple(group.identities)
    consent = write_consent(
        names[:3], adverts=adverts, name="silo-d", identity=group.identities["silo-d"]
    )
    rounds = group.again()
    consents = [rounds[name].consent(names[:3]) for name in names[:3]]
    with pytest.raises(MessageError, match="'silo-d' does not list itself"):
        rounds["silo-a"].reveal([*consents, consent])
    disordered = write_consent(
        names[2::-1], adverts=adverts, name="silo-b", identity=group.identities["silo-b"]
    )
    with pytest.raises(MessageError, match="in order"):
        rounds["silo-a"].reveal([consents[0], disordered, consents[2]])
    shares = group.again()["silo-a"]._phase.consent(names[:3]).shares
    reveal = Reveal("silo-d", names[:3], shares)
    message = write_reveal(reveal, adverts=adverts, identity=group.identities["silo-d"])
    with pytest.raises(MessageError, match="'silo-d' does not list itself"):
        correction(
            plan=group.plan, adverts=group.adverts, reveals=[*group.reveals(names[:3]), message]
        )
