"""What a silo says when it does not do what it was asked: a code from a closed list, no free text.

The text of an error may quote a record, a path or a count, and nobody can read every text that a
task, a library or a job may raise. So none leaves a real silo: stage and code do, the names of
settings and rules, and a reference under which the silo's own log holds the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from privet.privacy.encryption.keys.roster import name_like

REFUSED = "guard"
"""The stage at which a silo fails when its holder's rules do not allow what was asked."""
WAITING = "approval"
"""The stage at which a silo fails whose holder has not decided yet whether the job may run."""
UNUSABLE = "update"
"""The stage at which a silo fails whose reply came and cannot be used."""

STAGES = frozenset(
    {
        "app",
        "data",
        "decrypt",
        "dropout",
        "evaluate",
        "keys",
        "message",
        "plan",
        "restart",
        "schema",
        "settings",
        "train",
        "worker",
        REFUSED,
        WAITING,
    }
)
"""Where a silo can fail by its own account."""

CODES: Mapping[str, str] = MappingProxyType(
    {
        "base": "what it loads of the model and never sends is not the server's",
        "approval": "waiting for its data holder's approval",
        "budget": "the data holder's budget does not allow it",
        "code": "code that is not privet's raised an error",
        "data": "the silo's records could not be used",
        "encryption": "keys or encrypted values could not be used",
        "ledger": "the silo's ledger cannot be believed or written",
        "message": "the message makes no sense",
        "model": "the model or its loss cannot be trained under the guarantee",
        "order": "no administrator's order that the silo believes",
        "policy": "the data holder's policy does not allow it",
        "privacy": "a privacy setting cannot be met",
        "refused": "the silo answers no more until its data holder says otherwise",
        "restarted": "the silo was restarted while it worked on this",
        "schema": "the data set is not as the job expects it",
        "ended": "the job was cancelled, or its data holder refused it",
        "terms": "the job's order has ended, or allows this round no more",
        "settings": "a setting cannot be met here",
        "setup": "the silo lacks a policy, a ledger, a key or the name of its data set",
        "worker": "the process that worked on it ended, or was too late",
    }
)
"""Every reason that a silo can give, and what it says to people."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*){0,3}")
_REFERENCE = re.compile(r"[0-9a-f]{8}")
_MOST_NAMES, _LONGEST_NAME = 16, 60
_LONGEST_LINE = 2000


@dataclass(frozen=True)
class ErrorReply:
    """A silo's answer that something did not work, carried in the reason of a Flower error.

    ValueError for a stage or code that is none of `STAGES` and `CODES`, and for names and a
    reference that could hold anything else than that.
    """

    stage: str
    code: str
    names: tuple[str, ...] = ()
    """Settings of the job and rules of the policy that it is about, as they are written."""
    reference: str = ""
    """Eight random hexadecimal digits, beside which the silo's log says what happened."""
    text: str | None = None
    """The error's own words. Leaves simulated silos only: whoever runs them has the records."""
    silo: str = ""
    """The other silo whose message it is about: shares of a mask that do not open."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES or self.code not in CODES:
            raise ValueError(f"stage {self.stage!r} and code {self.code!r}")
        if not all(map(is_setting, self.names)) or len(self.names) > _MOST_NAMES:
            raise ValueError("names that are no settings")
        if self.reference and not _REFERENCE.fullmatch(self.reference):
            raise ValueError("a reference that is none")
        if self.silo and not name_like(self.silo):
            raise ValueError("a silo's name that is none")

    def __str__(self) -> str:
        told: dict[str, Any] = {"stage": self.stage, "code": self.code, "names": list(self.names)}
        told["reference"] = self.reference
        if self.silo:
            told["silo"] = self.silo
        if self.text is not None:
            told["text"] = self.text
        return json.dumps(told)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `str`; ValueError for whatever else a peer may send."""
        try:
            told = json.loads(text)
            names, words = told["names"], told.get("text")
            silo = told.get("silo", "")
            strings = [told["stage"], told["code"], told["reference"], silo, *names]
            if isinstance(names, list) and all(isinstance(each, str) for each in strings):
                words = words if isinstance(words, str) else None
                stage, code, reference = strings[:3]
                return cls(stage, code, tuple(names), reference, words, silo)
        except (KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise ValueError("no error reply of a silo")

    @property
    def words(self) -> str:
        """What people are shown."""
        if self.text is not None:
            return self.text
        said = CODES[self.code]
        return f"{said}: {', '.join(self.names)}" if self.names else said


@dataclass(frozen=True)
class Failure:
    """Why the server goes on without a silo's answer, by the silo's account or by its own.

    Stage and reason are a line each, whatever a peer sent: they are shown to people as they are.
    """

    silo: str
    stage: str
    reason: str
    reference: str = ""
    """What the silo's own log says more is found by it; empty where it is the server that says."""
    about: str = ""
    """Another silo, whose message this one could not use."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", _line(self.stage))
        object.__setattr__(self, "reason", _line(self.reason))

    @property
    def told(self) -> str:
        """The reason, and where more is to be found."""
        more = f" (the log of {self.silo} says more at {self.reference})"
        return self.reason + (more if self.reference else "")

    @classmethod
    def parse(cls, text: str | None, *, silo: str) -> Failure:
        """From an error's reason; an error of Flower's own becomes stage "transport".

        The silo is not named in the text: whose message it is, the transport knows.
        """
        try:
            told = ErrorReply.parse(text or "")
        except ValueError:
            return cls(silo, "transport", text or "no reason given")
        return cls(silo, told.stage, told.words, told.reference, told.silo)


def is_setting(name: str) -> bool:
    """Whether it is written as settings of a job and rules of a policy are."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:_LONGEST_LINE])
