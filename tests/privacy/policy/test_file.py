"""The file: what is read, what is a mistake, and what the message says."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from privet.errors import PrivetError
from privet.privacy.accounting.spending import SMALLEST_DELTA
from privet.privacy.policy import Policy, PolicyError

HEAD = '[data.ward]\nrequesters = ["alice"]\ntasks = ["digits"]\n'
BUDGET = "[data.ward.budget]\nepsilon = 1.0\ndelta = 1e-6\n"


@pytest.fixture
def mistake(tmp_path: Path):
    """The message with which a policy of this text is refused."""

    def read(text: str | bytes) -> str:
        path = tmp_path / "policy.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(PolicyError) as error:
            Policy.from_file(path)
        message = str(error.value)
        assert "\n" not in message
        assert str(path) in message
        return message.replace(f"{path}: ", "")

    return read


def test_without_a_file_nothing_runs_and_the_message_has_the_command(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(PolicyError, match=f"nothing may run.*privet policy init {path}") as error:
        Policy.from_file(path)
    assert isinstance(error.value, PrivetError)


def test_a_file_is_read_and_named_as_the_source(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(HEAD + BUDGET)
    assert Policy.from_file(path).source == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'data' is missing"),
        ("[data]\n", "data: the policy names no data set; add a table [data.NAME]"),
        ("data = 3\n", "data = 3: must be a table"),
        ("[data]\nward = 3\n", "data.ward = 3: must be a table"),
        (f"version = 2\n{HEAD}{BUDGET}", "version = 2: input should be 1"),
        (f"source = 'x'\n{HEAD}{BUDGET}", "unknown key 'source'. Known: version, data"),
        (HEAD, "'data.ward.budget' is missing"),
        (
            f"{HEAD}[data.ward.budget]\nepsilom = 1.0\ndelta = 1e-6\n",
            "unknown key 'data.ward.budget.epsilom'. Did you mean 'epsilon'? Known: epsilon, "
            "delta, epsilon_per_job, epsilon_per_month, epsilon_per_requester",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.trainings]\n",
            "unknown key 'data.ward.trainings'. Did you mean 'training'? Known: requesters, "
            "tasks, budget, code, attempts_per_round, largest_order_days, approval, training, "
            "sending, metrics, hours",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.metrics]\nloss = {{ releases = 'exact' }}\n",
            "unknown key 'data.ward.metrics.loss.releases'. Did you mean 'release'? Known: "
            "release, noise_multiplier",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.sending]\nsmallest = 2\n",
            "unknown key 'data.ward.sending.smallest'. Did you mean 'smallest_sum'? Known: "
            "records_public, encryption_required, smallest_sum, most_failures",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.hours]\nzone = 'UTC'\n",
            "unknown key 'data.ward.hours.zone'. Did you mean 'timezone'? Known: timezone, days, "
            "start, end",
        ),
        (
            HEAD + BUDGET.replace("1.0", "0.0"),
            "data.ward.budget.epsilon = 0.0: input should be greater than 0",
        ),
        (
            HEAD + BUDGET.replace("1.0", "nan"),
            "data.ward.budget.epsilon = nan: input should be greater than 0",
        ),
        (
            HEAD + BUDGET.replace("1.0", "'1'"),
            "data.ward.budget.epsilon = '1': input should be a valid number",
        ),
        (
            HEAD + BUDGET.replace("1e-6", "0.5"),
            "data.ward.budget.delta = 0.5: input should be less than or equal to 0.01",
        ),
        (
            HEAD.replace('["alice"]', '"alice"') + BUDGET,
            "data.ward.requesters = 'alice': must be a list, such as [\"name\"]",
        ),
        (
            HEAD.replace('"alice"', '""') + BUDGET,
            "data.ward.requesters.0 = '': string should have at least 1 character",
        ),
        (
            HEAD.replace("digits", "own.module:Task") + BUDGET,
            "data.ward.tasks.0: 'own.module:Task' is a task of someone's own, and a name says "
            "nothing about what its code does; allow it by the hash of its code, in code",
        ),
        (
            f"{HEAD}code = ['abc']\n{BUDGET}",
            "data.ward.code.0: 'abc' is not \"sha256:\" and 64 hexadecimal digits",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.training]\nplain = 'no'\n",
            "data.ward.training.plain = 'no': input should be a valid boolean",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.training]\nplain = true\n",
            "data.ward: training.plain = true spends more than any epsilon; it needs "
            "budget.epsilon = inf and no other limit",
        ),
        (
            HEAD
            + BUDGET.replace("1.0", "inf")
            + "epsilon_per_month = 500.0\n[data.ward.training]\nplain = true\n",
            "data.ward: training.plain = true spends more than any epsilon; it needs "
            "budget.epsilon = inf and no other limit",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.training]\nunits = ['patient']\n",
            "data.ward.training.units.0 = 'patient': input should be 'record' or 'client'",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.training]\nsmallest_sampling_rate = 0.5\n"
            "largest_sampling_rate = 0.1\n",
            "data.ward.training: smallest_sampling_rate = 0.5 is above largest_sampling_rate = 0.1",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.metrics]\nloss = {{ release = 'noised' }}\n",
            'data.ward.metrics.loss: release = "noised" needs a noise_multiplier, such as 20.0',
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.metrics]\n"
            "loss = { release = 'exact', noise_multiplier = 1.0 }\n",
            'data.ward.metrics.loss: release = "exact" has no noise; leave noise_multiplier out',
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.metrics]\n"
            "loss = { release = 'noised', noise_multiplier = 1.0 }\n",
            "data.ward: metrics.loss: noise can be added to counts only, which are behind "
            'accuracy, scores; choose "withheld" or "exact"',
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.hours]\ntimezone = 'Europe/Berlim'\n",
            "data.ward.hours.timezone: there is no time zone 'Europe/Berlim'. "
            "Did you mean 'Europe/Berlin'?",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.hours]\ntimezone = '../../etc/passwd'\n",
            "data.ward.hours.timezone: there is no time zone '../../etc/passwd'.",
        ),
        (
            f"{HEAD}{BUDGET}[data.ward.hours]\ntimezone = 'UTC'\nstart = '08:00+02:00'\n",
            "data.ward.hours: start and end follow the clock of timezone; write them as 08:00",
        ),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(mistake, text: str, message: str) -> None:
    assert mistake(text) == message


def test_what_is_not_toml_or_not_text_is_said_to_be_so(mistake) -> None:
    assert "is not a TOML file" in mistake("[data\n")
    assert "is not a TOML file" in mistake(b"\xff\xfe")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=f"cannot read {tmp_path}: "):
        Policy.from_file(tmp_path)
    if os.geteuid() == 0:
        return  # root reads everything
    locked = tmp_path / "locked.toml"
    locked.write_text(HEAD + BUDGET)
    locked.chmod(0)
    with pytest.raises(PolicyError, match="Permission denied"):
        Policy.from_file(locked)


def test_times_may_be_strings_or_times_of_toml(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for start in ("'08:30'", "08:30:00"):
        path.write_text(f"{HEAD}{BUDGET}[data.ward.hours]\ntimezone = 'UTC'\nstart = {start}\n")
        rules = Policy.from_file(path).rules("ward")
        assert rules is not None
        assert f"{rules.hours}" == (
            "mon, tue, wed, thu, fri, sat, sun from 08:30 to 00:00 next day (UTC)"
        )


def test_every_delta_of_a_policy_can_be_accounted(mistake, tmp_path: Path) -> None:
    path = tmp_path / "smallest.toml"
    path.write_text(HEAD + BUDGET.replace("1e-6", repr(SMALLEST_DELTA)))
    rules = Policy.from_file(path).rules("ward")
    assert rules is not None
    assert rules.budget.delta == SMALLEST_DELTA
    smaller = repr(SMALLEST_DELTA * 0.999)
    message = mistake(HEAD + BUDGET.replace("1e-6", smaller))
    assert message.startswith(f"data.ward.budget.delta = {smaller}: input should be greater than")


def test_a_policy_cannot_be_changed_once_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(HEAD + BUDGET)
    policy = Policy.from_file(path)
    with pytest.raises(ValueError, match="frozen"):
        policy.data = {}
    with pytest.raises(ValueError, match="frozen"):
        policy.rules("ward").budget.epsilon = 9.0
    assert tomllib.loads(path.read_text())["data"]["ward"]["budget"]["epsilon"] == 1.0
