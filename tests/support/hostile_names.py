"""A data folder with ways out of it, a thousand names that try them, and what is opened meanwhile.

What lies outside holds `CANARY` and is a table like any other: it would be read if it were reached.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CANARY = "canary-7c1f"
_ROWS = [
    f"{20 + i},{'north' if i % 2 else 'south'},{'home' if i % 3 else 'died'}" for i in range(80)
]
TABLE = "\n".join(["age,ward,outcome", f"21,{CANARY},home", *_ROWS]) + "\n"
_watched: list[set[str]] = []
_hooked = threading.Event()


def data_folder(folder: Path) -> Path:
    """`folder`/data, with a table in it and everything that leads out."""
    data = folder / "data"
    (data / "sub").mkdir(parents=True)
    (data / "stays.csv").write_text(TABLE)
    outside = folder / "outside"
    outside.mkdir()
    fill_outside(folder)
    (data / "link.csv").symlink_to(outside / "secret.csv")
    (data / "relative.csv").symlink_to("../outside/secret.csv")
    (data / "chain.csv").symlink_to("link.csv")
    (data / "way").symlink_to(outside)
    (data / "sub" / "up").symlink_to("../..")
    (data / "self").symlink_to("self")
    (data / "root").symlink_to("/")
    (data / "zero").symlink_to("/dev/zero")
    (data / "environ").symlink_to("/proc/self/environ")
    os.mkfifo(data / "fifo.csv")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(data)  # a socket's path must be short
        try:
            server.bind("socket.csv")
        finally:
            os.chdir(here)
    return data


def fill_outside(folder: Path) -> None:
    for name in ("outside/secret.csv", "secret.csv", "outside/secret.csv.gz"):
        (folder / name).write_text(TABLE)


def empty_outside(folder: Path) -> None:
    for name in ("outside/secret.csv", "secret.csv", "outside/secret.csv.gz"):
        (folder / name).unlink()


def names(folder: Path) -> list[str]:
    """A thousand and more, none of which is a file of the data folder."""
    out = folder / "outside" / "secret.csv"
    roots = [
        str(out), f"/{out}", f"//{out}", f"file://{out}", f"/proc/self/root{out}", f"~/{out}",
        "~/secret.csv", "~root/secret.csv", "../secret.csv", "../outside/secret.csv",
        "../../outside/secret.csv", "../data/../secret.csv", "sub/../../secret.csv",
        "sub/../stays.csv", "../data/stays.csv", "link.csv", "relative.csv", "chain.csv",
        "way/secret.csv", "way/../secret.csv", "sub/up/secret.csv",
        "sub/up/outside/secret.csv", "sub/up/data/none.csv", "self", "self/secret.csv",
        f"root{out}", "zero", "environ",
        "fifo.csv", "socket.csv", "sub", "way", ".", "..", "/", "", "~", "/dev/zero", "/dev/stdin",
        "/dev/fd/0", "/proc/self/environ", "/proc/self/fd/0", "/etc/passwd", "stays.csv/",
        "stays.csv/.", "stays.csv/..", "none.csv", "C:\\secret.csv", "C:secret.csv",
        "..\\secret.csv",
        "\\\\host\\share\\secret.csv", "\\\\?\\C:\\secret.csv", "//host/share/secret.csv", "NUL",
        "CON", "LPT1.csv", "stays.csv:stream", "stays.csv::$DATA", "PROGRA~1/secret.csv",
        "%2e%2e/secret.csv", "..%2fsecret.csv", "..%00/secret.csv", "$HOME/secret.csv",
        "${PWD}/../secret.csv", "`ls`", "*", "**/*.csv", "../*.csv", "{..,x}/secret.csv",
        "．．/secret.csv", "．．／secret.csv", "‥/secret.csv", "..∕secret.csv", "..⁄secret.csv",
        "..\u2215secret.csv", "\u202e../secret.csv", ".\u200b./secret.csv", ".\u0307./secret.csv",
        "\ufeff../secret.csv", "\xad../secret.csv", "..\u0338/secret.csv", "\uff5e/secret.csv",
        "\udc2e\udc2e/secret.csv", "stays.csv\0", "\0", "stays.csv\0/../../secret.csv",
        "../secret.csv\0.csv", "stays.csv\n", "\nstays.csv", "\t../secret.csv", "../secret.csv\r",
        " ../secret.csv", ".. /secret.csv", " /etc/passwd", "x" * 300, "x" * 5000, "x/" * 3000,
        "../" * 2000 + "secret.csv", "sub/" + "up/" * 60 + "secret.csv", "way/" * 50 + "secret.csv",
    ]  # fmt: skip
    forms = [
        *roots,
        *(f"./{name}" for name in roots),
        *(f"sub/../{name}" for name in roots),
        *(f"sub/{name}" for name in roots),
        *(f"{name}.gz" for name in roots),
        *(f"{name}/" for name in roots),
        *(f"{name}\0" for name in roots),
        *(name.replace("/", "//") for name in roots),
        *(name.replace("/", "/./") for name in roots),
        *(name.replace("/", "\\") for name in roots),
        *(f"way/{name}" for name in roots),
        *(name.upper() for name in roots),
    ]
    return sorted({*forms})


@contextmanager
def opened() -> Iterator[set[str]]:
    """Every path that this process opens, or lists, within the block."""
    if not _hooked.is_set():
        _hooked.set()
        sys.addaudithook(_seen)
    found: set[str] = set()
    _watched.append(found)
    try:
        yield found
    finally:
        _watched.remove(found)


def _seen(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir"):
        for found in _watched:
            found.add(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else "")
