"""The reference of all keys has every one of them, and says what the schemas say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from privet import Experiment, PrivetError
from privet.commands import reference
from privet.commands.claims import CLAIMS
from privet.commands.cli import main
from privet.deployment.parties.kits import AdminKit, ServerKit, SiloKit
from privet.privacy.policy import Policy
from privet.strategies.registry import STRATEGIES
from privet.tasks.registry import TASKS, load_task
from privet.tasks.table_layout import TableOptions

ROOT = Path(__file__).parents[2]
KEYS = reference.every_key()


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0), *capsys.readouterr()


def leaves(schema: type[BaseModel]) -> Iterator[str]:
    """The last parts of all keys of a schema and of the tables in it."""
    for name, field in schema.model_fields.items():
        inner = [
            each
            for each in (field.annotation, *get_args(field.annotation))
            if inspect.isclass(each) and issubclass(each, BaseModel)
        ]
        yield from leaves(inner[0]) if inner else [name]


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        (reference.EXPERIMENT, Experiment),
        (reference.TABLE, TableOptions),
        (reference.POLICY, Policy),
        (reference.SILO, SiloKit),
        (reference.SERVER, ServerKit),
        (reference.ADMIN, AdminKit),
    ],
)
def test_every_key_of_every_schema_is_there(file: str, schema: type[BaseModel]) -> None:
    told = [key.name.rpartition(".")[2] for key in KEYS if key.file == file]
    assert told == list(leaves(schema))


def test_every_option_of_every_strategy_is_there() -> None:
    told = {
        (name, key.name)
        for key in KEYS
        if key.file == reference.OPTIONS
        for name in key.meaning.removeprefix("Of ").rstrip(".").split(", ")
    }
    assert told == {(n, f"strategy.{o}") for n, each in STRATEGIES.items() for o in each.options}


def test_every_key_says_what_it_means_and_does_to_the_claim() -> None:
    for key in KEYS:
        assert key.meaning, key
        assert key.claim, key
        assert key.kind != "value", key


def test_no_words_are_left_over_from_a_key_that_is_gone() -> None:
    for file, words in CLAIMS.items():
        names = {key.name for key in KEYS if key.file == file}
        tables = {f"{name.rpartition('.')[0]}.*".removeprefix(".") for name in names}
        assert set(words) <= names | tables, file


def test_the_page_is_what_the_schemas_say() -> None:
    page = (ROOT / "docs/keys.md").read_text(encoding="utf-8")
    assert page == reference.markdown(KEYS), "privet explain --markdown > docs/keys.md"


@pytest.mark.parametrize(
    ("key", "kind", "default", "allowed"),
    [
        ("privacy.delta", "number", "1e-05", "above 0, below 1"),
        ("training.optimizer", "word", '"sgd"', '"sgd", "adam", "adamw"'),
        ("data.ranges", "table: list [number, number] by name", "{}", ""),
        ("task", "text", "required", ""),
        ("encryption.threshold", "whole number", "unset", "1 or more"),
    ],
)
def test_a_key_has_type_default_and_range(key: str, kind: str, default: str, allowed: str) -> None:
    found = next(each for each in KEYS if each.name == key)
    assert (found.kind, found.default, found.allowed) == (kind, default, allowed)


def test_explain_finds_a_key_by_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = ran(capsys, "explain", "epsilon")
    assert code == 0
    assert "privacy.epsilon\n" in said
    assert "data.NAME.budget.epsilon\n" in said
    code, _, wrong = ran(capsys, "explain", "epsilom")
    assert code == 2
    assert "Did you mean 'epsilon'?" in wrong
    assert len(ran(capsys, "explain")[1].splitlines()) > len(KEYS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_shows_models_and_an_experiment_that_is_one(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = ran(capsys, "tasks", name)[1]
    entry = TASKS[name]
    assert ", ".join(entry.models) in said
    (tmp_path / "experiment.toml").write_text(entry.example)
    given = Experiment.from_file(tmp_path / "experiment.toml")
    for model in entry.models:
        load_task(name, model=model, options=given.data)
    with pytest.raises(PrivetError, match=f"{name} has {', '.join(sorted(entry.models))}|has "):
        load_task(name, model="none such", options=given.data)


def test_a_task_of_someone_s_own_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = ran(capsys, "tasks", "toy_tasks:Tiny")
    assert code == 0
    assert "secret" in said


def test_unset_takes_a_key_or_a_table_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'task = "digits"\nrounds = 1\n[federation]\nsilos = 2\n'
        "[training]\nsteps = 2\n[privacy]\nepsilon = 1.0\nclip = 2.0\n"
    )
    command = ("simulate", str(file), "-q", "--out")
    out = str(tmp_path / "run")
    assert ran(capsys, *command, out, "--unset", "privacy", "--unset", "training.steps")[0] == 0
    settings: Any = Experiment.from_file(tmp_path / "run/experiment.toml")
    assert (settings.privacy, settings.training.steps) == (None, None)
    out = str(tmp_path / "other")
    swap = ("--unset", "privacy.epsilon", "--set", "privacy.noise_multiplier=3")
    assert ran(capsys, *command, out, *swap)[0] == 0
    code, _, wrong = ran(capsys, *command, out, "--unset", "privacy.clipp")
    assert code == 2
    assert "Did you mean 'privacy.clip'?" in wrong
