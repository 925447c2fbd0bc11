"""Paths through layers: the model itself to the bit, planted layers found, and a plain model that computes the path."""

from __future__ import annotations

import json
import random
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch

import mergery
from mergery.evaluation.models import open_subject
from mergery.exploration.flow.path import Hop, Path, Slots, neighbours, straight
from mergery.exploration.flow.running import FlowModel, logits_of
from mergery.recipe.reading import load_recipe
from tests.evaluation.conftest import words

TEXTS = ["ab cde", "dé ba acd a", "c"]


@pytest.fixture(scope="module")
def deep(zoo: FilePath, tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    """`good`, a Llama of four layers, and `bad`, the same with a layer of noise put in behind the second."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    good = LlamaForCausalLM(config)
    good.save_pretrained(root / "good")
    noise = {"models": {"good": str(root / "good")}, "merge": {"stack": [{"models": {"good": "0-1"}},
             {"models": {"good": "1"}, "scale": -3.0}, {"models": {"good": "2-3"}}]}}  # fmt: skip
    mergery.merge(noise, root / "bad")
    LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), "hidden_size": 64})).save_pretrained(root / "wide")
    tokenizer = AutoTokenizer.from_pretrained(zoo / "base")
    for name in ("good", "bad", "wide"):
        tokenizer.save_pretrained(root / name)
    rng, lines = random.Random(0), []
    for number in range(48):
        start = tokenizer(words(rng, 2), return_tensors="pt")["input_ids"]
        made = good.generate(start, max_new_tokens=20, min_new_tokens=20, do_sample=True, pad_token_id=0)
        lines.append(json.dumps({"id": str(number), "text": tokenizer.decode(made[0], skip_special_tokens=True)}))
    (root / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return root


def flow(deep: FilePath, *names: str) -> FlowModel:
    return FlowModel({name: open_subject(deep / name, name=name) for name in names}, "language", "float32")


def test_the_straight_path_is_the_model_to_the_bit(deep: FilePath) -> None:
    alone = logits_of(open_subject(deep / "good").load("language"), TEXTS)
    model = flow(deep, "good", "bad")
    assert torch.equal(logits_of(model.follow(straight("good", 4)), TEXTS), alone)
    other = model.follow(Path("good", (Hop("good", 0), Hop("bad", 3), Hop("good", 3))))
    assert not torch.equal(logits_of(other, TEXTS), alone)
    assert torch.equal(logits_of(model.follow(straight("good", 4)), TEXTS), alone)


def test_a_plain_model_computes_a_path_with_scales(deep: FilePath, tmp_path: FilePath) -> None:
    path = Path("good", (Hop("good", 0), Hop("bad", 2, 1.7), Hop("good", 1, 0.6), Hop("good", 1, 1.2), Hop("good", 3)))
    told = logits_of(flow(deep, "good", "bad").follow(path), TEXTS)
    recipe = load_recipe(path.recipe({name: str(deep / name) for name in ("good", "bad")}))
    mergery.merge(recipe, tmp_path / "out")
    saved = logits_of(open_subject(tmp_path / "out").load("language"), TEXTS)
    assert float((saved - told).abs().max() / told.std()) < 1e-3
    without = Path("good", tuple(Hop(hop.model, hop.layer) for hop in path.hops))
    assert float((logits_of(flow(deep, "good", "bad").follow(without), TEXTS) - told).abs().max() / told.std()) > 1e-2


def test_a_layer_that_is_passed_twice_keeps_its_own_keys_at_each_place(deep: FilePath) -> None:
    path = Path(
        "good", (Hop("good", 0), Hop("good", 1), Hop("good", 1), Hop("good", 2), Hop("good", 1), Hop("good", 3))
    )
    loaded = flow(deep, "good").follow(path)
    ids = loaded.tokenizer("ab cde dé", return_tensors="pt")["input_ids"]
    made = [
        loaded.module.generate(
            ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, use_cache=kept, pad_token_id=0
        )
        for kept in (True, False)
    ]
    assert torch.equal(*made)


def test_slots_leave_the_ends_where_they_are() -> None:
    slots = Slots({"a": 4, "b": 2}, 2)
    assert slots.layers == [("a", 1), ("a", 2), ("b", 0), ("b", 1)] * 2
    path = slots.path(slots.start(), [1.0] * 8)
    assert path == straight("a", 4)


def test_neighbours_change_one_layer_and_leave_the_ends() -> None:
    found = [each.hops for each in neighbours(straight("a", 3), {"a": 3, "b": 2}, 2)]
    first, last, own = Hop("a", 0), Hop("a", 2), Hop("a", 1)
    assert found == [(first, last), (first, Hop("b", 1), last), (first, own, own, last)]
    assert len(list(neighbours(straight("a", 3), {"a": 3, "b": 2}, 1))) == 2
    assert not list(neighbours(straight("a", 2), {"a": 2, "b": 2}, 2))


def test_a_planted_path_is_found_and_saved(mergery: Any, deep: FilePath, tmp_path: FilePath) -> None:
    """From `bad`, whose third layer is noise, greedy steps come to the path without it: that is `good`."""
    out = tmp_path / "flow"
    command = ("flow", deep / "bad", "--tasks", deep / "texts.jsonl", "--out", out, "--repeats", "1", "--trials", "30")
    done = mergery(*command)
    assert done.code == 0, done.err
    record = json.loads((out / "flow.json").read_text())
    assert [hop[1] for hop in record["path"]] == [0, 1, 3, 4]
    assert record["score"] > record["start"]
    assert mergery("merge", out / "recipe.yaml", tmp_path / "merged").code == 0
    good = logits_of(open_subject(deep / "good").load("language"), TEXTS)
    assert torch.allclose(logits_of(open_subject(tmp_path / "merged").load("language"), TEXTS), good, atol=1e-4)


def test_a_killed_search_goes_on(mergery: Any, deep: FilePath, tmp_path: FilePath) -> None:
    command = ("flow", deep / "bad", deep / "good", "--tasks", deep / "texts.jsonl", "--sampler", "cma")
    assert mergery(*command, "--out", tmp_path / "whole", "--trials", "20").code == 0
    assert mergery(*command, "--out", tmp_path / "parts", "--trials", "7").code == 0
    assert mergery(*command, "--out", tmp_path / "parts", "--trials", "20").code == 0
    whole, parts = (json.loads((tmp_path / name / "flow.json").read_text())["tours"] for name in ("whole", "parts"))
    assert whole == parts
    assert whole[0]["path"] == straight("bad", 5).plain


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--repeats", "0"), "repeats is 0"), (("--stretch", "0.5"), "stretch is 0.5"), (("--sampler", "tpe"), "greedy")],
)
def test_slips_end_with_one_message(mergery: Any, deep: FilePath, tmp_path: FilePath, options: Any, said: str) -> None:
    done = mergery("flow", deep / "good", "--tasks", deep / "texts.jsonl", "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert said in done.err


def test_models_that_cannot_follow_each_other_are_refused(mergery: Any, deep: FilePath, tmp_path: FilePath) -> None:
    done = mergery("flow", deep / "good", deep / "wide", "--tasks", deep / "texts.jsonl", "--out", tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out" / "recipe.yaml").exists()
