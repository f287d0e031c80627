"""Commands that run until they are stopped: the server, and a silo."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

Kit = Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the startup kit.")]
PIECE = 2 << 20
"""Bytes of the pieces that Flower sends large arrays in. Its own 5 MiB cost the server five copies
of each for every silo that uploads, which together were as much as a model."""

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log a JSON object a line.")]


def server(kit: Kit = Path(), json_logs: JsonLogs = False) -> None:
    """Coordinate a project: serve its silos and its administrators."""
    _send_small_pieces()
    from privet.logs import log_to_stderr
    from privet.parties import ServerKit
    from privet.server.link import serve

    config = ServerKit.from_folder(kit)
    log_to_stderr(as_json=json_logs)
    serve(config, ready=lambda: typer.echo(f"Serving {config.project} at {config.listen}"))


def silo(kit: Kit = Path(), json_logs: JsonLogs = False) -> None:
    """Take part in a project with the data of this machine."""
    _send_small_pieces()
    from privet.client.node import serve
    from privet.logs import log_to_stderr
    from privet.parties import SiloKit

    config = SiloKit.from_folder(kit)
    log_to_stderr(as_json=json_logs)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(config, stop=stop, ready=lambda: typer.echo(f"Silo {config.name} is online"))


def _send_small_pieces() -> None:
    """Before Flower is imported, which reads its setting once."""
    os.environ.setdefault("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", str(PIECE))
