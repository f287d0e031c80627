"""What goes wrong because of a setting, a file or a refusal, said in one line.

PrivetError
  ExperimentError   a key, a value or a combination in the experiment file
  DataError         a data set that is missing, unreadable or unfit
  ModelError        a model that cannot be trained under the chosen guarantee
  PrivacyError      a privacy parameter or an accounting question without an answer
"""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path


class PrivetError(Exception):
    """A mistake that the reader of the message can mend; a command then exits with 2."""


class ExperimentError(PrivetError):
    """An unknown key, a value outside its range, or settings that exclude each other."""


class DataError(PrivetError):
    """A data set that is missing, unreadable or unfit for the task."""


class ModelError(PrivetError):
    """A model that would void the guarantee or that does not fit the task."""


class PrivacyError(PrivetError):
    """A privacy parameter out of range, or accountants that do not agree."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'fedavg'?", or nothing when no name is close.

    >>> nearest("fedagv", ["fedavg", "krum"])
    " Did you mean 'fedavg'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def words_of(error: BaseException) -> str:
    """Kind and first line of an error, and its last place in code that is no library's.

    Where a task's own code fails, that is the line to look at, and not fifteen of ours.
    """
    lines = str(error).splitlines() or [""]
    place = own_place(error)
    return f"{type(error).__name__}: {lines[0]}{f' ({place})' if place else ''}"


def own_place(error: BaseException) -> str | None:
    """ "file:line: text" of the last code that an error went through and that is no library's.

    None where it went through none: the error is ours.
    """
    own = [f for f in traceback.extract_tb(error.__traceback__) if not _of_library(f.filename)]
    if not own:
        return None
    file, here = Path(own[-1].filename), Path.cwd()
    shown = file.relative_to(here) if file.is_relative_to(here) else file
    return f"{shown}:{own[-1].lineno}: {own[-1].line or ''}".rstrip(": ")


def _of_library(file: str) -> bool:
    if {"site-packages", "dist-packages"} & {*Path(file).parts} or file.startswith("<"):
        return True
    return file.startswith((str(Path(__file__).parent), sysconfig.get_path("stdlib")))
