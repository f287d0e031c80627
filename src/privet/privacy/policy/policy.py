"""A whole policy: rules by data set."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator

from privet.privacy.policy.judge import (
    Decision,
    Refusal,
    Request,
    budget_limits,
    metric_rules,
    quoted,
    refusals,
)
from privet.privacy.policy.rules import (
    ANY,
    Budget,
    Hours,
    Location,
    Metric,
    PolicyError,
    Rules,
    Sending,
    Training,
    one_line,
)

_SECTIONS: dict[str, type[BaseModel]] = {
    "budget": Budget,
    "training": Training,
    "sending": Sending,
    "hours": Hours,
}


class Policy(BaseModel):
    """What the holder of the data allows. Frozen; made by `from_file` or `permissive`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    data: dict[str, Rules]
    """By name of the data set in the ledger; "*" stands for those that have no rules."""
    _source: str = PrivateAttr("")

    @property
    def source(self) -> str:
        """Where the policy comes from, for people: a path, or that it is a simulation's own."""
        return self._source

    @field_validator("data")
    @classmethod
    def _not_empty(cls, data: dict[str, Rules]) -> dict[str, Rules]:
        if not data:
            raise ValueError("the policy names no data set; add a table [data.NAME]")
        return data

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The policy in a TOML file.

        Raises PolicyError for a file that is absent (with the command that writes one), that
        cannot be read or is not TOML, an unknown key (with the nearest known one), a value out of
        range, and rules that void each other.
        """
        return cls._from_mapping(_read(path), source=str(path))

    @classmethod
    @lru_cache(maxsize=1)
    def permissive(cls) -> Self:
        """Everything is allowed, at any epsilon: for simulations, whose silos are pretended."""
        return cls._from_mapping({"data": {ANY: _EVERYTHING}}, source=_PERMISSIVE)

    def for_everyone(self) -> Self:
        """The policy for simulated silos, which stand in for its holder under names of their own.

        The rules of its only data set then hold for all of them; a policy that names several, or
        "*", is as it was.
        """
        if len(self.data) != 1 or ANY in self.data:
            return self
        (rules,) = self.data.values()
        return self.model_copy(update={"data": {**self.data, ANY: rules}})

    @classmethod
    def _from_mapping(cls, raw: Mapping[str, Any], *, source: str) -> Self:
        try:
            policy = cls.model_validate(dict(raw))
        except ValidationError as error:
            raise PolicyError(f"{source}: {one_line(error, known=_known_keys)}") from None
        policy._source = source
        return policy

    def rules(self, dataset: str) -> Rules | None:
        """The rules of `dataset`, or those of "*", or None: nothing may be done with it."""
        return self.data.get(dataset) or self.data.get(ANY)

    def decide(self, request: Request) -> Decision:
        """Judge `request` by the rules of its data set. Pure: reads no clock, file or ledger.

        What was spent is not known here: `limits` of the answer are for the ledger to keep.
        """
        rules = self.rules(request.dataset)
        if rules is None:
            asked, allowed = quoted(request.dataset), "data sets that the policy names"
            return Decision((Refusal("data", asked, allowed),))
        found = refusals(rules, request)
        # A refusal carries neither limits nor metrics: nothing of it can be acted upon.
        if found:
            return Decision(found)
        return Decision(
            (),
            limits=budget_limits(rules.budget),
            metrics=metric_rules(rules, request.metrics),
            records_public=rules.sending.records_public,
        )


_PERMISSIVE = "a simulation's own policy, which allows everything"
_EVERYTHING: dict[str, Any] = {
    "requesters": [ANY],
    "tasks": [ANY],
    "code": [ANY],
    "budget": {"epsilon": float("inf"), "delta": 1e-5},
    "training": {
        "plain": True,
        "units": ["record", "client"],
        "mechanisms": ["dp-sgd", "gaussian"],
    },
    "sending": {"records_public": True},
    "metrics": {ANY: {"release": "exact"}},
}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(
            f"no policy at {path}, so nothing may run; write a starting one with: "
            f"privet policy init {path}"
        ) from None
    except OSError as error:
        raise PolicyError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} is not a TOML file: {error}") from None


def _known_keys(location: Location) -> list[str]:
    table: type[BaseModel] = Policy
    match location:
        case ("data", _, "metrics", _, _):
            table = Metric
        case ("data", _, str(section), _):
            table = _SECTIONS[section]
        case ("data", _, _):
            table = Rules
    return list(table.model_fields)
