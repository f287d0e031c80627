"""The command that opens a server's live page."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from privet.job_commands import Kit


def page(
    kit: Kit = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the link and open no browser.")
    ] = False,
) -> None:
    """Open the server's live page: silos, jobs and their curves. The link works once."""
    from privet.parties import AdminKit
    from privet.remote import Desk

    config = AdminKit.from_folder(kit or Path(os.environ.get("PRIVET_KIT", ".")))
    with Desk(config) as desk:
        link = desk.page()
    typer.echo(link)
    typer.echo(
        f"Good once, within two minutes. The browser must trust {config.ca}; "
        "the page closes after an hour.",
        err=True,
    )
    if not no_open:
        webbrowser.open(link)
