"""The ledger of a simulated run: one file, with a data set for each silo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.client.guard import SIMULATED_JOB, LedgerFiles
from privet.privacy.ledger import Ledger, SiloKey, read_history
from privet.record.folder import RunFolder, digests_of
from privet.record.summary import RunSummary, read_summary

LEDGER = "ledger.sqlite"
KEY = "ledger.key"


@contextmanager
def simulated_ledger(folder: Path) -> Iterator[LedgerFiles]:
    """The run folder's ledger, made if there is none, whole and signed when the block ends."""
    files = _ledger_files(folder)
    if not files.key.exists():
        SiloKey.create(files.key)
    if not files.ledger.exists():
        Ledger.create(files.ledger, SiloKey.load(files.key)).close()
    try:
        yield files
    finally:
        files.close_simulated()


def settle(folder: Path) -> None:
    """Leave the ledger as one file again, after something has looked at it.

    SQLite makes two files beside it for every reader, and only a writer takes them away.
    """
    files = _ledger_files(folder)
    if files.ledger.exists() and files.key.exists():
        files.close_simulated()


def sign_files(folder: Path, files: LedgerFiles) -> None:
    """Put the digests of a finished run's files into its ledger, so that later changes are found.

    Of the whole files: what the model's file says of its epsilon is signed for as well.
    """
    with files.open() as ledger:
        ledger.note_files(digests_of(folder), job=SIMULATED_JOB, who="simulation")


def _ledger_files(folder: Path) -> LedgerFiles:
    folder = folder.absolute()
    return LedgerFiles(folder / LEDGER, folder / KEY, simulated=True)


def complete_summary(folder: RunFolder) -> RunSummary:
    """Fill in what the server does not know: a simulation's host may read every silo's ledger."""
    summary = read_summary(folder.path)
    assert summary is not None  # of a finished run
    epsilon = summary.epsilon
    if epsilon is None or epsilon.max is not None:
        return summary
    history, delta = read_history(folder.path / LEDGER), epsilon.delta or 0.0
    per_silo = {
        silo: history.spent(silo, delta=delta) if known is None else known
        for silo, known in epsilon.per_silo.items()
    }
    told = {"max": max(per_silo.values()), "per_silo": per_silo}
    summary = summary.model_copy(update={"epsilon": epsilon.model_copy(update=told)})
    folder.complete_model(epsilon=told["max"])
    folder.save_summary(summary)
    return summary
