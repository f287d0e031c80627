"""The outcome of a run, as `summary.json` has it: a versioned contract, written last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, NonNegativeInt

from privet.errors import DataError
from privet.files import read_file
from privet.record.history import Figures, PooledScores, RecordedMetric, RoundRecord
from privet.record.schema import SCHEMA, Recorded, parsed

SUMMARY = "summary.json"


class LastEvaluation(Recorded):
    """The last evaluation on the silos' own records: means, and what each silo let out."""

    round: NonNegativeInt
    metrics: Figures
    per_silo: dict[str, Figures]
    released: dict[str, dict[str, str]]
    scored: PooledScores | None = None


class EarlyEnd(Recorded):
    """After which round a run ended before its last one, and why."""

    round: NonNegativeInt
    reason: str


class CrossCheckFigures(Recorded):
    """What other accountants say of the events of the silo that spent most."""

    pld: float | None
    rdp: float | None
    prv: float | None
    agree: bool
    problems: list[str]
    notes: list[str]


class ClaimedEpsilon(Recorded):
    """(epsilon, delta) of each silo over all rounds, and the largest."""

    unit: str
    max: float | None
    per_silo: dict[str, float | None]
    delta: float | None
    accountant: str
    cross_checks: CrossCheckFigures | None


class EncryptionFacts(Recorded):
    """Parameters, size, and who can read the model."""

    scheme: str
    profile: str
    ring_degree: int | None
    modulus_bits: int | None
    security_bits: int | None
    most_silos: int | None
    upload_bytes_per_parameter: float | None
    """The largest upload, for each parameter of the model."""
    smallest_sum: int | None
    pairwise_masks: bool
    epochs: int | None
    model_held_by: str | None
    layout: str | None = None
    """Of uploads; earlier versions had two."""
    clipped: int | None = None
    """Values that silos cut off because the encoding has no room for them; earlier versions told it
    silo by silo, which counts large values of an update that nobody may see."""


class StartFacts(Recorded):
    """The weights that a run began with, where they came from a file."""

    sha256: str | None
    seen: str | None
    """What records they are said to have seen; epsilon says nothing of those."""


class ChosenModel(Recorded):
    """The round whose model a run left, and the figures by which it was chosen."""

    records: NonNegativeInt
    """For validation."""
    round: NonNegativeInt
    loss: float | None
    accuracy: float | None
    metrics: Figures


class ModelFacts(Recorded):
    """Numbers of the model: what trains and what does not."""

    trained: NonNegativeInt
    """In parameters that train."""
    sent: NonNegativeInt
    """That travel: those, and buffers that are averaged."""
    base: NonNegativeInt
    """In the base, which stays as the task loads it and does not travel."""
    base_digest: str | None
    """What server and silos compared; null without a base."""
    local: list[str] | None = None
    """Names of what each silo has of its own and never sent; null where all that trains travels."""
    still: list[str] | None
    """Trained parameters whose numbers are all where they started; null where the coordinator
    cannot read the model. With noise on updates everything moves."""
    nothing_trained: str | None
    """A sentence, if those are all of them though updates came."""


class RecordedScores(Recorded):
    """How many test records scored in each of equal bins from 0 to 1, by whether they were of the
    class that the score is of."""

    name: str
    of_class: list[NonNegativeInt]
    of_others: list[NonNegativeInt]


class RecordedConfusion(Recorded):
    """Test records by true class (row) and predicted class (column)."""

    classes: list[str]
    counts: list[list[NonNegativeInt]]


class RecordedAgainst(Recorded):
    """Test records by true value (row) and predicted value (column), in equal cells."""

    low: float
    high: float
    unit: str
    counts: list[list[NonNegativeInt]]


class DrawnCounts(Recorded):
    """What a page draws of the result on test records."""

    scores: list[RecordedScores]
    confusion: RecordedConfusion | None
    against: RecordedAgainst | None


class ComputedOn(Recorded):
    """Where the last process of a simulation had its models, and the precision of their passes."""

    device: str
    precision: str


class SpentSeconds(Recorded):
    """`total` is the wall time of the process that wrote the summary; the others are sums over all
    rounds of what `RoundSeconds` says."""

    total: float | None
    training: float | None
    aggregation: float | None
    encryption: float | None


class RunSummary(Recorded):
    """Every key is there; what does not apply is null."""

    task: str
    rounds: NonNegativeInt
    """That were asked for."""
    seed: int
    start: StartFacts | None = None
    """Null where the weights followed from the seed, as they always did in earlier versions."""
    validation: ChosenModel | None = None
    """Null where the model of the last round is the result, as it always was in earlier versions.
    Else accuracy, loss and metrics are of the model that was chosen, on test records."""
    accuracy: float | None
    loss: float | None
    metrics: Figures
    evaluation: LastEvaluation | None
    stopped: EarlyEnd | None
    epsilon: ClaimedEpsilon | None
    encryption: EncryptionFacts | None
    model: ModelFacts | None = None
    """Earlier versions did not say."""
    computed: ComputedOn | None = None
    """Null for real silos, each of which has a device of its own, and in earlier versions."""
    seconds: SpentSeconds
    client_updates: NonNegativeInt
    client_updates_per_second: float | None
    problems: list[str] = Field(default_factory=list)
    """What went wrong in the rounds, each once, with the round that it was first in."""
    declared: list[RecordedMetric] = Field(default_factory=list)
    """What the task says of its figures, the headline first; empty where it says nothing."""
    baselines: Figures = Field(default_factory=dict)
    """The figures of an answer that is the same for everybody: the commonest class or the mean of
    the test records."""
    pictures: DrawnCounts | None = None

    def plain(self) -> dict[str, object]:
        """As it is written."""
        return {"schema": SCHEMA, **self.model_dump()}


def last_evaluation(rounds: Sequence[RoundRecord]) -> LastEvaluation | None:
    """What a summary takes over of the last evaluation; None without one."""
    measured = [(entry.round, entry.evaluation) for entry in rounds if entry.evaluation]
    if not measured:
        return None
    number, found = measured[-1]
    kept = found.model_dump(include={"metrics", "per_silo", "released", "scored"})
    return LastEvaluation(round=number, **kept)


def problems_in(rounds: Iterable[RoundRecord]) -> list[str]:
    """What went wrong, each once, with the rounds that it was in."""
    found: dict[str, list[int]] = {}
    for entry in rounds:
        for problem in entry.problems:
            found.setdefault(problem, []).append(entry.round)
    return [
        f"round {numbers[0]}{f' and {len(numbers) - 1} more' if numbers[1:] else ''}: {problem}"
        for problem, numbers in found.items()
    ]


def chosen_model(line: RoundRecord, *, records: int) -> ChosenModel:
    """What a summary takes over of the round whose model was chosen."""
    return ChosenModel(
        records=records,
        round=line.round,
        loss=line.loss,
        accuracy=line.accuracy,
        metrics=line.metrics,
    )


def seconds_in(part: str, rounds: Iterable[RoundRecord]) -> float | None:
    """The sum over all rounds of a part, a field of `RoundSeconds`; None where no round has it."""
    found = [value for each in rounds if (value := getattr(each.seconds, part)) is not None]
    return sum(found) if found else None


def read_summary(folder: Path) -> RunSummary | None:
    """What was written, without leniency; None where there is none yet.

    DataError, with the key, for what the server would not write.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        found = parsed(read_file(path).decode())
        if not isinstance(found, dict) or found.pop("schema", None) not in (1, SCHEMA):
            raise DataError("it is no JSON object of a known schema")
        return RunSummary.strictly(found)
    except OSError as error:
        raise DataError(f"{SUMMARY} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{SUMMARY}: it is not UTF-8") from None
    except (ValueError, DataError) as error:
        raise DataError(f"{SUMMARY}: {error}") from None
