"""A training that is watched: its steps for an auditor, and dry runs on made-up examples.

A silo with canaries keeps of every round what its optimizer stepped on, at a few coordinates of the
model. In its first round one silo trains on made-up examples as well: by the same code and beside
its own training, so that all of it is known but the noise. Nothing of either is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from flwr.app import Context
from torch import Tensor, nn

from privet.base import Base
from privet.client.evaluation import measure
from privet.client.permits import EvaluationPermit
from privet.client.silo import ModelCache, Silo
from privet.client.training import LocalPlan, LocalTraining
from privet.privacy.dp_events import DpEvent
from privet.privacy.mechanisms import DpSgd, ExampleType
from privet.privacy.mechanisms.traces import (
    EVALUATIONS,
    STEPS,
    EvaluationTrace,
    StepTrace,
    Use,
    add_evaluation,
    add_trace,
    dry_places,
    own_places,
)
from privet.privacy.policy import MetricRule
from privet.pytrees import called, mapped
from privet.randomness import numpy_generator, stream
from privet.tasks import Examples, Task
from privet.vectors import FlatModel, Vector

EXAMPLES = 24
"""Made-up examples of a dry run."""
CLIPPING_NOISE = 0.05
"""Noise multiplier of a dry run for clipping: a gradient that is not clipped stands out."""
_RATE = 0.5
_STEPS: dict[Use, int] = {"noise": 3, "clipping": 4, "steps": 4}
_NUMBERS = 8000
"""Of noise, that a dry run for it draws at least, for its tails."""
_DRY: tuple[Use, ...] = ("noise", "clipping")
DRY_RUNS = "dry-runs.jsonl"
_MOVING: tuple[Use, ...] = ("training", "steps")
_LARGEST, _SMALLEST = 1000.0, 0.01
"""Of the factors on made-up numbers: gradients far above the clip norm, and far below."""


@dataclass
class StepRecorder:
    """What a training's steps leave at some of the coordinates that it trains."""

    places: np.ndarray
    batches: list[np.ndarray] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    records: int = 0
    _inside: list[Tensor] = field(default_factory=list)

    def drawn(self, batches: Iterator[np.ndarray], records: int) -> Iterator[np.ndarray]:
        """The batches, remembered; a new training of so many records begins."""
        # Silos that cannot train together begin again one by one; what counts is the last time.
        self.records = records
        for kept in (self.batches, self.weights, self.gradients):
            kept.clear()
        for batch in batches:
            self.batches.append(batch)
            yield batch

    def look(self, parameters: Sequence[nn.Parameter]) -> None:
        """Keep weights and gradients, right before the optimizer steps."""
        trained = [p for p in parameters if p.grad is not None]
        if not self._inside:
            inside = _by_tensor(self.places, [p.numel() for p in trained])
            self._inside = [at.to(p.device) for at, p in zip(inside, trained, strict=True)]
        pairs = [*zip(trained, self._inside, strict=True)]
        self.weights.append(torch.cat([p.detach().view(-1)[at] for p, at in pairs]).cpu())
        gradients = [p.grad.reshape(-1)[at] for p, at in pairs if p.grad is not None]
        self.gradients.append(torch.cat(gradients).cpu())

    def examples(self) -> list[np.ndarray]:
        """Of each step the records that were in it, without canaries."""
        return [batch[batch < self.records] for batch in self.batches]


def _by_tensor(places: np.ndarray, sizes: Sequence[int]) -> list[Tensor]:
    ends = np.cumsum(sizes)
    cut = np.split(places, np.searchsorted(places, ends)[:-1])
    starts = ends - np.array(sizes)
    return [torch.from_numpy(at - start) for at, start in zip(cut, starts, strict=True)]


@dataclass(frozen=True)
class WatchedTraining(LocalTraining):
    """A local training whose batches and steps a recorder sees."""

    recorder: StepRecorder = field(default_factory=lambda: StepRecorder(np.arange(0)))

    def batches(self) -> Iterator[np.ndarray]:
        """As ever."""
        return self.recorder.drawn(super().batches(), len(self.examples))


def watched(work: LocalTraining, *, silo: Silo, context: Context, round_: int) -> WatchedTraining:
    """The same training, watched at a few coordinates of every tensor.

    Of simulated silos one in each round is watched step by step, as that takes time. With dry runs
    beside it, where none of this job were made yet.
    """
    recorder = StepRecorder(own_places(tuple(trained_sizes(work.model().module))))
    correction = work.correction

    def corrected(parameters: list[nn.Parameter]) -> None:
        if correction is not None:
            correction(parameters)
        # Last: what it sees is what the optimizer steps on.
        recorder.look(parameters)

    # dataclasses.replace would give a LocalTraining again.
    fields = {name: getattr(work, name) for name in LocalTraining.__dataclass_fields__}
    if silo.seed is None or (silo.index + round_) % len(silo.local.silos) == 0:
        fields["correction"] = corrected
    if _first(context):
        fields["dry_runs"] = _dry_runs(work, silo, round_)
    return WatchedTraining(**fields, recorder=recorder)


def _dry_runs(work: LocalTraining, silo: Silo, round_: int) -> tuple[LocalTraining, ...]:
    try:
        return tuple(dry_training(work, use, silo=silo, round_=round_) for use in _DRY)
    except Exception:  # a task's own model, on made-up examples; an audit says that none were made
        return ()


def _first(context: Context) -> bool:
    """Whether this silo is the first to ask in this folder: it makes the dry runs."""
    file = _folder(context) / DRY_RUNS
    if file.exists():
        return False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Atomic: of several worker processes one makes the file, and with it the dry runs.
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _folder(context: Context, name: str = STEPS) -> Path:
    return Path(str(context.node_config["canaries-dir"])) / name


def keep_steps(
    work: WatchedTraining, update: Vector, *, silo: Silo, context: Context, round_: int
) -> None:
    """Write down what the recorders of a round saw, and the update that is sent."""
    name = silo.name if silo.seed is None else f"silo-{silo.index}"
    trace = trace_of(work, "training", silo=silo, round_=round_, update=update)
    add_trace(_folder(context) / f"{name}.jsonl", trace)
    for use, dry in zip(_DRY, work.dry_runs, strict=False):
        if isinstance(dry, WatchedTraining):
            add_trace(_folder(context) / DRY_RUNS, trace_of(dry, use, silo=silo, round_=round_))


def trained_sizes(model: nn.Module) -> list[int]:
    """Of every tensor that training changes, how many numbers it has."""
    return [p.numel() for p in model.parameters() if p.requires_grad]


def trained_part(model: nn.Module, vector: Vector) -> Vector:
    """Of the model's flat vector that which training changes."""
    return vector[: sum(trained_sizes(model))]  # buffers lie behind


def dry_model(base: Base) -> Base:
    """A copy of a model whose weights are made up, and without dropout: gradients are known.

    What is frozen stays, and is the very same memory.
    """
    twin = base.twin()
    rng = numpy_generator(stream(0, "made-up weights"))
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, twin.parameters()):
            # By fan-in, as initialisers do, so that outputs are of the size of inputs.
            spread = max(1, parameter.numel() // len(parameter)) if parameter.dim() > 1 else 25
            drawn = rng.normal(scale=spread**-0.5, size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    for module in twin.modules():
        # What all of torch's dropout layers have in common; it has no public name.
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    dry = Base.of(twin, base.constant)
    dry.train()
    return dry


def dry_examples(base: Base, like: ExampleType) -> Examples:
    """Made-up examples that the model takes, with gradients of very different lengths."""
    problem: Exception | None = None
    for inputs in like.made_up(EXAMPLES):
        given = mapped(_of_many_sizes, inputs)
        try:
            with torch.no_grad():
                # On a copy: a trial must not move the buffers of the model that is trained next.
                outputs = called(base.twin(), given)
        except Exception as error:  # a task's own model
            problem = problem or error
            continue
        return Examples(given, like.made_up_targets(outputs))
    assert problem is not None
    raise problem


def _of_many_sizes(leaf: Tensor) -> Tensor:
    if not leaf.is_floating_point():
        return leaf
    factors = np.geomspace(_SMALLEST, _LARGEST, EXAMPLES).astype(np.float32)
    order = numpy_generator(stream(0, "made-up sizes")).permutation(EXAMPLES)
    return leaf * torch.from_numpy(factors[order]).view(-1, *(1 for _ in leaf.shape[1:]))


def dry_training(
    work: LocalTraining,
    use: Use,
    *,
    silo: Silo,
    round_: int,
    steps: int | None = None,
) -> WatchedTraining:
    """A training like `work`, which is with differential privacy, on made-up examples.

    It begins where `dry_model` does. For "noise" and "clipping" the weights stay there (a learning
    rate of 0), for "steps" they move as those of `work`; for "clipping" there is little noise.
    """
    mechanism = work.plan.mechanism
    assert mechanism is not None
    dry = dry_model(silo.model().base)
    flat, sizes = FlatModel(dry.module, constant=dry.constant), trained_sizes(dry.module)
    # In float32 whatever the passes of `work` are in: what is seen is held against float64.
    device = replace(work.device, precision="float32")
    on_device = flat if device.on_cpu else flat.on(device)
    plan = DpSgd(
        noise_multiplier=CLIPPING_NOISE if use == "clipping" else mechanism.noise_multiplier,
        clip=mechanism.clip,
        sampling_rate=_RATE,
        steps=steps or _enough(use, sum(sizes)),
        batch_size=_RATE * EXAMPLES,
    )
    recorder, name = StepRecorder(dry_places(tuple(sizes))), f"dry run {use}"
    return WatchedTraining(
        model=lambda: on_device,
        loss=work.loss,
        examples=dry_examples(dry, silo.local.example_type),
        weights=flat.vector(),
        plan=LocalPlan(plan.steps, int(plan.batch_size), plan),
        training=work.training,
        lr=work.lr if use == "steps" else 0.0,
        noise=partial(silo.noise, round_, name),
        draws=numpy_generator(silo.entropy(round_, name)),
        correction=recorder.look,
        canaries=work.canaries,
        device=device,
        recorder=recorder,
    )


def _enough(use: Use, weights: int) -> int:
    """Steps; a small model has little noise in each."""
    return max(_STEPS[use], min(60, -(-_NUMBERS // weights))) if use == "noise" else _STEPS[use]


def trace_of(
    work: WatchedTraining, use: Use, *, silo: Silo, round_: int, update: Vector | None = None
) -> StepTrace:
    """What the recorder saw; `update` is what came of the training, where weights moved."""
    assert work.plan.mechanism is not None
    recorder, dry = work.recorder, use != "training"
    model = work.model().module
    start = end = np.zeros(0, dtype=np.float32)
    if use in _MOVING and update is not None:
        start = trained_part(model, work.weights)[recorder.places]
        end = start + trained_part(model, update)[recorder.places]
    told = silo.seed is not None and not dry
    return StepTrace(
        silo.name,
        round_,
        use,
        work.plan.mechanism,
        _stacked(recorder.gradients, len(recorder.places)),
        _stacked(recorder.weights if use in _MOVING else [], len(recorder.places)),
        start,
        end,
        tuple(tuple(batch.tolist()) for batch in recorder.examples()) if dry else (),
        tuple(map(len, recorder.examples())) if told else (),
        len(work.examples) if silo.seed is not None or dry else None,
    )


def _stacked(rows: list[Tensor], width: int) -> np.ndarray:
    if not rows:
        return np.zeros((0, width), dtype=np.float32)
    return np.asarray(torch.stack(rows).numpy())


class _Shares(nn.Module):
    """A task whose model gives its input back, and whose metrics are the targets' mean."""

    notes = ()

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs

    def metrics(self, _outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return dict.fromkeys(self.names, float(targets.double().mean()))


@dataclass(frozen=True)
class _MadeUpPermit:
    """Permission to measure what is made up."""

    rules: tuple[MetricRule, ...]
    examples: Examples
    event: DpEvent | None = None
    records_public: bool = False

    def records(self) -> Examples:
        return self.examples


_RELEASES = "first", "second", "third", "fourth"


def dry_evaluation(silo: Silo, round_: int, noise_multiplier: float) -> EvaluationTrace:
    """Release the shares of made-up values as a round's evaluation does, from `silo`'s noise."""
    # So many that noise alone makes neither sum negative.
    half = max(8, math.ceil(4 * noise_multiplier))
    values = torch.arange(2 * half) % 2
    examples = Examples(values.float().unsqueeze(1), values)
    task = _Shares(_RELEASES)
    local = replace(silo.local, task=cast("Task", task), model_cache=ModelCache(task))
    rules = tuple(MetricRule(name, "noised", noise_multiplier) for name in _RELEASES)
    stand_in = replace(silo, local=local)
    weights = np.zeros(1, dtype=np.float32)
    reply = measure(stand_in, round_, weights, _MadeUpPermit(rules, examples))
    released = tuple(reply.metrics.values())
    return EvaluationTrace(silo.name, round_, noise_multiplier, half, half, released)


def keep_evaluation(silo: Silo, context: Context, round_: int, permit: EvaluationPermit) -> None:
    """Where there are canaries and figures leave with noise, write down a dry evaluation."""
    noised = [rule.noise_multiplier for rule in permit.rules if rule.release == "noised"]
    if not context.node_config.get("canaries") or not noised:
        return
    name = silo.name if silo.seed is None else f"silo-{silo.index}"
    trace = dry_evaluation(silo, round_, noised[0] or 0.0)
    add_evaluation(_folder(context, EVALUATIONS) / f"{name}.jsonl", trace)
