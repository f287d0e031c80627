"""A run as one HTML page that loads nothing.

How updates were encrypted, and the limits of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from privet.charts.formatting import (
    NOTHING,
    bound,
    counted,
    decimal,
    duration,
    listed,
    scientific,
    shortened,
    size,
)
from privet.charts.page import CHARTS, Page
from privet.metrics import metric_named, names_in_order
from privet.record.run import LENGTH, Run, Sealing
from privet.record.summary import EncryptionFacts, seconds_in
from privet.reports.run.assumptions import assumptions, checks_sentence
from privet.reports.run.attendance import attendance, failures, is_void, refusals, voids
from privet.reports.run.curves import FEW, epsilon_chart, loss_chart, metric_chart
from privet.reports.run.distribution import distribution
from privet.reports.run.ledger import ledger
from privet.reports.run.observers import evaluation, observers
from privet.reports.run.tested import charts, confusion_table
from privet.reports.run.verdict import (
    alarms,
    begun_with,
    finite_guarantee,
    is_private,
    meaning,
    verdict,
    with_unit,
)

_SCHEMES = {"bfv": "BFV", "ckks": "CKKS"}
_ROOM = {"default": ("8,000", 16), "compact": ("12,000", 12)}
"""By profile of BFV: about how many values a ciphertext holds, and the bits of each."""
_ROOM_CKKS = "2,000"
_UNKNOWN = "known when a run ends"


@dataclass(frozen=True)
class EncryptionFact:
    """A row of the table; `caution` marks a limit that a reader should not miss."""

    name: str
    value: str
    note: str
    caution: bool = False


@dataclass(frozen=True)
class Section:
    """What encryption did here in a few sentences, and its figures."""

    text: str
    facts: tuple[EncryptionFact, ...]


def encryption(run: Run) -> Section | None:
    """The section of an encrypted run; None for any other."""
    if run.sealing is None:
        return None
    limit = "epsilon does that" if run.section("privacy") else "that needs noise, and here is none"
    return Section(
        "Silos encrypt their updates; the server adds the ciphertexts up, and silos open the sum. "
        "That hides each update from the server, which holds no key. It does not bound what a sum "
        f"or the model tells about records: {limit}.",
        tuple(_facts(run.sealing, simulated=run.job is None)),
    )


def _facts(sealing: Sealing, *, simulated: bool) -> Iterator[EncryptionFact]:
    outcome = sealing.outcome
    yield _scheme(sealing)
    yield _parameters(outcome)
    yield _security(outcome)
    yield _upload(sealing, outcome)
    yield _smallest_sum(sealing)
    yield _keys(sealing, outcome)
    yield _masks(sealing)
    if outcome and outcome.clipped is not None:
        yield _clipped(outcome.clipped)
    yield _held_by(outcome, simulated=simulated)


def _scheme(sealing: Sealing) -> EncryptionFact:
    name = _SCHEMES.get(sealing.scheme, sealing.scheme)
    if sealing.exact:
        _, bits = _ROOM.get(sealing.profile, _ROOM["default"])
        return EncryptionFact(
            "Scheme", name, f"Sums of integers of {bits} bits, exact once opened."
        )
    return EncryptionFact(
        "Scheme",
        name,
        "Approximate. What silos open is rounded before anything else sees it, for at full "
        "precision it would give the key away. The rounding stops the known attack and is no proof "
        "against others: BFV is the scheme for models to be released.",
        caution=True,
    )


def _parameters(outcome: EncryptionFacts | None) -> EncryptionFact:
    if outcome is None:
        return EncryptionFact("Parameters", NOTHING, _UNKNOWN)
    degree, bits = _whole(outcome.ring_degree), _whole(outcome.modulus_bits)
    return EncryptionFact("Parameters", f"{bits}-bit modulus", f"Ring degree {degree}.")


def _security(outcome: EncryptionFacts | None) -> EncryptionFact:
    if outcome is None:
        return EncryptionFact("Security level", NOTHING, f"At least 128 bits; {_UNKNOWN}")
    return EncryptionFact(
        "Security level",
        f"{_whole(outcome.security_bits)} bits",
        "By the HomomorphicEncryption.org standard. At least 128 is enforced.",
    )


def _upload(sealing: Sealing, outcome: EncryptionFacts | None) -> EncryptionFact:
    room = _ROOM.get(sealing.profile, _ROOM["default"])[0] if sealing.exact else _ROOM_CKKS
    note = (
        "Unencrypted it would be 4 bytes. A model smaller than one "
        f"ciphertext of about {room} values pays for a whole one."
    )
    sent = outcome.upload_bytes_per_parameter if outcome else None
    value = f"{decimal(sent, digits=1)} bytes a parameter" if sent else NOTHING
    return EncryptionFact("Sent by a silo", value, note)


def _smallest_sum(sealing: Sealing) -> EncryptionFact:
    note = "Silos refuse to open a sum of fewer."
    if sealing.masks:
        note += f" Masks ask for {sealing.colluding + 2} at least."
    elif sealing.smallest_sum == 2:
        note += " Of a sum of two, either silo can work out the other’s."
    return EncryptionFact("Smallest sum", counted(sealing.smallest_sum, "update"), note)


def _keys(sealing: Sealing, outcome: EncryptionFacts | None) -> EncryptionFact:
    every = sealing.rotate_every
    due = f"every {counted(every, 'round')}, " if every and every > 1 else ""
    due = "every round" if every == 1 else f"{due}when silos change, and after a sum would not open"
    epochs = outcome.epochs if outcome else None
    value = NOTHING if epochs is None else counted(epochs, "epoch")
    return EncryptionFact(
        "Keys", value, f"A new key {due}. It serves one epoch, at all silos of it."
    )


def _masks(sealing: Sealing) -> EncryptionFact:
    if not (sealing.masks and sealing.colluding):
        return EncryptionFact(
            "Pairwise masks",
            "yes, withstand no silo" if sealing.masks else "no",
            "A single silo that sides with the server lets it read every update of the rounds that "
            "the silo takes part in.",
            caution=True,
        )
    many = counted(sealing.colluding, "silo")
    return EncryptionFact(
        "Pairwise masks",
        f"yes, withstand {many}",
        f"A server with {many} on its side sees sums only; with more, single updates. A round that "
        "too many silos leave is void.",
    )


def _clipped(cut: int) -> EncryptionFact:
    if not cut:
        note = "None was too large for the encoding."
        return EncryptionFact("Values cut off", _whole(cut), note)
    return EncryptionFact(
        "Values cut off",
        _whole(cut),
        "They were too large for the encoding, so sums are not those of the updates. A smaller "
        "training.lr may help.",
        caution=True,
    )


def _held_by(outcome: EncryptionFacts | None, *, simulated: bool) -> EncryptionFact:
    told = outcome.model_held_by if outcome else None
    who = f"Who can read it: {shortened(told or 'every silo that holds the key', LENGTH)}."
    beside = (
        " The silos of a simulation keep their keys beside this page, in keys/: whoever has this "
        "folder can read all that they can."
    )
    return EncryptionFact("The model", "held by silos", who + beside * simulated)


def _whole(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


_HERE = Path(__file__).parent
_SUMS = ", encrypted from the first sum on; messages about keys and masks not counted"
_UPLOADS = ", encrypted; messages about keys and masks not counted"


_PAGE = Page(_HERE / "report.html.jinja", styles=(_HERE / "report.css",), scripts=(CHARTS,))


class Figure(NamedTuple):
    """A number of the header or of the cost table."""

    name: str
    value: str
    note: str = ""


def render(run: Run) -> str:
    """The whole page."""
    books = ledger(run)
    metric, loss = metric_chart(run), loss_chart(run)
    return _PAGE.render(
        run=run,
        title=f"{run.settings.get('task', 'unnamed task')}",
        subtitle=_subtitle(run),
        verdict=verdict(run),
        begun_with=begun_with(run),
        meaning=meaning(run),
        alarms=alarms(run, books),
        figures=tuple(_headline(run)),
        private=is_private(run),
        guarantee=finite_guarantee(run),
        checks=checks_sentence(run, run.guarantee) if run.guarantee else None,
        metric=metric,
        measured=tuple(_measured(run)),
        tested=charts(run),
        confusion=confusion_table(run),
        loss=loss,
        own_line=any(chart and chart.has("own") for chart in (metric, loss)),
        epsilon=epsilon_chart(run) if finite_guarantee(run) else None,
        few=FEW,
        evaluation=evaluation(run),
        ledger=books,
        distribution=distribution(run),
        attendance=attendance(run),
        failures=failures(run),
        refusals=refusals(run),
        skipped=tuple(
            (entry.round, entry.skipped)
            for entry in run.trained
            if entry.skipped and not is_void(run, entry)
        ),
        voids=voids(run),
        encryption=encryption(run),
        observers=observers(run),
        assumptions=assumptions(run),
        costs=tuple(_costs(run)),
    )


def _subtitle(run: Run) -> str:
    strategy = run.section("strategy").get("name", "fedavg")
    parts = [f"{run.settings['model']} model"] if run.settings.get("model") else []
    if run.silos:
        parts.append(counted(len(run.silos), "silo"))
    parts.append(str(strategy))
    if run.sealing:
        parts.append("encrypted sums")
    if "seed" in run.settings:
        parts.append(f"seed {run.settings['seed']}")
    return " · ".join(parts)


def _headline(run: Run) -> Iterator[Figure]:
    held_out = counted(run.test_records, "held-out record") if run.test_records else ""
    if run.section("validation"):
        held_out = f"{held_out}, round {run.chosen.round:,}" if run.chosen else "for validation"
    metric = run.metric
    if run.value is not None:
        yield Figure(metric.title, with_unit(metric, run.value), held_out)
    elif run.loss is not None:
        yield Figure("Loss", decimal(run.loss), held_out)
    elif run.own_value is not None:
        yield Figure(metric.title, with_unit(metric, run.own_value), "on the silos’ own records")
    promise = finite_guarantee(run)
    if promise:
        yield Figure("Epsilon", f"≤ {bound(promise.max)}", f"at delta {scientific(promise.delta)}")
    else:
        yield Figure("Epsilon", "none", "no privacy guarantee")
    whole = run.finished and run.stopped is None
    yield Figure(
        "Rounds", f"{run.last_round:,}", "" if whole else f"of {run.settings.get('rounds')}"
    )
    if run.silos:
        records = sum(silo.records for silo in run.silos)
        yield Figure("Records", f"{records:,}", f"in {counted(len(run.silos), 'silo')}")


class MeasuredFigure(NamedTuple):
    """A row of all figures."""

    name: str
    value: str
    baseline: str
    """Of one answer for everybody."""
    lower: bool
    """Whether smaller is better."""


def _measured(run: Run) -> Iterator[MeasuredFigure]:
    """Every figure on held-out records, where there are more than the charts above show."""
    found = run.figures
    if found.keys() <= {"accuracy", "loss"}:
        return
    for name in names_in_order(found, run.metric):
        metric = metric_named(name, run.declared)
        without = with_unit(metric, run.baselines[name]) if name in run.baselines else NOTHING
        lower = not metric.higher_is_better
        yield MeasuredFigure(metric.title, with_unit(metric, found[name]), without, lower)


def _costs(run: Run) -> Iterator[Figure]:
    yield Figure("Total time", duration(run.seconds.total))
    sealed = run.sealing is not None
    where = "in the silos" + ", encryption included" * sealed
    yield Figure("Training", duration(run.seconds.training), where)
    yield Figure("Aggregation", duration(run.seconds.aggregation), "on the server")
    if run.seconds.encryption is not None:
        where = "keys, masks and ciphertexts on the server"
        yield Figure("Encryption", duration(run.seconds.encryption), where)
    evaluation = seconds_in("evaluation", run.rounds) or 0.0
    yield Figure("Evaluation", duration(evaluation), "on held-out records")
    if run.computed:
        passes = "bfloat16" if run.computed.precision == "bf16" else run.computed.precision
        yield Figure("Device", run.computed.device, f"forward and backward passes in {passes}")
    if (model := run.model) and model.base:
        everything, digest = model.trained + model.base, (model.base_digest or "")[:12]
        where = f"of {everything:,}; the base, of digest {digest}, did not travel"
        yield Figure("Numbers that train", f"{model.trained:,}", where)
    if model and model.local:
        where = f"each silo has its own and never sends it: {listed(model.local, most=8)}"
        yield Figure("Tensors that stay in their silo", f"{len(model.local):,}", where)
    down = sum(entry.bytes.down for entry in run.rounds)
    up = sum(entry.bytes.up for entry in run.rounds)
    rounds = max(len(run.trained), 1)
    yield Figure("Server to silos", size(down), f"{size(down / rounds)} a round{_SUMS * sealed}")
    yield Figure("Silos to server", size(up), f"{size(up / rounds)} a round{_UPLOADS * sealed}")
    yield Figure("Client updates", f"{run.client_updates:,}")
    if run.client_updates_per_second is not None:
        yield Figure("Client updates per second", f"{run.client_updates_per_second:.3g}")
