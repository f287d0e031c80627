"""Letters between holders of the run key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privet.privacy.encryption.keys import Direction, KeysError, Label, MessageError, open_, seal

LABEL = Label(round=3, sender="bob", direction=Direction.UP, subject="reveal")


def test_every_holder_reads_what_one_sealed(federation):
    sealed = seal(b"side information", key=federation.key, label=LABEL)
    assert open_(sealed, key=federation.key, label=LABEL) == b"side information"
    assert b"side information" not in sealed
    assert open_(seal(b"", key=federation.key, label=LABEL), key=federation.key, label=LABEL) == b""


def test_sealing_twice_looks_different(federation):
    assert len({seal(b"same", key=federation.key, label=LABEL) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "changes",
    [{"round": 4}, {"sender": "cleo"}, {"direction": Direction.DOWN}, {"subject": "other"}],
)
def test_a_letter_opens_under_its_own_label_only(federation, changes):
    sealed = seal(b"letter", key=federation.key, label=LABEL)
    with pytest.raises(MessageError, match="cannot be opened"):
        open_(sealed, key=federation.key, label=replace(LABEL, **changes))


def test_a_letter_of_another_epoch_run_or_key_does_not_open(federation, build):
    sealed = seal(b"letter", key=federation.key, label=LABEL)
    same_secrets = {"container": federation.key.container, "transport": federation.key.transport}
    for changes in ({"epoch": 2}, {"run": "run-2"}, {}):
        other = build(identities=federation.identities, **changes)
        keys = [other.key]
        if changes:
            # The same transport key by accident: the label's session alone must keep them apart.
            keys.append(replace(other.key, **same_secrets))
        for key in keys:
            with pytest.raises(MessageError, match="cannot be opened"):
                open_(sealed, key=key, label=LABEL)


def test_a_sender_is_a_member(federation):
    with pytest.raises(KeysError, match="'eve' is not a member"):
        seal(b"", key=federation.key, label=replace(LABEL, sender="eve"))


@pytest.mark.parametrize("changes", [{"round": -1}, {"subject": "two words"}, {"subject": ""}])
def test_a_label_is_plain(changes):
    with pytest.raises(KeysError):
        replace(LABEL, **changes)


def test_a_subkey_depends_on_its_purpose_and_session(federation, build):
    other = build(identities=federation.identities, epoch=2)
    moved = replace(other.key, transport=federation.key.transport)
    keys = [federation.key.subkey("tags"), federation.key.subkey("more"), moved.subkey("tags")]
    assert federation.key.subkey("tags") == keys[0]
    assert len({key.reveal() for key in keys} | {federation.key.transport.reveal()}) == 4
