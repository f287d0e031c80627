"""The experiment file: everything that decides a run, in one TOML file.

    task = "digits"
    rounds = 40
    seed = 7
    [federation]
    silos = 10
    [training]
    batch_size = 64
    lr = 0.5
    [privacy]
    epsilon = 4.0

Unknown keys and impossible values are refused before any data is read. The same settings travel in
a Flower run config, whole under the key `experiment` or flattened to dotted keys.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from privet.errors import ExperimentError, nearest

RUN_CONFIG_KEY = "experiment"
SWEEP = "sweep"
"""The table of an experiment file that says what `privet sweep` varies."""

Rate = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _check_plain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what does not come through JSON and TOML as it was."""
    for key, value in options.items():
        _check_value(key, value)
    return options


def _check_value(key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        _check_plain({f"{key}.{name}": each for name, each in value.items()})
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            _check_value(f"{key}[{place}]", each)
    elif not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{key} = {value}: a {type(value).__name__} is no setting; allowed are texts, numbers, "
            "true or false, lists and tables"
        )


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, ser_json_inf_nan="constants"
    )


class FederationSettings(_Settings):
    """Who holds which records, and who answers in a round."""

    silos: Count | None = None
    """Number of silos; unset: the data's natural silos where there are some, else ten."""
    partition: Literal["iid", "dirichlet", "shards", "linear", "exponential", "natural"] | None = (
        None
    )
    """How records are dealt to silos; unset: natural where the data have silos, else iid."""
    alpha: Positive = 0.5
    """Concentration of the Dirichlet partition; smaller is more uneven."""
    shards_per_silo: Count = 2
    """With partition = "shards": sorted pieces that each silo gets."""
    participation: Rate = 1.0
    """Chance of each silo to be asked in a round, by independent coins."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a silo that was asked does not answer (simulation only)."""
    min_silos: Count = 1
    """The run ends early when fewer silos than this are willing to go on."""
    records: Count | None = None
    """About how many records all silos have together, where that is public; looked at by the rule
    for training that is left unsaid, and by nothing else."""
    local: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names or patterns ("norm*", "head.*") of parameters and buffers that stay in their silo, as
    in FedBN and FedPer: trained there like the rest, never sent; unset: everything travels."""


class TrainingSettings(_Settings):
    """One silo's local training in one round."""

    epochs: Count = 1
    """Passes over a silo's records in a round."""
    steps: Count | None = None
    """Local steps in a round, instead of `epochs`."""
    batch_size: Count = 64
    """Records in a step; under [privacy] the expected number."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """As torch.optim has them; in each round a silo begins with a new one."""
    lr: Positive = 0.1
    """Learning rate of the silos' optimizer."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of adamw decoupled from the gradient, else added to it."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    """Learning rate over the rounds: `cosine` and `linear` fall from `lr` to nearly zero, `step` by
    `decay_factor` after every `decay_every` rounds."""
    decay_every: Count | None = None
    """Rounds, with schedule = "step"."""
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """With schedule = "step"."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Rounds in which the learning rate rises linearly; the schedule begins behind them."""
    augmentations: Count | None = None
    """Copies of each record in a step, each read (and transformed by the task) anew; their mean
    gradient is the record's, clipped as one (De et al. 2022)."""
    physical_batch: Count | None = None
    """With [privacy] the most records that go through the model together, which bounds the memory
    of a batch of any size and changes nothing else; unset: found from the model's size."""
    class_weights: tuple[Positive, ...] | None = None
    """A factor for the loss of each class's records, declared and not learned from them. It is
    applied record by record, so that clipping bounds a heavy class like any other."""

    @model_validator(mode="after")
    def _decays_by_steps_alone(self) -> Self:
        if self.schedule == "step" and self.decay_every is None:
            raise ValueError('schedule = "step" needs training.decay_every, a number of rounds')
        for key in ("decay_every", "decay_factor"):
            value, unset = getattr(self, key), type(self).model_fields[key].default
            if self.schedule != "step" and value != unset:
                raise ValueError(
                    f'{key} = {value} does nothing with schedule = "{self.schedule}"; allowed with '
                    '"step"'
                )
        return self

    def share_of_rate(self, round_: int, rounds: int) -> float:
        """The part of `lr` that a round trains with, in (0, 1]; rounds are counted from 1."""
        if round_ <= self.warmup:
            return round_ / (self.warmup + 1)
        gone, left = round_ - 1 - self.warmup, rounds - self.warmup
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * gone / left))
        if self.schedule == "linear":
            return 1 - gone / left
        if self.schedule == "step":
            assert self.decay_every is not None  # `_decays_by_steps_alone` looked
            return float(self.decay_factor ** (gone // self.decay_every))
        return 1.0


def _check_start(file: str) -> str:
    if not file.endswith(".safetensors"):
        raise ValueError(f"{file!r}: allowed are names that end in .safetensors")
    return file


def _check_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r}: allowed is one line of text")
    return text


class StartSettings(_Settings):
    """Weights that the run begins with, in the place of those that follow from the seed."""

    file: Annotated[str, AfterValidator(_check_start)]
    """A safetensors file with the tensors of the task's model, by their names in its state dict;
    the server opens it, and never a silo."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the file; unset: filled in from it by whoever simulates or submits."""
    seen: (
        Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_line)] | None
    ) = None
    """What records these weights are said to have seen, such as "ImageNet-1k": no epsilon of this
    run says anything of them."""


class StrategySettings(BaseModel):
    """Name of an aggregation rule and its own options (see `privet strategies`)."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")
    name: str = "fedavg"
    """How updates become the next model: one of `privet strategies`, whose options stand beside."""

    @model_validator(mode="after")
    def _plain(self) -> Self:
        _check_plain(self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Every key of the table but the name."""
        return dict(self.model_extra or {})


class PrivacySettings(_Settings):
    """Record-level differential privacy: exactly one of `epsilon` and `noise_multiplier`."""

    unit: Literal["record"] = "record"
    """Whose presence epsilon is about: one record."""
    epsilon: Positive | None = None
    """Target over the whole run for each silo's records (a silo asked in every round)."""
    noise_multiplier: Positive | None = None
    """Standard deviation of a step's noise over the clip norm, where no epsilon is set."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Chance that epsilon does not hold; below one over the records of a silo."""
    clip: Positive = 1.0
    """Largest L2 norm of one record's gradient."""
    calibrate: Literal["per-silo", "shared"] = "per-silo"
    """With `epsilon`: a noise multiplier for each silo, or the largest of them for all."""
    on_budget: Literal["stop", "calibrate"] = "stop"
    """When a silo's remaining budget is too small for the remaining rounds: take part until it is
    used up, or raise the noise so that all of them fit."""

    uncovered_preprocessing: bool = False
    """Allow a task whose inputs depend on other records (scaling by their own mean): epsilon then
    says nothing of what the preprocessing tells, and data holders' policies must allow it."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            given = "neither" if self.epsilon is None else "both"
            raise ValueError(
                f"needs exactly one of privacy.epsilon and privacy.noise_multiplier; {given} is set"
            )
        return self


class EncryptionSettings(_Settings):
    """Updates that only their sum can be seen of: silos encrypt, the server adds, silos decrypt."""

    scheme: Literal["bfv", "ckks"] = "bfv"
    """Exact sums of packed integers, or approximate ones of real numbers; "none" turns it off."""
    profile: Literal["default", "compact", "precise"] = "default"
    """Of bfv: 16 bits a value for up to 128 silos; "compact" sends a third less, with 12 bits for
    up to 16 silos; "precise" sends as much, with 21 bits for up to 16 silos."""
    smallest_sum: Annotated[int, Field(ge=2)] = 2
    """Silos refuse to open a sum of fewer updates."""
    pairwise_masks: bool | None = None
    """Hide each update from a server that has silos on its side too, up to `colluding` of them;
    unset: with bfv."""
    colluding: Annotated[int, Field(ge=0)] = 1
    """0: silos are trusted not to side with the server, as two silos have to."""
    threshold: Count | None = None
    """Silos that must stay to the end of a masked round; unset: the least that is safe."""
    rotate_every: Count | None = None
    """Rounds that one key serves; unset: the whole run, unless silos change or a sum is spoilt."""

    @property
    def masked(self) -> bool:
        """Whether uploads are masked."""
        return self.scheme == "bfv" if self.pairwise_masks is None else self.pairwise_masks

    @property
    def least_sum(self) -> int:
        """Updates below which no sum is opened, however many silos take part."""
        if not self.masked:
            return self.smallest_sum
        return max(self.smallest_sum, self.threshold or 0, self.colluding + 2)

    @property
    def least_confirmations(self) -> int:
        """Silos that must open a sum to the same model: more than may side with the server."""
        return (self.colluding if self.masked else 1) + 1


class EvaluationSettings(_Settings):
    """Measuring the global model on the silos' own records, as far as their policies let it out."""

    every: Count = 1
    """Rounds from one evaluation to the next; the last round always has one."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each silo's records that is kept out of training for it, by a coin for each."""
    score_bins: Annotated[int, Field(ge=2, le=100, multiple_of=2)] | None = None
    """Ask for the metric "scores": counts of records by class in so many bins of the second class's
    probability, from which AUC, calibration and confusion follow; of models of two classes. An even
    number, so that one half is an edge."""


class ValidationSettings(_Settings):
    """Records by which a simulation chooses the round whose model it leaves.

    Test records are then looked at once, for the model that was chosen.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of each silo's training records, by a coin for each that hangs on its content alone. The
    coordinator has them, as it has test records: nobody trains on them, and no epsilon is about
    them."""
    patience: Count | None = None
    """Rounds without a better model after which the run ends; unset: no round is left out."""


def _check_few_silos(encryption: EncryptionSettings | None, silos: int | None) -> None:
    """Fail for silos of whom one that sides with the server would read another's update."""
    if encryption is None or silos is None or silos >= encryption.colluding + 2:
        return
    raise ValueError(
        f"encryption.colluding = {encryption.colluding} with {silos} silos: one could work out "
        "another's update from the sum; encryption.colluding = 0 says that they are trusted"
    )


_NOT_WITH_LOCAL = {
    "validation": "it chooses one model for all, and every silo has its own; leave one out",
    "start": "silos do not see its file and could not begin their own parts from it; leave one out",
}


class Experiment(_Settings):
    """A whole run. Frozen; `with_settings` gives a changed copy."""

    task: str
    """What is learned: one of `privet tasks`, or "package.module:Class"."""
    model: str | None = None
    """One of the task's models; unset: the task's own choice."""
    start: StartSettings | None = None
    """Unset: the weights follow from the seed."""
    rounds: Count = 10
    """Rounds of training, from asking silos to the next model."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of weights, deals to silos, coins and a simulation's noise: equal seeds give equal runs."""
    round_timeout: Positive = 3600.0
    """Seconds to wait for the replies of a round."""
    data: Annotated[dict[str, Any], AfterValidator(_check_plain)] = Field(default_factory=dict)
    """Options of the task, such as `file` and `target` of a table."""
    federation: FederationSettings = FederationSettings()
    training: TrainingSettings = TrainingSettings()
    strategy: StrategySettings = StrategySettings()
    privacy: PrivacySettings | None = None
    encryption: EncryptionSettings | None = None
    """Unset: the server sees every update."""
    evaluation: EvaluationSettings | None = None
    """Unset: silos are trained on, not evaluated on."""
    validation: ValidationSettings | None = None
    """Unset: the model of the last round is the result, measured on test records in every round."""

    @model_validator(mode="before")
    @classmethod
    def _some_values_mean_without(cls, raw: Any) -> Any:
        """An infinite epsilon is no privacy, and scheme "none" no encryption."""
        if not isinstance(raw, dict):
            return raw
        without = {
            "privacy": _is_infinite(_field(raw, "privacy", "epsilon")),
            "encryption": _field(raw, "encryption", "scheme") == "none",
        }
        return {key: value for key, value in raw.items() if not without.get(key)}

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        if self.training.steps is not None and "epochs" in self.training.model_fields_set:
            raise ValueError("training.epochs and training.steps exclude each other; keep one")
        if self.encryption and self.encryption.scheme == "ckks" and self.encryption.pairwise_masks:
            raise ValueError('encryption.pairwise_masks needs scheme = "bfv"')
        if self.training.warmup >= self.rounds:
            raise ValueError(
                f"training.warmup = {self.training.warmup} with rounds = {self.rounds}: allowed "
                "are fewer rounds of warmup than there are rounds"
            )
        if self.validation and self.encryption:
            raise ValueError(
                "[validation] chooses a model by what is measured on it, and with [encryption] "
                "nobody but silos reads one; leave one of them out"
            )
        for table in ("validation", "start"):
            if self.federation.local is not None and getattr(self, table) is not None:
                raise ValueError(f"federation.local with [{table}]: {_NOT_WITH_LOCAL[table]}")
        _check_few_silos(self.encryption, self.federation.silos)
        if self.federation.partition == "natural" and self.federation.silos is not None:
            raise ValueError(
                'federation.silos is decided by the data with partition = "natural"; leave it out'
            )
        return self

    def learning_rate(self, round_: int) -> float:
        """The silos' learning rate in a round, rounds counted from 1."""
        return self.training.lr * self.training.share_of_rate(round_, self.rounds)

    def bound_to_rounds(self) -> str | None:
        """Why a run of these settings cannot be given more rounds; None where they only go on."""
        privacy, schedule = self.privacy, self.training.schedule
        if self.encryption is not None:
            return "[encryption]: silos agreed on a job of so many rounds, and its keys end with it"
        if schedule in ("cosine", "linear"):
            return (
                f'training.schedule = "{schedule}" falls to the last round that was planned; begin '
                'another run, or one with "constant" or "step", which do not depend on the end'
            )
        if privacy is not None and privacy.epsilon is not None:
            return (
                f"privacy.epsilon = {privacy.epsilon:g} is what the noise was calibrated to spend "
                "in so many rounds, and more would spend more; begin another run, calibrated for "
                "all of them, or one with privacy.noise_multiplier, whose epsilon grows by rounds"
            )
        if privacy is not None and privacy.on_budget == "calibrate":
            return 'privacy.on_budget = "calibrate" fits the noise to the rounds that were planned'
        return None

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Experiment:
        """Validate nested settings; raises ExperimentError naming the first wrong key."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ExperimentError(_one_line(error)) from None

    @classmethod
    def from_file(
        cls, path: Path, settings: Mapping[str, str] | None = None, *, unset: Sequence[str] = ()
    ) -> Experiment:
        """Read a TOML file; `settings` are dotted keys with TOML values that replace the file's.

        `unset` are dotted keys, of values or tables, that are taken out first.

        A table [sweep] is none of a run's settings: it is left out.
        """
        raw = {key: value for key, value in read_toml(path).items() if key != SWEEP}
        for key in unset:
            _remove(raw, key, path)
        for key, text in (settings or {}).items():
            _assign(raw, key, toml_value(text))
        return cls.from_mapping(raw)

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> Experiment:
        """The experiment of a Flower run: whole as JSON under `experiment`, or dotted keys."""
        if RUN_CONFIG_KEY in run_config:
            return cls.from_mapping(_json_object(str(run_config[RUN_CONFIG_KEY])))
        raw: dict[str, Any] = {}
        for key, value in run_config.items():
            _assign(raw, key, value)
        return cls.from_mapping(raw)

    def to_run_config(self) -> dict[str, str]:
        """What `from_run_config` reads; Flower allows only scalars, so it is one JSON string."""
        # Only what was set: with its defaults it would have set both epochs and steps.
        return {RUN_CONFIG_KEY: self.model_dump_json(exclude_unset=True)}

    def with_settings(self, settings: Mapping[str, Any]) -> Experiment:
        """A copy with dotted keys replaced, validated again."""
        # As in `to_run_config`.
        raw = self.model_dump(exclude_unset=True)
        for key, value in settings.items():
            _assign(raw, key, value)
        return Experiment.from_mapping(raw)

    def to_toml(self) -> str:
        """The resolved settings, defaults included, as TOML that `from_file` reads back."""
        values = self.model_dump(exclude_none=True)
        if self.training.steps is not None:
            # Its default, which `from_file` would take for a second choice.
            values["training"].pop("epochs")
        return tomli_w.dumps({key: value for key, value in values.items() if value != {}})


def read_toml(path: Path) -> dict[str, Any]:
    """The content of an experiment file, not judged; ExperimentError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is not a TOML file: {error}") from None


def assignments(settings: Sequence[str]) -> dict[str, str]:
    """Dotted keys and values of KEY=VALUE texts, for `from_file`; ExperimentError for others."""
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ExperimentError(f"--set {setting}: expected KEY=VALUE, such as privacy.epsilon=2")
        pairs[key.strip()] = value.strip()
    return pairs


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"{RUN_CONFIG_KEY}: it is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ExperimentError(f"{RUN_CONFIG_KEY}: a JSON object is expected, not {text[:64]!r}")
    return found


def _field(raw: Mapping[str, Any], table: str, key: str) -> Any:
    found = raw.get(table)
    return found.get(key) if isinstance(found, Mapping) else None


def _is_infinite(value: Any) -> bool:
    try:
        return math.isinf(float(value)) and float(value) > 0
    except (TypeError, ValueError):
        return False


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        raw = raw.setdefault(table, {})
        if not isinstance(raw, dict):
            raise ExperimentError(f"{key}: '{table}' is a value, not a table")
    raw[last] = value


def _remove(raw: dict[str, Any], key: str, path: Path) -> None:
    *tables, last = key.split(".")
    table: Any = raw
    for name in tables:
        table = table.get(name) if isinstance(table, dict) else None
    if not isinstance(table, dict) or last not in table:
        known = [*raw, *dotted(raw)]
        raise ExperimentError(f"--unset {key}: {path} has no such key.{nearest(key, known)}")
    del table[last]


def toml_value(text: str) -> Any:
    """The TOML value that `text` stands for, or `text` itself when it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word such as fedprox


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        return (
            f"unknown key '{key}'.{nearest(str(first['loc'][-1]), known)} Known: {', '.join(known)}"
        )
    if first["type"] == "missing":
        return f"the experiment has no '{key}'"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "start": StartSettings,
        "federation": FederationSettings,
        "training": TrainingSettings,
        "privacy": PrivacySettings,
        "encryption": EncryptionSettings,
        "evaluation": EvaluationSettings,
        "validation": ValidationSettings,
    }
    model = tables.get(str(location[0]), Experiment) if len(location) > 1 else Experiment
    return list(model.model_fields)


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Everything in the table and its tables, in order.

    >>> dotted({"rounds": 2, "training": {"lr": 0.5}})
    {'rounds': 2, 'training.lr': 0.5}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
