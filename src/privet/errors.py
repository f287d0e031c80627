"""What goes wrong because of a setting, a file or a refusal, said in one line.

PrivetError
  ExperimentError   a key, a value or a combination in the experiment file
  DataError         a data set that is missing, unreadable or unfit
  ModelError        a model that cannot be trained under the chosen guarantee
  PrivacyError      a privacy parameter or an accounting question without an answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
