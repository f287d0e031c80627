"""`privet try`: a whole project on this machine, from its keys to its report, in one command."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from privet.errors import PrivetError

EXPERIMENT = """\
task = "digits"
rounds = 10

[federation]
silos = 3
min_silos = 3

[training]
batch_size = 72
lr = 1.0

[privacy]
epsilon = 4.0
delta = 1e-5
clip = 1.0

[encryption]
scheme = "bfv"

[evaluation]
every = 10
"""


def try_(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/try"),
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep kits, ledgers and logs in this folder. [default: removed]"),
    ] = None,
) -> None:
    """Try a real project on this machine: server and three silos over TLS, and a job on them."""
    if out.exists() and any(out.iterdir()):
        raise PrivetError(f"{out} is not empty; choose another --out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the processes, then this one
    folder = keep or Path(tempfile.mkdtemp(prefix="privet-try-"))
    try:
        _try(folder, out)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _try(folder: Path, out: Path) -> None:
    from privet.job_commands import submit
    from privet.ledger_commands import show
    from privet.trial import ADMIN, BUDGET, Trial

    typer.echo("Provisioning: an authority, a server, three silos, an administrator ...")
    with Trial.create(folder) as trial:
        typer.echo("Starting the server and the silos north, south and west ...")
        trial.start()
        trial.wait_until_online()
        file = folder / "experiment.toml"
        file.write_text(EXPERIMENT, encoding="utf-8")
        submit(file, kit=trial.kit(ADMIN), out=out)
        typer.echo("\nWhat the silos' own ledgers say:")
        for name in trial.silos:
            show(trial.kit(name) / "ledger.sqlite", budget=BUDGET)
        typer.echo("Ending them ...")
