"""A server that relays everything and tries everything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from privet.privacy.encryption.keys import (
    AgreementKey,
    KeysError,
    MessageError,
    RosterError,
    RunKey,
    Secret,
    Session,
    gather,
    make_offer,
    read_offer,
    unwrap,
    wrap,
)
from privet.privacy.encryption.keys.messages import OFFER_TITLE as OFFER
from privet.privacy.encryption.keys.messages import WRAP_TITLE as WRAP
from privet.privacy.encryption.keys.roster import counted, pack, write_signed


def opened(federation, message, name, **changes):
    arguments = {"offers": federation.offers, "agreement": federation.agreements[name]} | changes
    return RunKey.unwrapped(message, name=name, **arguments)


def test_every_silo_ends_up_with_the_same_key(federation):
    messages = federation.wrapped()
    assert federation.offers.elected == "ada"
    assert set(messages) == {"bob", "cleo"}
    for name, message in messages.items():
        key = opened(federation, message, name)
        assert key == federation.key
        assert key.id == federation.key.id
        assert key.members == ("ada", "bob", "cleo")


def test_the_order_in_which_offers_arrive_does_not_matter(federation):
    orders = itertools.permutations(federation.messages.values())
    assert {gather(order, session=federation.session).digest for order in orders} == {
        federation.offers.digest
    }


def test_a_large_secret_fits_and_a_larger_one_is_refused(federation):
    arguments = {
        "offers": federation.offers,
        "name": "ada",
        "identity": federation.identities["ada"],
        "agreement": federation.agreements["ada"],
    }
    secret = Secret.random(1_000_000)
    message = wrap(secret, **arguments)["bob"]
    agreement = federation.agreements["bob"]
    assert unwrap(message, offers=federation.offers, name="bob", agreement=agreement) == secret
    with pytest.raises(KeysError, match="above 1000000"):
        wrap(Secret.random(1_000_001), **arguments)


def test_a_swapped_key_is_noticed(federation):
    offer, servers_own = federation.messages["bob"], AgreementKey.generate()
    swapped = offer.replace(federation.agreements["bob"].public, servers_own.public)
    assert swapped != offer
    with pytest.raises(MessageError, match="not that of silo 'bob'"):
        gather([federation.messages["ada"], swapped], session=federation.session)


def test_an_offer_signed_with_another_silos_key_is_noticed(federation):
    # Even a silo of the roster cannot offer in another's name.
    values = pack(OFFER, *federation.session.facts, "bob", AgreementKey.generate().public)
    forged = values + bytes.fromhex(federation.identities["cleo"].sign(values))
    with pytest.raises(MessageError, match="not that of silo 'bob'"):
        read_offer(forged, session=federation.session)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run": "run-0"}, "from run 'run-0', not 'run-1'"),
        ({"epoch": 2}, "from epoch 2, not 1"),
    ],
)
def test_messages_of_another_run_or_epoch_are_replays(federation, build, changes, problem):
    other = build(identities=federation.identities, **changes)
    with pytest.raises(MessageError, match=problem):
        gather(other.messages.values(), session=federation.session)
    with pytest.raises(MessageError, match=problem):
        opened(federation, other.wrapped()["bob"], "bob")


def test_silos_with_different_rosters_part(federation, build, identity):
    names = dict(federation.identities)
    names["cleo"] = identity()
    with pytest.raises(MessageError, match="another roster"):
        gather(build(identities=names).messages.values(), session=federation.session)


def test_a_stranger_is_not_let_in(federation, build, identity):
    with pytest.raises(RosterError, match="lists no silo 'eve'"):
        make_offer(session=federation.session, name="eve", identity=identity())
    with pytest.raises(RosterError, match="another identity key for silo 'bob'"):
        make_offer(session=federation.session, name="bob", identity=identity())
    eve = identity()
    body = pack(OFFER, *federation.session.facts, "eve", AgreementKey.generate().public)
    with pytest.raises(MessageError, match="lists no silo 'eve'"):
        read_offer(body + bytes.fromhex(eve.sign(body)), session=federation.session)


def test_two_offers_of_one_silo_and_no_offer_are_refused(federation):
    _, second = make_offer(
        session=federation.session, name="bob", identity=federation.identities["bob"]
    )
    with pytest.raises(MessageError, match="'bob' appears with two"):
        gather([*federation.messages.values(), second], session=federation.session)
    with pytest.raises(MessageError, match="no key offer"):
        gather([], session=federation.session)


def test_only_the_elected_silo_may_wrap(federation):
    with pytest.raises(KeysError, match="'ada' makes the key of this epoch, not 'bob'"):
        federation.key.wrapped(
            offers=federation.offers,
            name="bob",
            identity=federation.identities["bob"],
            agreement=federation.agreements["bob"],
        )


def test_a_wrap_by_another_silo_of_the_roster_is_refused(federation, monkeypatch):
    # Bob runs other code that believes him elected; everything else about the wrap is right.
    monkeypatch.setattr(type(federation.offers), "elected", "bob")
    forged = wrap(
        Secret.random(40),
        offers=federation.offers,
        name="bob",
        identity=federation.identities["bob"],
        agreement=federation.agreements["bob"],
    )["cleo"]
    monkeypatch.undo()
    with pytest.raises(MessageError, match="from silo 'bob', but 'ada' is elected"):
        opened(federation, forged, "cleo")


def test_a_wrap_for_another_recipient_is_refused(federation):
    message = federation.wrapped()["bob"]
    with pytest.raises(MessageError, match="for silo 'bob', not 'cleo'"):
        opened(federation, message, "cleo")


def test_silos_that_were_shown_different_offers_part(federation):
    # The server hides cleo's offer from bob, or shows him an older one of hers.
    session = federation.session
    fewer = gather([federation.messages["ada"], federation.messages["bob"]], session=session)
    _, older = make_offer(session=session, name="cleo", identity=federation.identities["cleo"])
    with_older = gather(
        [federation.messages["ada"], federation.messages["bob"], older], session=session
    )
    for offers in (fewer, with_older):
        with pytest.raises(MessageError, match="shown other key offers"):
            opened(federation, federation.wrapped()["bob"], "bob", offers=offers)


def test_an_old_offer_of_ones_own_is_noticed(federation):
    newer, _ = make_offer(
        session=federation.session, name="bob", identity=federation.identities["bob"]
    )
    with pytest.raises(MessageError, match="another key of silo 'bob'"):
        opened(federation, federation.wrapped()["bob"], "bob", agreement=newer)


def test_a_wrap_opens_with_the_recipients_key_only(federation):
    # With the signature made valid again, encryption alone has to refuse.
    session, digest = federation.session, federation.offers.digest
    box = b"\0" * 100
    forged = write_signed(
        WRAP, "bob", digest, box, session=session, name="ada", identity=federation.identities["ada"]
    )
    with pytest.raises(MessageError, match="cannot be opened"):
        opened(federation, forged, "bob")


def test_a_key_for_other_members_than_the_offers_is_refused(federation):
    short = replace(federation.key, members=("ada", "bob"))
    secret = short._secret()
    message = wrap(
        secret,
        offers=federation.offers,
        name="ada",
        identity=federation.identities["ada"],
        agreement=federation.agreements["ada"],
    )["bob"]
    with pytest.raises(MessageError, match="other members than the offers"):
        opened(federation, message, "bob")
    with pytest.raises(KeysError, match="other silos or another epoch"):
        short.wrapped(
            offers=federation.offers,
            name="ada",
            identity=federation.identities["ada"],
            agreement=federation.agreements["ada"],
        )


def _run_key(federation, *, members, transport=bytes(32)):
    facts = *federation.session.facts, 1, *counted(members)
    return pack("privet run key 1", *facts, b"container", transport)


@pytest.mark.parametrize(
    "inside",
    [
        lambda _: b"",
        lambda _: b"privet run key 1\n",
        lambda federation: _run_key(federation, members=("bob", "ada", "cleo")),
        lambda federation: _run_key(federation, members=("ada", "bob", "eve")),
        lambda federation: _run_key(federation, members=federation.offers.present, transport=b""),
    ],
)
def test_an_elected_silo_that_sends_rubbish_gets_a_clean_refusal(federation, inside):
    message = wrap(
        Secret(inside(federation)),
        offers=federation.offers,
        name="ada",
        identity=federation.identities["ada"],
        agreement=federation.agreements["ada"],
    )["bob"]
    with pytest.raises(MessageError, match="run key refused"):
        opened(federation, message, "bob")


def test_a_public_key_of_small_order_is_no_peer():
    for point in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(MessageError, match="not one"):
            AgreementKey.generate().agree(point, info=b"")


def test_a_silo_that_offers_such_a_key_is_named(federation):
    offer = write_signed(
        OFFER,
        bytes(32),
        session=federation.session,
        name="bob",
        identity=federation.identities["bob"],
    )
    with pytest.raises(MessageError, match="key of silo 'bob' is of small order"):
        read_offer(offer, session=federation.session)


def test_a_message_that_is_too_long_is_not_even_verified(federation):
    offer = write_signed(
        OFFER,
        bytes(1000),
        session=federation.session,
        name="bob",
        identity=federation.identities["bob"],
    )
    with pytest.raises(MessageError, match="more than 1000 bytes"):
        read_offer(offer, session=federation.session)


@pytest.mark.parametrize("run", ["", "a b", "a/b", "ä", "x" * 65, "a\n"])
def test_a_run_has_a_plain_name(federation, run):
    with pytest.raises(KeysError, match="its name may have"):
        Session(run=run, epoch=1, roster=federation.session.roster)


@pytest.mark.parametrize("epoch", [-1, 2**63])
def test_an_epoch_fits_a_message(federation, epoch):
    with pytest.raises(KeysError, match=f"epoch = {epoch} is outside"):
        Session(run="r", epoch=epoch, roster=federation.session.roster)


def test_titles_keep_the_kinds_of_messages_apart(federation):
    # What a silo signs for one purpose never verifies as anything else.
    statement = federation.messages["ada"].replace(OFFER.encode(), WRAP.encode())
    with pytest.raises(MessageError):
        opened(federation, statement, "bob")
