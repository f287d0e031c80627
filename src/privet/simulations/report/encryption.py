"""How updates were encrypted, and the limits of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privet.simulations.pages.formatting import NOTHING, counted, decimal
from privet.simulations.report.run import Run
from privet.simulations.report.sealing import Outcome, Sealing

_SCHEMES = {"bfv": "BFV", "ckks": "CKKS"}
_ROOM = {"default": ("8,000", 16), "compact": ("12,000", 12)}
"""By profile of BFV: about how many values a ciphertext holds, and the bits of each."""
_ROOM_CKKS = "2,000"
_UNKNOWN = "known when a run ends"


@dataclass(frozen=True)
class Fact:
    """A row of the table; `caution` marks a limit that a reader should not miss."""

    name: str
    value: str
    note: str
    caution: bool = False


@dataclass(frozen=True)
class Section:
    """What encryption did here in a few sentences, and its figures."""

    text: str
    facts: tuple[Fact, ...]


def encryption(run: Run) -> Section | None:
    """The section of an encrypted run; None for any other."""
    if run.sealing is None:
        return None
    limit = "epsilon does that" if run.section("privacy") else "that needs noise, and here is none"
    return Section(
        "Silos encrypt their updates under a key that only silos hold; the server adds the "
        "ciphertexts up, and silos open the sum. That hides each update from the server. It does "
        f"not bound what a sum or the model tells about records: {limit}.",
        tuple(_facts(run.sealing, simulated=run.job is None)),
    )


def _facts(sealing: Sealing, *, simulated: bool) -> Iterator[Fact]:
    outcome = sealing.outcome
    yield _scheme(sealing)
    yield _parameters(outcome)
    yield _security(outcome)
    yield _upload(sealing, outcome)
    yield _smallest_sum(sealing)
    yield _keys(sealing, outcome)
    yield _masks(sealing)
    yield _clipped(outcome)
    yield _held_by(outcome, simulated=simulated)


def _scheme(sealing: Sealing) -> Fact:
    name = _SCHEMES.get(sealing.scheme, sealing.scheme)
    if sealing.exact:
        _, bits = _ROOM.get(sealing.profile, _ROOM["default"])
        return Fact("Scheme", name, f"Sums of integers of {bits} bits, exact once opened.")
    return Fact(
        "Scheme",
        name,
        "Approximate. What silos open is rounded before anything else sees it, for at full "
        "precision it would give the key away. The rounding stops the known attack and is no proof "
        "against others: BFV is the scheme for models to be released.",
        caution=True,
    )


def _parameters(outcome: Outcome | None) -> Fact:
    if outcome is None:
        return Fact("Parameters", NOTHING, _UNKNOWN)
    degree, bits = _whole(outcome.degree), _whole(outcome.modulus_bits)
    return Fact("Parameters", f"{bits}-bit modulus", f"Ring degree {degree}.")


def _security(outcome: Outcome | None) -> Fact:
    if outcome is None:
        return Fact("Security level", NOTHING, f"At least 128 bits; {_UNKNOWN}")
    return Fact(
        "Security level",
        f"{_whole(outcome.security_bits)} bits",
        "By the HomomorphicEncryption.org standard. At least 128 is enforced.",
    )


def _upload(sealing: Sealing, outcome: Outcome | None) -> Fact:
    room = _ROOM.get(sealing.profile, _ROOM["default"])[0] if sealing.exact else _ROOM_CKKS
    note = (
        "Unencrypted it would be 4 bytes. A model smaller than one "
        f"ciphertext of about {room} values pays for a whole one."
    )
    sent = outcome.upload_bytes if outcome else None
    value = f"{decimal(sent, digits=1)} bytes a parameter" if sent else NOTHING
    return Fact("Sent by a silo", value, note)


def _smallest_sum(sealing: Sealing) -> Fact:
    note = "Silos refuse to open a sum of fewer."
    if sealing.masks:
        note += f" Masks ask for {sealing.colluding + 2} at least."
    elif sealing.smallest_sum == 2:
        note += " Of a sum of two, either silo can work out the other’s."
    return Fact("Smallest sum", counted(sealing.smallest_sum, "update"), note)


def _keys(sealing: Sealing, outcome: Outcome | None) -> Fact:
    every = sealing.rotate_every
    due = f"every {counted(every, 'round')}, " if every and every > 1 else ""
    due = "every round" if every == 1 else f"{due}when silos change, and after a sum would not open"
    epochs = outcome.epochs if outcome else None
    value = NOTHING if epochs is None else counted(epochs, "epoch")
    return Fact("Keys", value, f"A new key {due}. It serves one epoch, at all silos of it.")


def _masks(sealing: Sealing) -> Fact:
    if not sealing.masks:
        return Fact(
            "Pairwise masks",
            "no",
            "A single silo that sides with the server lets it read every update of the epochs that "
            "the silo takes part in: all silos hold the same key.",
            caution=True,
        )
    many = counted(sealing.colluding, "silo")
    return Fact(
        "Pairwise masks",
        f"yes, withstand {many}",
        f"A server with {many} on its side sees sums only; with more, single updates. A round that "
        "too many silos leave is void.",
    )


def _clipped(outcome: Outcome | None) -> Fact:
    cut = outcome.clipped if outcome else None
    if not cut:
        note = "None was too large for the encoding." if cut == 0 else _UNKNOWN
        return Fact("Values cut off", _whole(cut), note)
    return Fact(
        "Values cut off",
        _whole(cut),
        "They were too large for the encoding, so sums are not those of the updates. A smaller "
        "training.lr may help.",
        caution=True,
    )


def _held_by(outcome: Outcome | None, *, simulated: bool) -> Fact:
    who = f"Who can read it: {(outcome and outcome.held_by) or 'every silo that holds the key'}."
    beside = (
        " The silos of a simulation keep their keys beside this page, in keys/: whoever has this "
        "folder can read all that they can."
    )
    return Fact("The model", "held by silos", who + beside * simulated)


def _whole(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
