"""A silo's steps, across restarts and races."""

from __future__ import annotations

import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest

from privet.privacy.encryption.keys import KeyFileError, MessageError, RosterError
from privet.privacy.encryption.masks import MaskError, MaskRound, correction


class Restarting:
    """Three silos whose processes end after every step."""

    def __init__(self, group, folder):
        self.group, self.folder = group, folder
        for name in group.identities:
            self.begin(name)

    def begin(self, name, **changes):
        plan = replace(self.group.plan, **changes)
        return MaskRound.begin(
            plan=plan, name=name, identity=self.group.identities[name], keep=self.path(name)
        )

    def who(self, name):
        return {
            "session": self.group.plan.session,
            "name": name,
            "identity": self.group.identities[name],
        }

    def path(self, name):
        return self.folder / f"{name}.masks"

    def silo(self, name):
        return MaskRound.resume(keep=self.path(name), **self.who(name))

    def all(self, step, *arguments):
        return {name: step(self.silo(name), *arguments) for name in self.group.identities}

    def masked(self):
        adverts = list(self.all(MaskRound.advert).values())
        encrypted_shares = self.all(MaskRound.share, adverts)
        return adverts, {
            name: self.group.values[name]
            + self.silo(name).mask(
                {peer: each[name] for peer, each in encrypted_shares.items() if peer != name}
            )
            for name in self.group.identities
        }


@pytest.fixture
def restarting(build, tmp_path):
    return Restarting(build(3), tmp_path)


def test_a_round_survives_a_restart_after_every_step(restarting):
    adverts, masked = restarting.masked()
    names = list(restarting.group.identities)
    consents = list(restarting.all(MaskRound.consent, names).values())
    reveals = list(restarting.all(MaskRound.reveal, consents).values())
    assert list(restarting.all(MaskRound.reveal, consents).values()) == reveals
    _, vector = correction(plan=restarting.group.plan, adverts=adverts, reveals=reveals)
    total = restarting.group.without(vector, restarting.group.added(masked, names))
    assert np.array_equal(total, restarting.group.expected(names))
    assert {path.name for path in restarting.folder.iterdir()} == {f"{n}.masks" for n in names}


def test_what_must_not_be_kept_is_gone_from_the_file(restarting):
    path, names = restarting.path("silo-a"), list(restarting.group.identities)
    begun = restarting.silo("silo-a")._phase
    own = [begun.cipher.secret(), begun.mask.secret(), begun.personal]
    assert all(secret.reveal() in path.read_bytes() for secret in own)
    restarting.masked()
    held = restarting.silo("silo-a")._phase.held
    assert not any(secret.reveal() in path.read_bytes() for secret in own)
    assert all(each.pair.reveal() in path.read_bytes() for each in held.values())
    restarting.silo("silo-a").consent(names)
    assert all(each.personal.reveal() in path.read_bytes() for each in held.values())
    assert not any(each.pair.reveal() in path.read_bytes() for each in held.values())
    restarting.silo("silo-a").close()
    assert not any(each.personal.reveal() in path.read_bytes() for each in held.values())


def test_nothing_is_masked_twice(restarting):
    restarting.masked()
    for step in (
        lambda silo: silo.advert(),
        lambda silo: silo.share([]),
        lambda silo: silo.mask({}),
        lambda silo: silo.reveal([]),
    ):
        with pytest.raises(MaskError, match="round 1 of masks is masked; this step is for one"):
            step(restarting.silo("silo-a"))
    with pytest.raises(MaskError, match="round 1 was masked already"):
        restarting.begin("silo-a")
    restarting.silo("silo-a").consent(restarting.group.identities)
    restarting.silo("silo-a").close()
    with pytest.raises(MaskError, match="round 1 was masked already"):
        restarting.begin("silo-a")


def test_before_that_a_round_can_begin_again_with_other_keys_and_another_plan(restarting, build):
    first = restarting.silo("silo-a")
    advert = first.advert()
    adverts = [restarting.silo(name).advert() for name in restarting.group.identities]
    first.share(adverts)
    shares = {
        name: restarting.silo(name).share(adverts)["silo-a"]
        for name in restarting.group.identities
        if name != "silo-a"
    }
    again = restarting.begin("silo-a", model=bytes([1]) * 32)
    assert again.advert() != advert
    resumed = restarting.silo("silo-a")
    assert resumed.advert() == again.advert()
    assert resumed.plan == again.plan != restarting.group.plan
    # The first attempt's process is still alive, and finds that it was overtaken.
    with pytest.raises(KeyFileError, match="changed meanwhile"):
        first.mask(shares)


def test_a_server_that_asks_twice_at_once_gets_one_answer(restarting):
    restarting.masked()
    names = list(restarting.group.identities)
    silos = [restarting.silo("silo-a") for _ in range(6)]
    barrier, given, refused = threading.Barrier(len(silos)), [], []

    def ask(silo):
        barrier.wait()
        try:
            given.append(silo.consent(names))
        except KeyFileError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(silo,)) for silo in silos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 1
    assert len(refused) == 5
    assert all("changed meanwhile" in text for text in refused)


def test_the_next_phase_is_on_disk_before_the_answer_is_given(restarting, monkeypatch):
    restarting.masked()
    names = list(restarting.group.identities)
    silo, before = restarting.silo("silo-a"), restarting.path("silo-a").read_bytes()

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(KeyFileError, match="cannot be written"):
            silo.consent(names)
    assert restarting.path("silo-a").read_bytes() == before
    silo.consent(names)
    assert restarting.path("silo-a").read_bytes() != before


def test_a_step_that_fails_changes_nothing(restarting):
    silo, before = restarting.silo("silo-a"), restarting.path("silo-a").read_bytes()
    with pytest.raises(MessageError):
        silo.share([b"rubbish"])
    assert restarting.path("silo-a").read_bytes() == before
    silo.share([restarting.silo(name).advert() for name in restarting.group.identities])


def test_the_round_of_another_silo_or_session_is_not_resumed(restarting, build):
    group = restarting.group
    other = build(3, identities=group.identities, epoch=2).plan
    path, session = restarting.path("silo-a"), group.plan.session
    for who in (
        restarting.who("silo-b"),
        restarting.who("silo-a") | {"session": other.session},
        restarting.who("silo-a") | {"session": replace(session, run="run-2")},
    ):
        with pytest.raises(KeyFileError, match="refused"):
            MaskRound.resume(keep=path, **who)
    with pytest.raises(KeyFileError, match="no such key file"):
        MaskRound.resume(keep=path.with_name("absent"), **restarting.who("silo-a"))
    with pytest.raises(RosterError, match="another identity key"):
        MaskRound.resume(
            keep=path, **restarting.who("silo-a") | {"identity": group.identities["silo-b"]}
        )


def test_a_round_shows_no_secret_and_is_not_pickled(restarting):
    silo = restarting.silo("silo-a")
    assert repr(silo) == "MaskRound(round=1, name='silo-a', advertised)"
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.dumps(silo)
