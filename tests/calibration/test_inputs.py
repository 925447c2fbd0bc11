"""Statistics of inputs, found block by block, are those of the whole model in memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import mergery
from mergery.calibration import passes
from mergery.checkpoints.statistics import read_statistics
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import close, inputs, load, rows_of, tensors

STATS = mergery.CalibrationOptions(("gram", "activation"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_they_are_those_of_hooks_on_the_whole_model(family, model, write, tokenizer, tmp_path):
    data = write(8, pairs=family == "t5")
    found = mergery.calibrate(model(family), data, tmp_path / "stats", options=STATS, tokenizer=tokenizer)
    module = load(model(family), FAMILIES[family][0])
    whole, kept = inputs(module, rows_of(data, module, tokenizer)), tensors(tmp_path / "stats")
    compared = 0
    for name, (gram, size, tokens) in whole.items():
        if name not in found.inputs:
            assert name in ("lm_head.weight", "predictions.decoder.weight"), (
                name
            )  # tied, and stored with the embeddings
            continue
        own = found.inputs[name]
        assert own.tokens == (tokens,)
        assert close(kept[f"{own.of}.activation"], size)
        if f"{own.of}.gram" in kept:
            assert close(kept[f"{own.of}.gram"], gram)
            compared += 1
    assert compared >= 8


def test_what_weights_share_is_kept_once(model, write, tmp_path):
    found = mergery.calibrate(model("llama"), write(3), tmp_path / "stats", options=STATS)
    q, k, v, o = (f"model.layers.1.self_attn.{each}_proj.weight" for each in "qkvo")
    assert [found.inputs[name].of for name in (q, k, v, o)] == [q, q, q, o]
    kept = tensors(tmp_path / "stats")
    assert f"{q}.gram" in kept and f"{k}.gram" not in kept


def test_experts_have_the_tokens_that_reach_them(model, write, tmp_path):
    found = mergery.calibrate(model("mixtral"), write(6), tmp_path / "stats", options=STATS)
    kept = tensors(tmp_path / "stats")
    name = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
    for weight in ("w1", "w2", "w3"):
        tokens = [found.inputs[name.format(expert, weight)].tokens[0] for expert in range(4)]
        assert sum(tokens) == 2 * found.tokens  # each goes to two
    assert found.inputs[name.format(0, "w3")].of == name.format(0, "w1")
    # All experts together have seen each token twice: the trace is that of the router's input.
    grams = [kept[f"{name.format(expert, 'w1')}.gram"] for expert in range(4)]
    module = load(model("mixtral"), "MixtralForCausalLM")
    seen = []
    module.model.layers[0].mlp.gate.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().double()))
    for row in rows_of(write(6), module, __import__("transformers").AutoTokenizer.from_pretrained(model("mixtral"))):
        module(torch.tensor([row.tokens]))
    assert np.isclose(sum(np.trace(gram) for gram in grams), 2 * sum(float((each**2).sum()) for each in seen))


def test_shards_of_data_add_up(model, write, tmp_path):
    first, second = write(4, seed=1, name="first.jsonl"), write(5, seed=2, name="second.jsonl")
    both = tmp_path / "both.jsonl"
    both.write_text(first.read_text() + second.read_text())
    mergery.calibrate(model("llama"), first, tmp_path / "one", options=STATS)
    found = mergery.calibrate(model("llama"), second, tmp_path / "sum", options=STATS, add=[tmp_path / "one"])
    whole = mergery.calibrate(model("llama"), both, tmp_path / "whole", options=STATS)
    assert (found.inputs, found.tokens, found.examples) == (whole.inputs, whole.tokens, 9)
    added, once = tensors(tmp_path / "sum"), tensors(tmp_path / "whole")
    assert added.keys() == once.keys()
    assert all(close(added[name], once[name]) for name in once)


def test_a_merge_that_was_never_written(model, write, tmp_path):
    recipe = {
        "models": {"base": str(model("llama")), "a": str(model("llama", 1)), "b": str(model("llama", 2))},
        "merge": {"method": "ties", "base": "base", "density": 0.5},
    }
    data = write(4)
    mergery.calibrate(recipe, data, tmp_path / "view", options=STATS)
    mergery.merge({**recipe, "output": {"dtype": "float32"}}, tmp_path / "merged")
    mergery.calibrate(tmp_path / "merged", data, tmp_path / "folder", options=STATS)
    one, other = tensors(tmp_path / "view"), tensors(tmp_path / "folder")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_hidden_states_in_files_are_the_same(model, write, tmp_path, monkeypatch):
    mergery.calibrate(model("gemma2"), write(4), tmp_path / "memory", options=STATS)
    monkeypatch.setattr(passes, "IN_MEMORY", 0)
    monkeypatch.setattr(passes, "SMALL", 0)
    mergery.calibrate(model("gemma2"), write(4), tmp_path / "files", options=STATS)
    one, other = tensors(tmp_path / "memory"), tensors(tmp_path / "files")
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "files").glob("hidden-*"))


def test_inputs_of_a_unit_are_gone_when_the_next_is_run(model, write, tmp_path):
    from mergery.calibration.products import Products

    gc.collect()
    gc.disable()  # what only it would free holds memory for long
    try:
        alive = []

        def count(event):
            alive.append(sum(issubclass(type(each), Products) for each in gc.get_objects()))

        mergery.calibrate(model("llama"), write(4), tmp_path / "stats", options=STATS, on_event=count)
    finally:
        gc.enable()
    assert len(alive) > 4 and max(alive) <= 1


class Killed(Exception):
    pass


@pytest.mark.parametrize("family", ["llama", "albert"])
def test_a_run_that_was_killed_goes_on(family, model, write, tmp_path):
    data = write(6)
    mergery.calibrate(model(family), data, tmp_path / "whole", options=STATS)

    left = tmp_path / "out.partial"

    def kill(event):
        if list(left.glob("*.part")):
            raise Killed

    with pytest.raises(Killed):
        mergery.calibrate(model(family), data, tmp_path / "out", options=STATS, on_event=kill)
    stamps = {path.name: path.stat().st_mtime_ns for path in left.glob("*.part")}
    assert stamps and not (tmp_path / "out").exists()
    seen = []

    def look(event):
        seen.append({path.name: path.stat().st_mtime_ns for path in left.glob("*.part")})

    found = mergery.calibrate(model(family), data, tmp_path / "out", options=STATS, on_event=look)
    assert all(seen[0][name] == stamp for name, stamp in stamps.items())
    with mergery.open(tmp_path / "whole") as checkpoint:
        assert read_statistics(checkpoint) == found
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "out")
    assert all(np.array_equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    assert not list((tmp_path / "out").glob("progress*"))


def test_what_was_left_of_other_data_is_begun_anew(model, write, tmp_path):
    def kill(event):
        if getattr(event, "place", 0) == 2:
            raise Killed

    with pytest.raises(Killed):
        mergery.calibrate(model("llama"), write(6), tmp_path / "out", options=STATS, on_event=kill)
    other = write(5, seed=3)
    mergery.calibrate(model("llama"), other, tmp_path / "out", options=STATS)
    mergery.calibrate(model("llama"), other, tmp_path / "whole", options=STATS)
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "out")
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_statistics_are_a_checkpoint(model, write, tmp_path):
    found = mergery.calibrate(model("gpt2"), write(4), tmp_path / "stats", options=STATS)
    with mergery.open(tmp_path / "stats") as checkpoint:
        assert checkpoint.tensors["transformer.h.0.attn.c_attn.weight.gram"].shape == (32, 32)
        assert checkpoint.tensors["transformer.h.0.mlp.c_proj.weight.gram"].shape == (128, 128)
        assert read_statistics(checkpoint) == found
    assert found.data[0]["examples"] == 4
