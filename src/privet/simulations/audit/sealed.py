"""Were encrypted sums of the silos that history and ledgers name, and of enough of them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from privet.privacy.audit.claims import Claim, judged, unknown
from privet.privacy.audit.replay import encrypted
from privet.privacy.encryption.header import read_header
from privet.simulations.audit.evidence import CHECKPOINT, Evidence
from privet.simulations.audit.lines import Line

_SUM = "sealed.now"


def claims(run: Evidence) -> Iterator[Claim]:
    """That no sum was of other silos, or of fewer, than was said."""
    encryption = run.settings.encryption
    if encryption is None:
        return
    statement = (
        f"Every encrypted sum was of the silos that the history names, {encryption.smallest_sum} "
        "or more."
    )
    faults: list[str] = []
    for line in run.lines[1:]:
        faults += _faults(run, line, least=encryption.smallest_sum)
    known, last = _last_sum(run)
    faults += [known] if known else []
    if not faults and all(run.bill(silo) is None for silo in run.silos):
        why = "no ledger was given to hold the sums against"
        yield unknown("encryption.sums", run.subject, statement, why)
        return
    notes = [last] if last else []
    yield judged("encryption.sums", run.subject, statement, faults=faults, notes=notes)


def _faults(run: Evidence, line: Line, *, least: int) -> Iterator[str]:
    place, count = f"round {line.round}", len(line.participants)
    if count < least and not line.skipped:
        yield f"{place}: a sum of {count}; encryption.smallest_sum = {least}"
    if len(set(line.participants)) < count:
        yield f"{place}: a silo is in the sum twice"
    failed = {failure.silo for failure in line.failures}
    for silo in run.silos:
        bill = run.bill(silo)
        charges = bill.of("training", line.round) if bill else []
        if bill and silo in line.participants and not charges:
            yield f"{place}: {silo} is in the sum, and its ledger has no entry"
        if any(not encrypted(charge.reserve) for charge in charges):
            yield f"{place}: the entry of {silo} says that its update was not encrypted"
        committed = any(not charge.open for charge in charges)
        if committed and silo not in line.participants and silo not in failed:
            yield f"{place}: {silo} committed an update, and the sum is without it"


def _last_sum(run: Evidence) -> tuple[str | None, str | None]:
    """What the last sum in the checkpoint says of itself: a fault, or a remark."""
    clients = _clients(run.folder / CHECKPOINT)
    summed = [line for line in run.lines[1:] if not line.skipped]
    if clients is None or not summed:
        return None, None
    last = summed[-1]
    if clients != tuple(sorted(last.participants)):
        return (
            f"round {last.round}: the sum in the checkpoint is of {', '.join(clients)}, and the "
            f"history names {', '.join(sorted(last.participants))}",
            None,
        )
    return None, f"the sum in the checkpoint names the same {len(clients)} silos as the history"


def _clients(checkpoint: Path) -> tuple[str, ...] | None:
    """Whose uploads the last sum is of; None where it is not there or cannot be read."""
    try:
        with safe_open(checkpoint, framework="np") as file:
            if _SUM not in file.keys():  # noqa: SIM118
                return None
            content = file.get_tensor(_SUM).tobytes()
        return read_header(content)[0].clients if content else None
    except Exception:  # a damaged checkpoint is not part of the record
        return None
