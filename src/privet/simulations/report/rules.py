"""The data holder's policy that every silo of a run kept to: `policy.toml`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from privet.privacy.policy import Policy, PolicyError, explain

POLICY = "policy.toml"


@dataclass(frozen=True)
class Rule:
    """A sentence, and the keys of the file that it is about."""

    text: str
    keys: str


@dataclass(frozen=True)
class Chapter:
    """The rules of one data set; the first chapter is about the file and has no heading."""

    heading: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Rules:
    """A policy in plain words; without one, `problem` says why it cannot be read."""

    policy: Policy | None
    problem: str | None = None

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """What the policy means, data set by data set."""
        return tuple(_chapters(self.policy)) if self.policy else ()

    @property
    def stands_in(self) -> str | None:
        """The only data set that the policy names, whose rules then hold for every silo."""
        names = list(self.policy.data) if self.policy else []
        return names[0] if len(names) == 1 and names != ["*"] else None

    def tells_count(self, silo: str) -> bool:
        """Whether the number of records may leave a silo; yes where nothing is known."""
        if self.policy is None:
            return True
        rules = self.policy.for_everyone().rules(silo)
        return rules is not None and rules.sending.records_public


def read_rules(folder: Path) -> Rules | None:
    """The policy in a run folder; None when the simulation's own was used, which allows all."""
    path = folder / POLICY
    if not path.exists():
        return None
    try:
        return Rules(Policy.from_file(path))
    except PolicyError as error:
        return Rules(None, str(error).replace(str(path), POLICY))


def _chapters(policy: Policy) -> Iterator[Chapter]:
    """Blank lines part the chapters; a line ends with its keys in brackets, a heading does not."""
    lines = [line.replace(policy.source, POLICY) for line in explain(policy)]
    for blank, group in groupby(lines, key=lambda line: not line):
        if not blank:
            chapter = list(group)
            heading = "" if chapter[0].endswith(")") else chapter.pop(0).removesuffix(":")
            heading = "Every data set" if heading and set(policy.data) == {"*"} else heading
            yield Chapter(heading, tuple(map(_rule, chapter)))


def _rule(line: str) -> Rule:
    text, _, keys = line.rpartition(" (")
    return Rule(text, keys.removesuffix(")"))
