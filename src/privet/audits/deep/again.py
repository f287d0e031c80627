"""The run's experiment once more, here and with canaries: what an audit of that says.

It goes the whole way, from the settings to the last model, through server, silos and ledgers. What
it finds it finds in the code that is installed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from privet.audits import evidence, mechanism, steps
from privet.audits.claims import Claim, judged, unknown
from privet.audits.evidence import POLICY, Evidence
from privet.errors import DataError
from privet.simulations.run import Execution, simulate

_CANARIES = 100
_ROUNDS, _SECONDS = 3, 20.0
"""At most so many rounds, and of long ones fewer."""


def claim_of_another_run(run: Evidence) -> Claim:
    """`mechanism.deep-run`; UNKNOWN, with the reason, where the run cannot be made again."""
    id_ = "mechanism.deep-run"
    rounds = _rounds(run)
    statement = (
        f"The experiment, run again here for {rounds} rounds with {_CANARIES} canary coordinates "
        "in every silo, fails no claim about canaries, steps, dry runs and evaluations."
    )
    try:
        if run.job is not None:
            raise DataError("the run is no simulation: its records are with the silos")
        with TemporaryDirectory() as folder:
            told = list(_claims(run, Path(folder) / "again", rounds))
    except Exception as error:  # the task is somebody's own code, and so are its data
        return unknown(id_, run.subject, statement, f"it cannot be run again: {error}")
    failed = [claim for claim in told if claim.verdict == "FAIL"]
    faults = [f"{claim.id}: {line}" for claim in failed for line in claim.evidence]
    notes = [f"{claim.id}: {claim.verdict}" for claim in told]
    return judged(id_, run.subject, statement, faults=faults, notes=notes)


def _rounds(run: Evidence) -> int:
    took = [line.seconds.total for line in run.lines[1:] if line.seconds.total]
    each = sum(took) / len(took) if took else 1.0
    return max(1, min(_ROUNDS, run.settings.rounds, int(_SECONDS / max(each, 1e-3))))


def _claims(run: Evidence, out: Path, rounds: int) -> Iterator[Claim]:
    policy, warmup = run.folder / POLICY, run.settings.training.warmup
    simulate(
        # Rounds of warmup are fewer than rounds.
        run.settings.with_settings({"rounds": rounds, "training.warmup": min(warmup, rounds - 1)}),
        out=out,
        policy=policy if policy.exists() else None,
        execution=Execution(canaries=_CANARIES),
    )
    own = evidence.read_own(out, subject="again", keys={})
    again = evidence.read_run(out, subject="again", others=(), own=own, policy=None)
    yield from mechanism.claims(again)
    yield from steps.claims(again)
