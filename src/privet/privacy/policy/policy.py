"""A policy, a request, and the decision: one function for each rule, in the order of the file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator

from privet.privacy.policy.rules import (
    ANY,
    Budget,
    Hours,
    Location,
    MetricRelease,
    PolicyError,
    Rules,
    Sending,
    Training,
    one_line,
)

Scope = Literal["dataset", "job", "month", "requester"]
Kind = Literal["train", "evaluate", "query", "open"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One use of a data set, as it is meant to happen; made before a record is read.

    dataset: its name in the ledger. task, requester, job: names as the job gives them.
    code_hash: SHA-256 of the task's code, "sha256:" and 64 hexadecimal digits or these alone.
    kind: "train"; "evaluate", whose noise is the policy's own; "query", judged as training is; or
        "open", before a task's code is loaded, when no use of the records is known yet.
    unit, mechanism, noise_multiplier, sampling_rate, clip: of the mechanism; None without one. A
        sampling rate that is not given counts as 1.
    silos_in_sum: silos whose updates are added before anyone sees the sum; None: not known.
    uncovered_preprocessing: whether one record may move the inputs or the use of others.
    metrics: names of what an evaluation would like to send.
    until: when the job's order ends, with a time zone; None: the job has no order.
    at: now, with a time zone; a ValueError without.
    """

    dataset: str
    task: str
    requester: str
    job: str
    kind: Kind
    at: datetime
    code_hash: str | None = None
    unit: str | None = None
    mechanism: str | None = None
    noise_multiplier: float | None = None
    sampling_rate: float | None = None
    clip: float | None = None
    encrypted: bool = False
    silos_in_sum: int | None = None
    uncovered_preprocessing: bool = False
    metrics: tuple[str, ...] = ()
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.at.utcoffset() is None:
            raise ValueError("Request.at needs a time zone")
        if self.kind not in get_args(Kind):
            raise ValueError(f"Request.kind = {self.kind!r}: it is {', '.join(get_args(Kind))}")


@dataclass(frozen=True)
class Refusal:
    """One rule that a request breaks. Safe to send: nothing here follows from the records."""

    limit: str
    """Key of the rule in the policy file, such as "training.smallest_noise_multiplier"."""
    asked: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.limit}: asked for {self.asked}; allowed: {self.allowed}"


@dataclass(frozen=True)
class BudgetLimit:
    """Largest `epsilon` at `delta`, over what `scope` takes together."""

    scope: Scope
    epsilon: float
    delta: float


@dataclass(frozen=True)
class MetricRule:
    """How the metric `name` may be released; `noise_multiplier` only with "noised"."""

    name: str
    release: Literal["withheld", "noised", "exact"]
    noise_multiplier: float | None = None


@dataclass(frozen=True)
class Decision:
    """The answer to a request; a refusal grants nothing and has no limits.

    limits: finite ones, for the ledger to keep; the policy does not know what was spent.
    metrics: a rule for every metric that was asked for, by name.
    records_public: whether the number of records may be sent, as such or within another figure.
    attempts: most uses of the records for one round of a job, for the ledger to keep.
    approval: whether a person must have let the job in, which the ledger knows.
    """

    refusals: tuple[Refusal, ...]
    limits: tuple[BudgetLimit, ...] = ()
    metrics: tuple[MetricRule, ...] = ()
    records_public: bool = False
    attempts: int = 0
    approval: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the policy has nothing against it."""
        return not self.refusals

    @property
    def reason(self) -> str:
        """All refusals in one line; empty when there are none."""
        return "; ".join(map(str, self.refusals))


Rule = Callable[[Rules, Request], Iterator[Refusal]]

_LONGEST = 80


def refusals(rules: Rules, request: Request) -> tuple[Refusal, ...]:
    """Everything in `request` that `rules` do not allow."""
    return tuple(refusal for rule in _RULES for refusal in rule(rules, request))


def budget_limits(budget: Budget) -> tuple[BudgetLimit, ...]:
    """The limits that can be reached, from the whole life down to one requester."""
    epsilons: tuple[tuple[Scope, float | None], ...] = (
        ("dataset", budget.epsilon),
        ("job", budget.epsilon_per_job),
        ("month", budget.epsilon_per_month),
        ("requester", budget.epsilon_per_requester),
    )
    return tuple(
        BudgetLimit(scope=scope, epsilon=epsilon, delta=budget.delta)
        for scope, epsilon in epsilons
        if epsilon is not None and epsilon < math.inf
    )


def metric_rules(rules: Rules, names: Sequence[str]) -> tuple[MetricRule, ...]:
    """A rule for each of `names`, sorted by name."""
    chosen = ((name, rules.metric(name)) for name in sorted(set(names)))
    return tuple(MetricRule(name, rule.release, rule.noise_multiplier) for name, rule in chosen)


def quoted(text: str) -> str:
    """A name from outside: printable, and not long enough to hide the rest of a line."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _requester(rules: Rules, request: Request) -> Iterator[Refusal]:
    if not _listed(request.requester, rules.requesters):
        yield Refusal("requesters", quoted(request.requester), "those whom the policy names")


def _task(rules: Rules, request: Request) -> Iterator[Refusal]:
    code = _normal(request.code_hash)
    own = ":" in request.task
    by_name = not own and _listed(request.task, rules.tasks)
    by_code = ANY in rules.code or (code is not None and code in rules.code)
    # Names admit built-in tasks only; code from outside is admitted by its hash, whatever its name.
    if by_name or by_code:
        return
    if own:
        asked = f"{quoted(request.task)} with code {quoted(code) if code else 'of no known hash'}"
        yield Refusal("code", asked, "code whose hash the policy names")
    else:
        yield Refusal("tasks", quoted(request.task), _joined(rules.tasks))


def _plain(rules: Rules, request: Request) -> Iterator[Refusal]:
    if _uses_records(request) and not _private(request) and not rules.training.plain:
        asked = "no differential privacy"
        yield Refusal("training.plain", asked, "only a mechanism with noise and a finite clip norm")


def _unit(rules: Rules, request: Request) -> Iterator[Refusal]:
    if _private(request) and request.unit not in rules.training.units:
        yield Refusal("training.units", quoted(str(request.unit)), _joined(rules.training.units))


def _mechanism(rules: Rules, request: Request) -> Iterator[Refusal]:
    if _private(request) and request.mechanism not in rules.training.mechanisms:
        allowed = _joined(rules.training.mechanisms)
        yield Refusal("training.mechanisms", quoted(str(request.mechanism)), allowed)


def _noise(rules: Rules, request: Request) -> Iterator[Refusal]:
    least = rules.training.smallest_noise_multiplier
    # `not >=`, since a NaN must be refused.
    if _private(request) and not (request.noise_multiplier or 0.0) >= least:
        asked = _figure(rules, request.noise_multiplier, "less")
        yield Refusal("training.smallest_noise_multiplier", asked, f"{least:g} or more")


def _sampling(rules: Rules, request: Request) -> Iterator[Refusal]:
    if not _private(request):
        return
    low, high = rules.training.smallest_sampling_rate, rules.training.largest_sampling_rate
    # A mechanism that names no rate is taken to see every record in every step.
    rate = 1.0 if request.sampling_rate is None else request.sampling_rate
    if not 0 < rate <= high:
        asked = _figure(rules, rate, "another rate")
        yield Refusal("training.largest_sampling_rate", asked, f"above 0, up to {high:g}")
    elif rate < low:
        asked = _figure(rules, rate, "less")
        yield Refusal("training.smallest_sampling_rate", asked, f"{low:g} or more")


def _preprocessing(rules: Rules, request: Request) -> Iterator[Refusal]:
    if request.uncovered_preprocessing and not rules.training.uncovered_preprocessing:
        yield Refusal(
            "training.uncovered_preprocessing",
            "inputs that depend on other records",
            "each record's inputs from itself and constants",
        )


def _encryption(rules: Rules, request: Request) -> Iterator[Refusal]:
    if rules.sending.encryption_required and not request.encrypted:
        yield Refusal("sending.encryption_required", "updates in the clear", "encrypted updates")


def _sum(rules: Rules, request: Request) -> Iterator[Refusal]:
    least, silos = rules.sending.smallest_sum, request.silos_in_sum
    # In the clear the server sees single updates, which is a sum of one.
    if least > 1 and (silos is None or silos < least):
        asked = "a sum of unknown size" if silos is None else f"a sum of {silos}"
        yield Refusal("sending.smallest_sum", asked, f"{least} silos or more")


def _order(rules: Rules, request: Request) -> Iterator[Refusal]:
    days = rules.largest_order_days
    # From now on and not from when it was signed: that is whatever its maker wrote.
    if request.until is not None and request.until - request.at > timedelta(days=days):
        yield Refusal("largest_order_days", "an order that ends later", f"{days} days from now")


def _hours(rules: Rules, request: Request) -> Iterator[Refusal]:
    hours = rules.hours
    if hours is not None and not hours.contain(request.at):
        yield Refusal("hours", hours.clock(request.at), str(hours))


_RULES: tuple[Rule, ...] = (
    _requester,
    _task,
    _plain,
    _unit,
    _mechanism,
    _noise,
    _sampling,
    _preprocessing,
    _encryption,
    _sum,
    _order,
    _hours,
)


def _listed(name: str, names: Sequence[str]) -> bool:
    return ANY in names or name in names


def _normal(code_hash: str | None) -> str | None:
    return "sha256:" + code_hash.lower().removeprefix("sha256:") if code_hash else None


def _uses_records(request: Request) -> bool:
    """Whether more may be sent than metrics, which have rules of their own."""
    settings = (request.unit, request.mechanism, request.noise_multiplier, request.sampling_rate)
    return request.kind in ("train", "query") or any(setting is not None for setting in settings)


def _private(request: Request) -> bool:
    """Whether there is a mechanism with noise, and a bound on what one record adds."""
    noise, clip = request.noise_multiplier, request.clip
    # None: a mechanism that does not clip, such as noise on counts.
    bounded = clip is None or 0 < clip < math.inf
    return request.mechanism is not None and noise is not None and 0 < noise < math.inf and bounded


def _figure(rules: Rules, value: float | None, otherwise: str) -> str:
    """`value`, unless it could reveal the number of records, as rates and fitted noise do."""
    return f"{value:g}" if rules.sending.records_public else otherwise


def _joined(names: Sequence[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"


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
    """Of the form of this file."""
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
    # A simulated silo asks for it in every message.
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

    def names_code(self, request: Request) -> bool:
        """Whether the code of `request` is let in by its hash, and not because any is."""
        rules = self.rules(request.dataset)
        return rules is not None and ANY not in rules.code and bool(request.code_hash)

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
            attempts=rules.attempts_per_round,
            approval=rules.approval == "each-job",
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
        "uncovered_preprocessing": True,
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
            table = MetricRelease
        case ("data", _, str(section), _):
            table = _SECTIONS[section]
        case ("data", _, _):
            table = Rules
    return list(table.model_fields)
