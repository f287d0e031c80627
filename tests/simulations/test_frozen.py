"""Models that train in part: what trains travels, is noised, sealed and kept, and nothing else."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from frozen_tasks import Adapters, Head, ResNet18
from privet import Execution, Experiment, PrivetError
from privet.audits import audit
from privet.client.silo import Silo
from privet.client.training import LocalTraining, loss_of, plan_round, train
from privet.errors import ModelError
from privet.privacy.mechanisms import SeededNoise
from privet.randomness import numpy_generator, stream
from privet.reports.run import write_report
from privet.server.rounds import Coordinator
from privet.simulations.grid import InProcessGrid
from privet.simulations.prepare import prepare
from privet.simulations.run import simulate
from privet.vectors import FlatModel
from rounds_written import history

PRIVATE = {"privacy.noise_multiplier": 1.0}
SEALED = {"encryption.scheme": "bfv", "encryption.colluding": 0}


def experiment(task: str, **settings: Any) -> Experiment:
    base: dict[str, Any] = {
        "task": f"frozen_tasks:{task}",
        "rounds": 2,
        "seed": 5,
        "federation.silos": 3,
        "training.lr": 0.2,
        "training.batch_size": 10,
    }
    return Experiment.from_mapping({"task": "digits"}).with_settings({**base, **settings})


def model_of(task: Any) -> nn.Module:
    return task(model=None, data_dir=None).model()  # type: ignore[no-any-return]


def seeded() -> nn.Sequential:
    torch.manual_seed(0)
    return model_of(Head)  # type: ignore[return-value]


def local(flat: FlatModel, settings: Experiment) -> LocalTraining:
    task = Head(model=None, data_dir=None)
    examples = task.train_data()
    return LocalTraining(
        lambda: flat,
        loss_of(task, settings.training),
        examples,
        flat.vector(),
        plan_round(settings, n_records=len(examples)),
        settings.training,
        lr=0.2,
        noise=lambda: SeededNoise(stream(1, "noise")),
        draws=numpy_generator(stream(1, "batches")),
    )


def bare_loop(work: LocalTraining) -> torch.Tensor:
    """Plain PyTorch: the head alone, behind features in evaluation mode; shape (d,)."""
    base, head = seeded()
    before = nn.utils.parameters_to_vector(head.parameters()).detach().clone()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.2)
    for batch in work.batches():
        with torch.no_grad():
            features = base.eval()(work.examples.inputs[batch])
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), work.examples.targets[batch]).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(head.parameters()).detach() - before


def test_a_silo_trains_its_head_as_a_plain_loop_does() -> None:
    settings = experiment("Head", **{"training.epochs": 2})
    work = local(FlatModel(seeded()), settings)
    expected = bare_loop(work)
    trained = train(local(FlatModel(seeded()), settings))
    np.testing.assert_array_equal(trained.update, expected.numpy())
    assert np.abs(trained.update).max() > 0.01


@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("task", ["Head", "Constant", "Half", "Drawn", "Adapters"])
def test_every_engine_trains_what_trains(tmp_path: Path, task: str, more: dict[str, Any]) -> None:
    """A base that is read, declared, of another type, or drawn by the seed at every end."""
    settings = experiment(task, **more)
    for name, execution in {
        "one": Execution(),
        "two": Execution(workers=2),
        "wire": Execution(isolate=True),
        "rows": Execution(engine="vectorised"),
    }.items():
        simulate(settings, out=tmp_path / name, execution=execution)
        made = (tmp_path / name / "model.safetensors").read_bytes()
        assert made == (tmp_path / "one/model.safetensors").read_bytes(), name
    assert not any(each["failures"] for each in history(tmp_path / "one"))


def test_the_run_says_what_trains_and_keeps_nothing_else(tmp_path: Path) -> None:
    summary = simulate(experiment("Head"), out=tmp_path)
    base = FlatModel(model_of(Head)).base
    assert summary["model"] == {
        "trained": 27,
        "sent": 27,
        "base": 137,
        "base_digest": base.digest,
        "local": None,
        "still": [],
        "nothing_trained": None,
    }
    assert json.loads((tmp_path / "summary.json").read_text())["model"] == summary["model"]
    model = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in model.items()} == {
        "1.weight": (3, 8),
        "1.bias": (3,),
    }
    for name in ("model", "checkpoint"):
        with safe_open(tmp_path / f"{name}.safetensors", "np") as file:
            assert file.metadata()["base"] == base.digest
            assert sum(file.get_tensor(each).size for each in file.keys()) == 27  # noqa: SIM118
    # As the documentation has it: the task's own model takes what trained.
    whole = model_of(Head)
    missing, unexpected = whole.load_state_dict(model, strict=False)
    assert not unexpected
    assert {*missing} <= {*base.tensors}


def test_a_run_goes_on_to_the_identical_model_and_only_from_its_own_base(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(entry: Any) -> None:
        if entry.round == 1:
            raise Stop

    settings = experiment("Head", rounds=3, **PRIVATE)
    simulate(settings, out=tmp_path / "whole")
    for name in ("kept", "moved"):
        with pytest.raises(Stop):
            simulate(settings, out=tmp_path / name, watch=stop)
    simulate(settings, out=tmp_path / "kept", resume=True)
    ends = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "kept")]
    assert ends[0] == ends[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Head, "__init__", _another(Head.__init__))
        with pytest.raises(PrivetError, match=r"begun with the base of digest .*, not with the ba"):
            simulate(settings, out=tmp_path / "moved", resume=True)
        plain = experiment("Head", rounds=3)
        patch.undo()
        with pytest.raises(Stop):
            simulate(plain, out=tmp_path / "plain", watch=stop)
        # The server compares as well: it has no `silos.json` of real silos.
        about = json.loads((tmp_path / "plain/silos.json").read_text())
        other = FlatModel(Head(model=None, data_dir=None, scale=2.0).model()).base.digest
        (tmp_path / "plain/silos.json").write_text(json.dumps({**about, "base": other}))
        patch.setattr(Head, "__init__", _another(Head.__init__))
        with pytest.raises(PrivetError, match=r"with a base of digest .*--resume needs the same"):
            simulate(plain, out=tmp_path / "plain", resume=True)


def _another(inner: Any) -> Any:
    def init(self: Head, **options: Any) -> None:
        inner(self, **{**options, "scale": 2.0})

    return init


def test_two_runs_that_differ_in_their_base_alone_share_no_noise(tmp_path: Path) -> None:
    updates = []
    for scale in (1.0, 1.0 + 1e-6):
        with pytest.MonkeyPatch.context() as patch:
            init = Head.__init__
            patch.setattr(
                Head, "__init__", lambda self, i=init, s=scale, **kw: i(self, **{**kw, "scale": s})
            )
            simulate(experiment("Head", rounds=1, **PRIVATE), out=tmp_path / str(scale))
        model = load_file(tmp_path / str(scale) / "model.safetensors")
        updates.append(model["1.weight"])
    assert float((updates[0] - updates[1]).abs().max()) > 0.01


class Sent:
    """The bytes of arrays in every message, by kind and direction."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.largest: dict[str, int] = {}
        inner = InProcessGrid._answer

        def answer(grid: InProcessGrid, messages: Any) -> Any:
            def seen() -> Any:
                for message in messages:
                    self._see("down", message)
                    yield message

            for reply in inner(grid, seen()):
                self._see("up", reply)
                yield reply

        monkeypatch.setattr(InProcessGrid, "_answer", answer)

    def _see(self, way: str, message: Message) -> None:
        if not message.has_content():
            return
        size = 0
        for record in message.content.values():
            parts = record.values()
            if isinstance(record, ArrayRecord):
                size += sum(len(array.data) for array in parts)
            else:
                size += sum(len(part) for part in parts if isinstance(part, bytes | str))
        key = f"{way} {message.metadata.message_type}"
        self.largest[key] = max(size, self.largest.get(key, 0))


@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
def test_adapters_travel_in_a_few_kilobytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    sent = Sent(monkeypatch)
    summary = simulate(experiment("Adapters", **more), out=tmp_path)
    assert (summary["model"]["trained"], summary["model"]["base"]) == (642, 320_000)
    assert max(sent.largest.values()) < 3_000
    assert (tmp_path / "checkpoint.safetensors").stat().st_size < 4_000


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
def test_the_head_of_a_resnet_travels_in_25_kilobytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    sent = Sent(monkeypatch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = experiment("ResNet18", **{"federation.silos": 2, "training.steps": 1, **more})
    summary = simulate(settings, out=tmp_path)
    assert (summary["model"]["trained"], summary["model"]["sent"]) == (5130, 5130)
    assert max(sent.largest.values()) < 25_000
    assert (tmp_path / "model.safetensors").stat().st_size < 25_000
    assert not any(each["failures"] for each in history(tmp_path))
    # Model and its making: 45 MB each, whoever needs a model in the process.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_an_encrypted_upload_goes_by_what_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by 320,000 numbers; whole ciphertexts are sent, so one holds few as well as many."""
    sent = Sent(monkeypatch)
    settings = experiment("Adapters", **PRIVATE, **SEALED)
    summary = simulate(settings, out=tmp_path)
    per_number = summary["encryption"]["upload_bytes_per_parameter"]
    assert sent.largest["up train"] < 45_000
    assert per_number * 642 < 45_000
    assert not any(each["failures"] for each in history(tmp_path))


@pytest.mark.usefixtures("shared_noise")
def test_an_encrypted_run_comes_to_the_model_of_one_in_the_clear(tmp_path: Path) -> None:
    for name, more in {"clear": {}, "sealed": SEALED}.items():
        simulate(experiment("Head", **PRIVATE, **more), out=tmp_path / name)
    clear, sealed = (load_file(tmp_path / n / "model.safetensors") for n in ("clear", "sealed"))
    for name, tensor in clear.items():
        torch.testing.assert_close(sealed[name], tensor, rtol=0, atol=1e-3)


@pytest.mark.parametrize("more", [{}, SEALED], ids=["clear", "encrypted"])
def test_a_silo_with_another_base_is_refused_by_name_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    _give_another_base(monkeypatch)
    simulate(experiment("Head", **{"federation.silos": 4}, **more), out=tmp_path)
    lines = history(tmp_path)
    [failure] = lines[0]["failures"]
    assert "the server names a base of digest" in failure["reason"]
    assert [each["participants"] for each in lines[1:]] == [["silo-0", "silo-2", "silo-3"]] * 2


def _give_another_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of the second silo reads another file, as it were."""
    inner, other = Silo.model, FlatModel(Head(model=None, data_dir=None, scale=2.0).model())
    monkeypatch.setattr(Silo, "model", lambda silo: other if silo.index == 1 else inner(silo))


def test_a_silo_that_is_told_what_it_wants_to_hear_signs_for_its_own_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into a silo's signature it computes; a server can name each its own digest."""
    _give_another_base(monkeypatch)
    monkeypatch.setattr(Silo, "demand_base", lambda *_: None)
    simulate(experiment("Head", **{"federation.silos": 4}, **SEALED), out=tmp_path)
    lines = history(tmp_path)
    assert lines[0]["failures"] == []
    assert [each["participants"] for each in lines[1:]] == [["silo-0", "silo-2", "silo-3"]] * 2


@pytest.mark.parametrize("named", ["0" * 64, None])
def test_a_server_that_names_another_base_is_refused_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    inner = Coordinator.run

    def run(coordinator: Coordinator, checkpoint: Any) -> Any:
        coordinator._model.base = named
        return inner(coordinator, checkpoint)

    monkeypatch.setattr(Coordinator, "run", run)
    with pytest.raises(PrivetError, match=r"no silo can take part: the task loads a base of"):
        simulate(experiment("Head"), out=tmp_path)


@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize(
    ("task", "named"),
    [("Writing", "'weight' changes"), ("Flipping", r"'first\.weight\.requires_grad' changes")],
)
def test_a_base_that_changes_in_training_is_found(
    tmp_path: Path, task: str, named: str, more: dict[str, Any]
) -> None:
    settings = experiment(task, **more)
    if more:  # before anything is written
        with pytest.raises(ModelError, match=named):
            simulate(settings, out=tmp_path)
        return
    simulate(settings, out=tmp_path)
    for line in history(tmp_path)[1:]:
        assert not line["participants"]
        assert all("changes when the model runs" in each["reason"] for each in line["failures"])


@pytest.mark.parametrize("more", [{}, PRIVATE], ids=["plain", "private"])
def test_a_buffer_that_is_declared_constant_and_moves_is_found(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    settings = experiment("Constant", **{"data.moving": True}, **more)
    if more:
        with pytest.raises(ModelError, match="'scale' changes"):
            simulate(settings, out=tmp_path)
        return
    simulate(settings, out=tmp_path)
    assert not any(line["participants"] for line in history(tmp_path))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("Frozen", "the model has no trainable parameter: all of them are frozen"),
        ("Undeclared", "constant_buffers: 'tabel' is the name of no buffer of the model"),
    ],
)
def test_a_model_that_cannot_train_is_refused_in_one_line(
    tmp_path: Path, task: str, said: str
) -> None:
    with pytest.raises(ModelError) as caught:
        simulate(experiment(task), out=tmp_path / "run")
    assert str(caught.value) == said
    assert not (tmp_path / "run").exists()


def test_the_base_is_as_it_was_after_training_with_and_without_privacy() -> None:
    for more in ({}, PRIVATE):
        flat = FlatModel(model_of(Head))
        before = {name: tensor.clone() for name, tensor in flat.base.tensors.items()}
        train(local(flat, experiment("Head", **more)))
        for name, tensor in flat.base.tensors.items():
            assert tensor.numpy().tobytes() == before[name].numpy().tobytes()


def test_no_gradient_is_kept_of_what_is_frozen() -> None:
    flat = FlatModel(model_of(Adapters))
    settings = experiment("Adapters", **PRIVATE)
    train(local(flat, settings))
    for tensor in flat.base.tensors.values():
        assert tensor.grad is None
        assert getattr(tensor, "grad_sample", None) is None
    assert sum(p.numel() for p in ResNet18(model=None, data_dir=None).model().parameters()) > 11e6


def test_a_run_in_which_nothing_moves_says_so(tmp_path: Path) -> None:
    model = simulate(experiment("Detached"), out=tmp_path)["model"]
    assert model["still"] == ["1.weight", "1.bias"]
    assert model["nothing_trained"].startswith("nothing was trained: every number of the model is")
    assert "no gradient" in model["nothing_trained"]


@pytest.mark.parametrize("more", [PRIVATE, {**SEALED, "federation.silos": 2}], ids=["dp", "sealed"])
def test_a_loss_without_gradients_is_refused_where_nobody_could_see_it(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """Noise moves every number, and the sums of others are not to be read."""
    with pytest.raises(PrivetError, match="no parameter gets a gradient from the loss"):
        simulate(experiment("Detached", **more), out=tmp_path / "run")


def test_single_tensors_that_stay_are_named(tmp_path: Path) -> None:
    still = ["beside.weight", "beside.bias"]
    summary = simulate(experiment("PartlyDetached"), out=tmp_path)
    assert summary["model"]["still"] == still
    assert summary["model"]["nothing_trained"] is None
    # With noise they move: what is said then comes of made-up examples, before any record is read.
    private = prepare(experiment("PartlyDetached", **PRIVATE))
    [warning] = [each for each in private.warnings if "no gradient" in each]
    assert warning.startswith("beside.weight, beside.bias: ")
    assert not any(
        "no gradient" in each for each in prepare(experiment("Head", **PRIVATE)).warnings
    )


def test_a_run_begins_from_what_another_trained_of_the_same_base(tmp_path: Path) -> None:
    simulate(experiment("Head"), out=tmp_path / "first")
    begun = tmp_path / "first/model.safetensors"
    simulate(experiment("Head", **begins(begun)), out=tmp_path / "second")
    at_start = load_file(tmp_path / "second/checkpoint.safetensors")["weights"]
    assert at_start.shape == (27,)
    # The whole state dict will do as well, if its base is the task's.
    model = Head(model=None, data_dir=None).model()
    whole = tmp_path / "whole.safetensors"
    save_file(model.state_dict(), whole)
    simulate(experiment("Head", **begins(whole)), out=tmp_path / "third")
    save_file(Head(model=None, data_dir=None, scale=2.0).model().state_dict(), whole)
    with pytest.raises(PrivetError, match=r"tensor '0\.0\.weight' is of the base"):
        simulate(experiment("Head", **begins(whole)), out=tmp_path / "fourth")


def begins(file: Path) -> dict[str, str]:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"start.file": str(file), "start.sha256": digest, "start.seen": "nothing"}


def test_an_audit_follows_the_steps_of_what_trains(tmp_path: Path) -> None:
    """Canaries, steps and dry runs beside a base: the auditor's code holds it as training does."""
    settings = experiment("Head", rounds=3, **PRIVATE)
    simulate(settings, out=tmp_path, execution=Execution(canaries=64))
    claims = {claim.id: claim for claim in audit([tmp_path], base=tmp_path).claims}
    for name in ("sound", "steps", "canaries", "dry-run", "code"):
        assert claims[f"mechanism.{name}"].verdict == "PASS", claims[f"mechanism.{name}"]
    page = write_report(tmp_path).read_text()
    assert "Numbers that train" in page
    assert "of 164; the base, of digest" in page
