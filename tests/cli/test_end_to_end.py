"""Through the command line to a folder that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergery.method import methods
from tests.conftest import make_llama, mergery_process, tensors_of, weights_of

MODELS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b, c: {llamas}/c}\n"
PAIR = "models: {base: {llamas}/base, a: {llamas}/a}\n"


def load(folder: Path) -> torch.nn.Module:
    """Load as a user would, and insist that every weight was in the file."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits
    assert logits.isfinite().all()
    return model


def body(name: str) -> str:
    """A recipe for any method, with settings where it has no defaults."""
    method = methods()[name]
    values = {"float": 0.5, "fraction": 0.5, "way": 0.5, "task": "a"}
    wanted = [s for s in method.settings.values() if s.required or s.kind == "task"]
    needed = {s.name: values.get(s.kind, 1) for s in wanted}
    most = method.models[1] or 3
    names = ["a", "b", "c"][: max(method.models[0], min(most, 3))]
    base = "base: base, " if method.base != "unused" else ""
    settings = "".join(f", {key}: {value}" for key, value in needed.items())
    paths = ", ".join(f"{each}: {{llamas}}/{each}" for each in (["base"] if base else []) + names)
    return f"models: {{{paths}}}\nmerge: {{method: {name}, {base}models: [{', '.join(names)}]{settings}}}\nseed: 3\n"


@pytest.mark.parametrize("name", sorted(name for name in methods() if not methods()[name].statistics))
def test_every_method_gives_a_model_that_transformers_loads(name, mergery, recipe, tmp_path, llamas):
    outcome = mergery("merge", recipe(body(name)), tmp_path / "out", "--threads", 2)
    assert outcome.code == 0, outcome.err
    load(tmp_path / "out")
    merged, base = tensors_of(tmp_path / "out"), tensors_of(llamas / "base")
    assert merged.keys() == base.keys()
    assert all(merged[key].shape == base[key].shape for key in base)


def test_linear_is_the_average(mergery, recipe, tmp_path, llamas):
    mergery(
        "merge",
        recipe(
            MODELS
            + "merge: {method: linear, models: [a, b], base: base, weight: {a: 3, b: 1}}\n".replace("base: base, ", "")
        ),
        tmp_path / "out",
    )
    # `base` and `c` are declared but not used: an error, so nothing is written
    assert not (tmp_path / "out").exists()
    text = "models: {a: {llamas}/a, b: {llamas}/b}\nmerge: {method: linear, weight: {a: 3, b: 1}}\n"
    assert mergery("merge", recipe(text), tmp_path / "out").code == 0
    a, b, out = tensors_of(llamas / "a"), tensors_of(llamas / "b"), tensors_of(tmp_path / "out")
    for name in out:
        torch.testing.assert_close(out[name], 0.75 * a[name] + 0.25 * b[name], rtol=1e-6, atol=1e-7)


def test_a_stage_equals_two_runs(mergery, recipe, tmp_path):
    two = "models: {a: {llamas}/a, b: {llamas}/b}\nmerge: {method: slerp, t: 0.3}\n"
    assert mergery("merge", recipe(two, "one.yaml"), tmp_path / "middle").code == 0
    after = "models: {middle: ./middle, c: {llamas}/c, base: {llamas}/base}\n"
    after += "merge: {method: ties, base: base, density: 0.4, scope: tensor}\n"
    assert mergery("merge", recipe(after, "two.yaml"), tmp_path / "twice").code == 0
    staged = "models:\n  a: {llamas}/a\n  b: {llamas}/b\n  c: {llamas}/c\n  base: {llamas}/base\n"
    staged += "  middle: {method: slerp, models: [a, b], t: 0.3}\n"
    staged += "merge: {method: ties, base: base, models: [middle, c], density: 0.4, scope: tensor}\n"
    assert mergery("merge", recipe(staged), tmp_path / "once").code == 0
    assert weights_of(tmp_path / "once") == weights_of(tmp_path / "twice")


def test_a_stack_has_the_depth_that_its_config_says(mergery, recipe, tmp_path, llamas):
    text = PAIR + "merge:\n  stack:\n  - models: {base: 0-3}\n  - models: {a: 2-3}\n"
    assert mergery("merge", recipe(text), tmp_path / "out").code == 0
    model = load(tmp_path / "out")
    assert model.config.num_hidden_layers == 6
    a, base, out = tensors_of(llamas / "a"), tensors_of(llamas / "base"), tensors_of(tmp_path / "out")
    assert torch.equal(out["model.layers.4.mlp.up_proj.weight"], a["model.layers.2.mlp.up_proj.weight"])
    assert torch.equal(out["model.layers.3.mlp.up_proj.weight"], base["model.layers.3.mlp.up_proj.weight"])
    assert torch.equal(out["lm_head.weight"], a["lm_head.weight"])
    assert torch.equal(out["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_dtype_and_shards(mergery, recipe, tmp_path):
    text = PAIR + "merge: {method: task_arithmetic, base: base}\noutput: {dtype: bfloat16, shard_size: 20kB}\n"
    assert mergery("merge", recipe(text), tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert load(tmp_path / "out").dtype == torch.bfloat16
    assert {t.dtype for t in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


def test_the_stated_donor_gives_tokenizer_and_template(mergery, recipe, tmp_path):
    text = PAIR + "merge: {method: task_arithmetic, base: base}\noutput: {tokenizer: a}\n"
    assert mergery("merge", recipe(text), tmp_path / "out").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w5 w7")["input_ids"] == [5, 7]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi a"
    assert (tmp_path / "out/generation_config.json").exists()


def test_card_and_lock(mergery, recipe, tmp_path):
    path = recipe(PAIR + "merge: {method: ties, base: base}\n")
    assert mergery("merge", path, tmp_path / "out").code == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "method: ties" in card
    assert "2306.01708" in card
    assert mergery("verify", tmp_path / "out", "--sample", 5).code == 0
    shard = tmp_path / "out/model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    outcome = mergery("verify", tmp_path / "out")
    assert outcome.code == 1
    assert "has changed" in outcome.err


def test_bin_checkpoints_merge_like_safetensors(mergery, recipe, tmp_path, llamas):
    for name in ("base", "a"):
        folder = tmp_path / name
        folder.mkdir()
        torch.save(dict(tensors_of(llamas / name)), folder / "pytorch_model.bin")
        (folder / "config.json").write_text((llamas / name / "config.json").read_text())
    merge = "merge: {method: ties, base: base}\n"
    assert mergery("merge", recipe("models: {base: ./base, a: ./a}\n" + merge), tmp_path / "bin").code == 0
    assert mergery("merge", recipe(PAIR + merge, "other.yaml"), tmp_path / "safe").code == 0
    one, two = tensors_of(tmp_path / "bin"), tensors_of(tmp_path / "safe")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_tied_models_stay_tied(mergery, recipe, tmp_path):
    make_llama(tmp_path / "base", 0, tie_word_embeddings=True)
    make_llama(tmp_path / "a", 1, tmp_path / "base")
    path = recipe("models: {base: ./base, a: ./a}\nmerge: {method: linear}\n")
    assert mergery("merge", path, tmp_path / "out").code == 0
    assert "lm_head.weight" not in tensors_of(tmp_path / "out")
    load(tmp_path / "out")


@pytest.mark.parametrize("name", ["dare_ties", "ties", "slerp"])
def test_threads_and_chunks_cannot_change_a_byte(name, mergery, recipe, tmp_path):
    if name not in methods():
        pytest.skip("the method is not here")
    path = recipe(body(name))
    runs = [("--threads", 1), ("--threads", 3, "--chunk", "64Ki"), ("--threads", 2, "--chunk", "1Mi")]
    for index, options in enumerate(runs):
        assert mergery("merge", path, tmp_path / f"out{index}", *options).code == 0
    assert weights_of(tmp_path / "out0") == weights_of(tmp_path / "out1") == weights_of(tmp_path / "out2")


def test_the_command_is_a_module_too(recipe, tmp_path):
    path = recipe(PAIR + "merge: {method: linear}\n")
    done = mergery_process("merge", path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stderr


def test_the_card_tells_the_models_apart(recipe, tmp_path, mergery):
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: task_arithmetic, base: base}\n")
    assert mergery("merge", path, tmp_path / "out").code == 0
    rows = [line.split("|") for line in (tmp_path / "out/README.md").read_text().splitlines() if "/llamas" in line]
    marks = [row[3] for row in rows if len(row) > 4]
    assert len(marks) == 2
    assert len(set(marks)) == 2
