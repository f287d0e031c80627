"""What left the silos besides the model: every field of their messages, counted as they came.

What each of them is stands in privet.wire.answers, by which the silos' own door knows it. The
server counts the fields of each reply before it looks at them, so what is listed here is what
arrived and not what the code says. Enrolment, keys and masks are not counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from flwr.app import MessageType

from privet.audits.claims import Claim, judged, unknown
from privet.audits.evidence import Evidence
from privet.record.history import RoundRecord, SiloEvaluation
from privet.wire.answers import PLAIN, PRIVACY, SCORES, Protection, fields_at

_MODEL, _UPDATE, _SEALED = "update.", "update.update", "sealed-update.upload"


@dataclass(frozen=True)
class ReleasedField:
    """A field of a silo's messages: in how many of them it came, and what protects it."""

    subject: str
    """The run."""
    silo: str
    occasion: str
    """"training" or "evaluation"."""
    field: str
    messages: int
    protection: str
    protected: bool
    """Noised and counted in epsilon, encrypted, or saying nothing about records."""


def leaks(run: Evidence) -> list[ReleasedField]:
    """Everything that was counted, by silo; empty where nothing was."""
    found: Counter[tuple[str, str, str]] = Counter()
    ways: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in run.lines:
        found.update((s, "training", field) for s, field in _fields(line.arrived))
        if line.evaluation:
            found.update((s, "evaluation", f) for s, f in _fields(line.evaluation.arrived))
            for silo, released in line.evaluation.released.items():
                for name, how in released.items():
                    ways[silo, name].add(how)
    return [
        ReleasedField(run.subject, *place, count, *_protection(run, *place, ways))
        for place, count in sorted(found.items())
    ]


def claims(run: Evidence) -> Iterator[Claim]:
    """That everything that left is known, and only what may leave without protection has none."""
    statement = "Everything that left the silos is listed, and is of a kind that is known."
    if any(line.arrived is None for line in run.lines):
        why = "the history was written by a version that did not count what arrived"
        yield unknown("leaks.listed", run.subject, statement, why)
        return
    faults = [fault for line in run.lines[1:] for fault in _faults(run, line)]
    faults += _uneven(run)
    listed = leaks(run)
    faults += [f"{each.silo}: {each.field}: {each.protection}" for each in listed if _strange(each)]
    bare = sorted({f"{e.occasion}: {e.field} ({e.protection})" for e in listed if not e.protected})
    notes = [f"without noise or encryption: {each}" for each in bare]
    yield judged("leaks.listed", run.subject, statement, faults=faults, notes=notes)


def _fields(arrived: dict[str, dict[str, int]] | None) -> Iterator[tuple[str, str]]:
    for silo, fields in (arrived or {}).items():
        for field in fields:
            yield silo, field


_UNKNOWN = "nobody knows what this is"
_LOSS = "a training loss, exactly"
_KINDS = {"training": MessageType.TRAIN, "evaluation": MessageType.EVALUATE}
_SEEN_BEFORE = {
    "metrics.seconds": "how long the silo took, exactly",
    "sealed.clipped": "how many values the encoding cut off, exactly",
}
"""What silos of earlier versions sent, too."""


def _protection(
    run: Evidence,
    silo: str,
    occasion: str,
    field: str,
    ways: dict[tuple[str, str], set[str]],
) -> tuple[str, bool]:
    if field == "error":
        return "that something failed, as a code", False
    if field in _SEEN_BEFORE:
        return _SEEN_BEFORE[field], False
    known = fields_at(_KINDS[occasion], field)
    if occasion == "evaluation" and (field.startswith("metrics.") or field == f"{SCORES}.counts"):
        name = SCORES if field.startswith(SCORES) else field.partition(".")[2]
        how = ways.get((silo, name), set())
        text = " or ".join(sorted(how)) or _UNKNOWN
        return ("noised, in epsilon", True) if how == {"noised"} else (text, False)
    if field.startswith(_MODEL):
        grant = PRIVACY if run.settings.privacy is not None else PLAIN
        known = tuple(each for each in known if grant in each.grants)
    if not known:
        return _UNKNOWN, False
    return f"{known[0].says}: {_HOW[known[0].protection]}", known[0].protection != "exact"


_HOW: dict[Protection, str] = {
    "noised": "noised, in epsilon",
    "encrypted": "only sums are opened",
    "exact": "exactly, unprotected",
    "none needed": "says nothing of records",
}


def _strange(left: ReleasedField) -> bool:
    return left.protection == _UNKNOWN


def _faults(run: Evidence, line: RoundRecord) -> Iterator[str]:
    place, arrived = f"round {line.round}", line.arrived or {}
    for silo in line.participants:
        if not {_UPDATE, _SEALED}.intersection(arrived.get(silo, ())):
            yield f"{place}: {silo} took part, and no update of it was counted"
    for silo, event in (line.events or {}).items():
        if (event is not None) != ("privacy.event" in arrived.get(silo, {})):
            yield f"{place}: {silo}: its mechanism was not counted as it is told"
    guarded = run.settings.privacy is not None or run.settings.encryption is not None
    for silo, fields in arrived.items():
        if silo not in run.silos:
            yield f"{place}: {silo} is no silo of the run"
        if guarded and "metrics.loss" in fields:
            yield f"{place}: {silo} sent {_LOSS}, beside an update that is protected"
        if run.settings.encryption and any(f.startswith(_MODEL) for f in fields):
            yield f"{place}: {silo} sent its update in the clear"
        if "error" in fields and silo not in {*line.refused, *(f.silo for f in line.failures)}:
            yield f"{place}: {silo} sent an error that is not told"
    if line.evaluation:
        yield from _evaluation_faults(f"{place}, evaluation", line.evaluation)


def _evaluation_faults(place: str, measured: SiloEvaluation) -> Iterator[str]:
    """Values, how they were released, and what arrived must be of the same metrics."""
    arrived = measured.arrived or {}
    silos = {*measured.released, *measured.per_silo}
    for silo in sorted(silos):
        released = measured.released.get(silo, {})
        values = set(measured.per_silo.get(silo, {}))
        fields = {f.partition(".")[2] for f in arrived.get(silo, {}) if f.startswith("metrics.")}
        named = {f.partition(".")[2] for f in arrived.get(silo, {}) if f.startswith("released.")}
        left = {name for name, how in released.items() if how != "withheld"}
        counted = f"{SCORES}.counts" in arrived.get(silo, {})
        if not (values == fields == left - {SCORES} and named == set(released)) or (
            counted != (SCORES in left)
        ):
            yield f"{place}: {silo}: metrics, how they left and what was counted differ"
        if not set(released.values()) <= {"exact", "noised", "withheld"}:
            yield f"{place}: {silo}: no way for a metric to leave"
        noised = "noised" in released.values()
        if noised != (silo in measured.events):
            yield f"{place}: {silo}: metrics left with noise, and none is counted, or the reverse"
    for silo in sorted(set(arrived) - silos):
        if "error" not in arrived[silo] and silo not in {f.silo for f in measured.failures}:
            yield f"{place}: {silo}: what it sent is not told"


def _uneven(run: Evidence) -> Iterator[str]:
    """What was used: updates in the clear are of one shape, other fields hold one value."""
    lengths: dict[tuple[str, str], set[int]] = defaultdict(set)
    shapes: set[frozenset[str]] = set()
    for line in run.lines:
        measured = line.evaluation
        for use, arrived, used in (
            ("training", line.arrived, set(line.participants)),
            (
                "evaluation",
                measured and measured.arrived,
                set(measured.released if measured else ()),
            ),
        ):
            for silo in used.intersection(arrived or ()):
                if use == "training":
                    shapes.add(frozenset(f for f in (arrived or {})[silo] if f.startswith(_MODEL)))
                for field, count in (arrived or {})[silo].items():
                    lengths[use, field].add(count)
    if len(shapes) > 1:
        yield f"updates came with different parts: {sorted(set().union(*shapes))}"
    for (use, field), counts in sorted(lengths.items()):
        if field == _SEALED:
            continue
        evaluation = run.settings.evaluation
        bins = evaluation.score_bins if evaluation else None
        fits = {2 * (bins or 0)} if field == f"{SCORES}.counts" else {1}
        if len(counts) > 1 or (not field.startswith(_MODEL) and counts != fits):
            yield f"{use}: {field}: messages hold different numbers of values"
