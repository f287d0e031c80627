"""A policy in the words of the person who signs for it.

The policy that a data holder starts from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from privet.privacy.policy.policy import Policy
from privet.privacy.policy.rules import ANY, Budget, MetricRelease, Rules, Sending, Training


def explain(policy: Policy) -> list[str]:
    """What `policy` means, a sentence or two a line; each ends with the keys that it is about."""
    lines = [f"Policy: {policy.source}. What it does not allow is refused. (version)"]
    for name, rules in sorted(policy.data.items(), key=lambda item: (item[0] == ANY, item[0])):
        lines.append("")
        lines.append("Every other data set:" if name == ANY else f"Data set {name}:")
        lines += _rules(rules)
    return lines


def best_guess(*, epsilon: float, delta: float) -> float:
    """Largest chance to guess rightly whether a record was used, where a coin is right in 1/2.

    Holds for whoever knows every other record and sees everything that an (epsilon, delta)-private
    mechanism releases, under add-or-remove adjacency: (e^epsilon + delta) / (e^epsilon + 1), from
    the region of possible errors (Kairouz, Oh & Viswanath 2015, arXiv 1311.0776, Theorem 2.1).
    """
    # Divided by e^epsilon, which a large epsilon makes overflow.
    return (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon))


def _rules(rules: Rules) -> Iterator[str]:
    yield f"{_people(rules.requesters)} (requesters)"
    yield f"{_tasks(rules.tasks)} (tasks)"
    yield f"{_code(rules.code)} (code)"
    yield from _budget(rules.budget)
    yield from _training(rules.training)
    yield from _sending(rules.sending)
    if _bounds_rate(rules.training) and not rules.sending.records_public:
        yield (
            "The number of records can be found out all the same: jobs choose how many records a "
            "step uses, and are refused where that is too small or too large a part of them. "
            "(training.smallest_sampling_rate, training.largest_sampling_rate)"
        )
    for name, metric in sorted(rules.metrics.items(), key=lambda item: (item[0] == ANY, item[0])):
        yield f"{_metric(name, metric)} (metrics.{name})"
    if ANY not in rules.metrics:
        yield "Every metric that is not named here is withheld. (metrics)"
    keys = "hours.timezone, hours.days, hours.start, hours.end" if rules.hours else "hours"
    yield (
        f"One round of a job may use the records {_times(rules.attempts_per_round)}, none after "
        "the next one has begun. (attempts_per_round)"
    )
    yield (f"A job's order must end within {rules.largest_order_days} days. (largest_order_days)")
    yield (
        "Every job waits until somebody at this silo approves it."
        if rules.approval == "each-job"
        else "What this policy allows runs without anybody's approval."
    ) + " (approval)"
    yield f"Jobs may run {rules.hours or 'at any time'}. ({keys})"


def _times(number: int) -> str:
    return "once" if number == 1 else f"at most {number} times"


def _people(names: Sequence[str]) -> str:
    if ANY in names:
        return "Anyone may ask."
    return f"Only these may ask: {', '.join(names)}." if names else "Nobody may ask yet."


def _tasks(names: Sequence[str]) -> str:
    if ANY in names:
        return "Every task that comes with privet may run."
    if not names:
        return "No task that comes with privet may run."
    return f"Of the tasks that come with privet, these may run: {', '.join(names)}."


def _code(hashes: Sequence[str]) -> str:
    if ANY in hashes:
        return "Tasks of anyone's own may run, whatever their code does."
    if not hashes:
        return "No task of anyone's own may run."
    return f"Tasks of someone's own may run if their code is exactly: {', '.join(hashes)}."


def _budget(budget: Budget) -> Iterator[str]:
    yield f"{_whole_life(budget)} (budget.epsilon, budget.delta)"
    for scope, limit in (
        ("job", budget.epsilon_per_job),
        ("month", budget.epsilon_per_month),
        ("requester", budget.epsilon_per_requester),
    ):
        yield f"{_scoped(scope, limit)} (budget.epsilon_per_{scope})"


def _whole_life(budget: Budget) -> str:
    if budget.epsilon == math.inf:
        return (
            "There is no limit on what the records lose (epsilon = inf), so nothing is promised "
            f"about them; the account is kept at delta = {budget.delta:g}."
        )
    # Rounded up: the sentence is a promise.
    guess = math.ceil(1000 * best_guess(epsilon=budget.epsilon, delta=budget.delta)) / 10
    return (
        f"All jobs together, for ever, may cost each record at most epsilon = {budget.epsilon:g} "
        f"at delta = {budget.delta:g}. Someone who knows all other records and sees all that was "
        f"counted guesses rightly at most {guess:g} times in 100 whether a record was used; a coin "
        "does so 50 times."
    )


def _scoped(scope: str, limit: float | None) -> str:
    if limit is None or limit == math.inf:
        return f"No {scope} has a limit of its own."
    return f"Every single {scope} may cost at most epsilon = {limit:g}, within the limit above."


def _training(training: Training) -> Iterator[str]:
    yield (
        "Training without differential privacy is allowed: a model can then repeat records."
        if training.plain
        else "Training without differential privacy is refused."
    ) + " (training.plain)"
    units = ", ".join(f"a {unit}" for unit in training.units) or "nothing"
    yield f"What is protected may be: {units}. (training.units)"
    mechanisms = ", ".join(training.mechanisms) or "none"
    yield f"Mechanisms allowed: {mechanisms}. (training.mechanisms)"
    yield f"{_noise(training)} (training.smallest_noise_multiplier)"
    low, high = training.smallest_sampling_rate, training.largest_sampling_rate
    yield (
        f"A step uses between {100 * low:g} and {100 * high:g} % of the records, drawn by coins. "
        "(training.smallest_sampling_rate, training.largest_sampling_rate)"
    )
    yield (
        "Inputs may be computed from other records as well, such as their mean: epsilon does not "
        "cover what that tells."
        if training.uncovered_preprocessing
        else "Each record's inputs must follow from itself and constants."
    ) + " (training.uncovered_preprocessing)"
    yield (
        "Parts of a model that never leave here are kept when their job is over."
        if training.keep_own_parts
        else "Parts of a model that never leave here go when their job is over."
    ) + " (training.keep_own_parts)"


def _bounds_rate(training: Training) -> bool:
    return training.smallest_sampling_rate > 0 or training.largest_sampling_rate < 1


def _noise(training: Training) -> str:
    if training.smallest_noise_multiplier == 0:
        return "There must be noise in every step; how little is up to the job and the budget."
    return (
        f"The noise in every step is at least {training.smallest_noise_multiplier:g} times what "
        "one record can add."
    )


def _sending(sending: Sending) -> Iterator[str]:
    yield (
        "The number of records is public and may be sent."
        if sending.records_public
        else "The number of records stays here."
    ) + " (sending.records_public)"
    yield (
        "Updates must be encrypted, so that the server sees sums only."
        if sending.encryption_required
        else "Updates need not be encrypted: the server may then see this silo's by itself."
    ) + " (sending.encryption_required)"
    yield (
        f"An update must be added to those of {sending.smallest_sum - 1} or more other silos."
        if sending.smallest_sum > 1
        else "A sum may consist of this silo's update alone."
    ) + " (sending.smallest_sum)"
    yield (
        f"After {sending.most_failures} failures that were told to a requester, all is refused "
        "until they are forgiven. (sending.most_failures)"
    )


def _metric(name: str, metric: MetricRelease) -> str:
    subject = "Every other metric" if name == ANY else f"The metric {name}"
    match metric.release:
        case "withheld":
            return f"{subject} is withheld."
        case "exact":
            return f"{subject} leaves exactly as it is: unprotected, and not counted in the budget."
        case "noised":
            return (
                f"{subject} leaves from counts with noise of {metric.noise_multiplier:g} times "
                "what one record can add; every time is counted in the budget."
            )


_TEXT = """\
# What privet may do with the records of this silo. Whoever signs for the records owns this file.
# What it does not allow is refused. As it stands nothing can run: fill in who may ask, and for
# which tasks. Then read what it means:
#
#     privet policy check FILE
#
# Settings that begin with # are examples; take the # away to use them.

version = 1

# One table for each data set, under the name that it has in the ledger. Replace my-data.
[data.my-data]
# Who may ask, by name. ["*"] would be anyone.
requesters = []
# Tasks that come with privet and may run (privet tasks lists them). ["*"] would be all of them.
tasks = []
# Other people's tasks, by the hash of their code ("sha256:" and 64 digits), once it has been read:
# privet task hash TASK prints it, and what it covers.
code = []
# How often one round of a job may use the records: a server that lost an answer asks again.
attempts_per_round = 3
# Days within which a job's order must end. After its end nothing of the job runs.
largest_order_days = 90
# "policy": what this file allows runs. "each-job": it waits until somebody says, on this machine,
# privet silo approve JOB.
approval = "policy"

# How much each record may lose, as epsilon at delta. The ledger counts it; what is spent never
# comes back. Small is strict: 1 is a strong promise, 3 a usual one, above 10 hardly any.
[data.my-data.budget]
# All jobs together, over the whole life of the ledger.
epsilon = 1.0
# Chance that the promise is void: well below one in the number of records.
delta = 1e-6
# Limits within that one, if wanted: for one job, for a calendar month, for one requester.
epsilon_per_job = 0.5
#epsilon_per_month = 0.5
#epsilon_per_requester = 0.5

[data.my-data.training]
# Training without differential privacy: a model can then repeat whole records. It needs
# epsilon = inf above, because no number is large enough.
plain = false
# What is protected: "record", or "client" (all records of a silo at once).
units = ["record"]
# "dp-sgd" (noise in every training step), "gaussian" (noise on a sum).
mechanisms = ["dp-sgd"]
# Least noise in a step, over the largest share of one record in it.
smallest_noise_multiplier = 0.5
# Expected share of the records that a step uses.
smallest_sampling_rate = 0.0
largest_sampling_rate = 1.0
# Whether the inputs of a record may depend on others, such as by scaling with their mean. No
# epsilon covers what that tells.
uncovered_preprocessing = false
# Whether parts of models that never leave this silo (federation.local) are kept when the orders of
# their jobs have ended.
keep_own_parts = false

[data.my-data.sending]
# Whether the number of records may leave.
records_public = false
# Whether updates must be encrypted, so that the server sees only sums.
encryption_required = false
# Fewest silos in a sum, this one included. It hides this silo from the server only if updates are
# encrypted, and from other silos only as far as they do not work together.
smallest_sum = 1
# Whether a job works or fails can hang on a record. After so many failures that one requester was
# told of, everything is refused until you say: privet ledger forgive.
most_failures = 20

# What an evaluation on the records may send, by metric: "withheld", "exact" (unprotected and not
# counted) or "noised" (for accuracy, and for scores, which are counts by class; noise as a multiple
# of what one record can add, counted in the budget every time). A metric that is not here is
# withheld.
[data.my-data.metrics]
#accuracy = { release = "noised", noise_multiplier = 50.0 }
loss = { release = "withheld" }

# When jobs may run, by the clock of a time zone; without this table at any time. An end at or
# before the start is on the next day.
#[data.my-data.hours]
#timezone = "Europe/Berlin"
#days = ["mon", "tue", "wed", "thu", "fri"]
#start = "19:00"
#end = "06:00"
"""


def starting_policy() -> str:
    """A commented policy in TOML with every setting in it; it is valid and lets nothing run."""
    return _TEXT
