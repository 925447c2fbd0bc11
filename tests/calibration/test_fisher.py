"""Fisher information, found block by block, is that of one backward pass for each example through the whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mergery
from mergery.calibration import running
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import close, load, rows_of, squares, tensors

FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight")  # of transformers, stored otherwise


def of_data(logits, row):
    """The log-likelihood of the text, or of the answer."""
    answer = row.answer if row.prompt else row.answer[1:]
    logs = torch.log_softmax(logits, -1)
    logs = logs if len(logs) == len(row.answer) else logs[-1 - len(answer) : -1]
    return [(1.0, logs[range(len(answer)), list(answer)].sum())]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "mixtral", "t5"])
def test_empirical(family, model, write, tokenizer, tmp_path):
    data = write(3, pairs=family == "t5")
    options = mergery.CalibrationOptions(("fisher",), labels="empirical")
    mergery.calibrate(model(family), data, tmp_path / "stats", options=options, tokenizer=tokenizer)
    module = load(model(family), FAMILIES[family][0])
    whole, kept = squares(module, rows_of(data, module, tokenizer), of_data), tensors(tmp_path / "stats")
    for name, values in whole.items():
        if not name.endswith(FUSED):
            assert close(kept[f"{name}.fisher"], values, 1e-5), name
    if family == "mixtral":
        one = "model.layers.0.block_sparse_moe.experts.1"
        parts = np.concatenate([kept[f"{one}.{each}.weight.fisher"] for each in ("w1", "w3")])
        assert close(parts, whole["model.layers.0.mlp.experts.gate_up_proj"][1], 1e-5)


def test_exact_of_a_classifier(model, write, tokenizer, tmp_path):
    data = write(3)
    options = mergery.CalibrationOptions(("fisher",), labels="exact")
    mergery.calibrate(model("bert"), data, tmp_path / "stats", options=options, tokenizer=tokenizer)
    module = load(model("bert"), FAMILIES["bert"][0])

    def all_classes(logits, row):
        return [(float(log.detach().exp()), log) for log in torch.log_softmax(logits, -1)]

    whole, kept = squares(module, rows_of(data, module, tokenizer), all_classes), tensors(tmp_path / "stats")
    assert whole.keys() == {name.removesuffix(".fisher") for name in kept}
    for name, values in whole.items():
        if not name.endswith("key.bias"):  # softmax takes no notice of it: its gradient is rounding
            assert close(kept[f"{name}.fisher"], values, 1e-5), name


def test_sampled_labels_average_to_the_exact(model, write, tokenizer, tmp_path):
    """Of one text, drawn with many seeds: the expectation over classes."""
    data = write(1)
    exact = mergery.CalibrationOptions(("fisher",), labels="exact")
    mergery.calibrate(model("bert"), data, tmp_path / "exact", options=exact, tokenizer=tokenizer)
    many = tmp_path / "many.jsonl"
    many.write_text(data.read_text() * 100)
    sampled = mergery.CalibrationOptions(("fisher",), labels="sampled", seed=1)
    mergery.calibrate(model("bert"), many, tmp_path / "sampled", options=sampled, tokenizer=tokenizer)
    one, mean = tensors(tmp_path / "exact"), tensors(tmp_path / "sampled")
    name = "classifier.bias.fisher"
    assert np.allclose(mean[name] / 100, one[name], rtol=0.4)
    again = tmp_path / "again"
    mergery.calibrate(model("bert"), many, again, options=sampled, tokenizer=tokenizer)
    assert all(np.array_equal(values, mean[each]) for each, values in tensors(again).items())


def test_sweeps_of_any_size_give_the_same(model, write, tmp_path, monkeypatch):
    options = mergery.CalibrationOptions(("fisher",))
    data = write(5)
    mergery.calibrate(model("qwen2"), data, tmp_path / "one", options=options)
    monkeypatch.setattr(running, "AT_ONCE", 1)
    mergery.calibrate(model("qwen2"), data, tmp_path / "five", options=options)
    one, five = tensors(tmp_path / "one"), tensors(tmp_path / "five")
    assert one.keys() == five.keys()
    assert all(close(five[name], one[name]) for name in one)
