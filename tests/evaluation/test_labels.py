"""Classification heads: encoders that pad, decoders that cannot."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergery
from mergery.errors import CheckpointError, DataError, Problems, TaskError
from mergery.evaluation import EvaluationOptions
from tests.evaluation.conftest import texts, train_tokenizer


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """An encoder and a decoder with heads for three labels."""
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    root = tmp_path_factory.mktemp("classifiers")
    names = {0: "low", 1: "middle", 2: "high"}
    shape = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 48, "initializer_range": 0.5, "id2label": names,
        "label2id": {name: number for number, name in names.items()},
    }  # fmt: skip
    torch.manual_seed(0)
    for name, model in (
        ("encoder", BertForSequenceClassification(BertConfig(**shape, pad_token_id=2))),
        ("decoder", LlamaForSequenceClassification(LlamaConfig(**shape))),
    ):
        model.save_pretrained(root / name)
        train_tokenizer().save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_against_one_by_one_in_float64_for_any_batch(classifiers, write, name):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    lines = [{**line, "label": index % 3} for index, line in enumerate(texts(12, longest=9))]
    model = AutoModelForSequenceClassification.from_pretrained(classifiers / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifiers / name)
    chosen, losses = [], []
    for line in lines:
        with torch.inference_mode():
            logs = torch.log_softmax(model(**tokenizer(line["text"], return_tensors="pt")).logits[0].double(), -1)
        chosen.append(int(logs.argmax()))
        losses.append(-float(logs[line["label"]]))
    assert len(set(chosen)) > 1
    for batch in (1, 32):
        found = mergery.evaluate(classifiers / name, write(lines), options=EvaluationOptions(batch=batch)).tasks[0]
        assert [outcome.details["chosen"] for outcome in found.items] == chosen
        assert found.scores["log_loss"] == pytest.approx(math.fsum(losses) / 12, rel=1e-5)
        right = sum(own == line["label"] for own, line in zip(chosen, lines, strict=True))
        assert found.scores["accuracy"] == right / 12


def test_labels_may_be_named_as_the_config_names_them(classifiers, write):
    lines = texts(9, longest=9)
    numbered = mergery.evaluate(classifiers / "encoder", write([{**line, "label": 2} for line in lines])).scores
    named = mergery.evaluate(classifiers / "encoder", write([{**line, "label": "high"} for line in lines])).scores
    assert numbered == named


def test_labels_that_the_model_does_not_have(classifiers, write):
    lines = [{"text": "ab", "label": "low"}, {"text": "cd", "label": "hgih"}, {"text": "d", "label": "none"}]
    with pytest.raises(
        Problems, match=r"task.jsonl:2: the model has no label 'hgih'\n  why: it has 3: low, middle, high"
    ):
        mergery.evaluate(classifiers / "encoder", write(lines))
    with pytest.raises(TaskError, match="no label 3"):
        mergery.evaluate(classifiers / "encoder", write([{"text": "ab", "label": 3}]))


def test_long_texts_are_cut_and_counted(classifiers, write):
    found = mergery.evaluate(classifiers / "encoder", write([{"text": "ab cd " * 60, "label": 0}])).tasks[0]
    assert found.cut == 1


def test_a_head_that_would_be_random_is_refused(classifiers, zoo, write):
    with pytest.raises(CheckpointError, match=r"score.weight would be random\n  try: a task of labels needs"):
        mergery.evaluate(zoo / "base", write([{"text": "ab", "label": 0}]))
    with pytest.raises(CheckpointError, match=r"lm_head.weight would be random"):
        mergery.evaluate(classifiers / "decoder", write(texts(1)))
    module_tokenizer = train_tokenizer()
    from transformers import AutoModelForSequenceClassification

    module = AutoModelForSequenceClassification.from_pretrained(classifiers / "encoder")
    with pytest.raises(CheckpointError, match="has no language head"):
        mergery.evaluate(module, write(texts(1)), tokenizer=module_tokenizer)


def test_a_classifier_that_answers_with_nan_has_no_score(classifiers, write, tmp_path):
    shutil.copytree(classifiers / "encoder", tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, tmp_path / "encoder" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="the model answers NaN"):
        mergery.evaluate(tmp_path / "encoder", write([{**each, "label": 0} for each in texts(3)]))


def test_labels_stand_in_the_results(classifiers, write, tmp_path):
    found = mergery.evaluate(
        classifiers / "encoder", write([{"text": "ab", "label": 0, "category": "x"}]), results=tmp_path / "results"
    )
    row = json.loads(Path(found.tasks[0].file).read_text().splitlines()[1])
    assert (row["item"], row["category"], set(row["values"])) == ("1", "x", {"accuracy", "log_loss"})
