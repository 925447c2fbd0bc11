"""What `plan` says of a merge, `merge` says when it is done, and the model card keeps."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import make_llama, tensors_of

PAIR = "models: {base: {llamas}/base, a: {llamas}/a}\n"
TIES = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\nmerge: {method: ties, base: base, scope: tensor}\n"


def told(mergery, path, out, *options: object) -> tuple[str, str, str]:
    """What `plan` prints, what `merge` prints, and the card."""
    planned = mergery("plan", path, *options)
    merged = mergery("merge", path, out, *options)
    assert planned.code == merged.code == 0, (planned.err, merged.err)
    return planned.out, merged.err, (out / "README.md").read_text()


def one_line(text: str) -> str:
    return " ".join(text.split())


COPIED_IN_CARD = "- copy of `base`: 9 tensors (norm)"  # in the list of what tensors got
CASES = {
    "left out by the recipe": (
        PAIR.replace("{llamas}/a", "./a") + "merge: {method: linear}\ndrop: ['value_head.*']\n",
        ["left out: value_head.weight (the recipe drops 'value_head.*')"],
    ),
    "layers left out of a stack": (
        PAIR + "merge: {stack: [{models: {base: 0-3}}, {models: {a: 2-3}}]}\n",
        ["left out: a: layers 0-1 (the stack does not use them)"],
    ),
    "copied by a rule": (
        PAIR + "merge: {method: linear, base: base, parts: [{where: {role: norm}, take: base}]}\n",
        ["copied from base: 9 tensors (norm)"],
    ),
    "changed in shape": (
        "models: {base: {path: {llamas}/base, convert: {layers: 6}}}\nmerge: {method: passthrough}\n",
        ["base: layers 4 -> 6"],
    ),
    "treated apart": (
        PAIR.replace("{llamas}", ".") + "merge: {method: linear}\n",
        ["tensors of integers are copied, not merged (such as 'model.table')"],
    ),
    "files left behind": (
        PAIR.replace("{llamas}/a", "./a") + "merge: {method: linear}\ndrop: [value_head.weight]\n",
        ["a: left behind: notes.txt"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_all_three_say_it(name, mergery, recipe, tmp_path, llamas):
    text, says = CASES[name]
    for model in ("base", "a"):
        make_llama(tmp_path / model, 3, llamas / model)
        tensors = tensors_of(tmp_path / model)
        extra = {"model.table": torch.arange(4)} if name == "treated apart" else {"value_head.weight": torch.zeros(3)}
        save_file(
            tensors | (extra if model == "a" or name == "treated apart" else {}), tmp_path / model / "model.safetensors"
        )
    (tmp_path / "a/notes.txt").write_text("mine")
    for each in told(mergery, recipe(text), tmp_path / "out"):
        for part in says:
            own = COPIED_IN_CARD if each.startswith("---") and name == "copied by a rule" else part
            assert own in one_line(each)


def test_a_model_without_a_tokenizer_is_not_said_to_give_one(mergery, recipe, tmp_path):
    path = recipe("models: {b: {llamas}/b, c: {llamas}/c}\nmerge: {method: linear}\n")
    planned, _, card = told(mergery, path, tmp_path / "out")
    assert "tokenizer from b, which has none" in planned
    assert "the tokenizer from b, which has none." in card
    planned, _, card = told(mergery, recipe(PAIR + "merge: {method: linear}\n"), tmp_path / "other")
    assert "which has none" not in planned + card


def test_the_events_have_it_too(mergery, recipe, tmp_path):
    path = recipe(PAIR + "merge: {stack: [{models: {base: 0-3}}, {models: {a: 2-3}}]}\n")
    outcome = mergery("merge", path, tmp_path / "out", "--json")
    planned = json.loads(outcome.out.splitlines()[0])
    assert "left out: a: layers 0-1 (the stack does not use them)" in planned["notes"]
    assert mergery("merge", path, tmp_path / "again", "--quiet").err == ""


def test_many_tensors_with_one_reason_are_one_line(mergery, recipe, tmp_path, llamas):
    make_llama(tmp_path / "a", 3, llamas / "a")
    extra = {f"heads.{number}.weight": torch.zeros(2) for number in range(40)}
    save_file(tensors_of(tmp_path / "a") | extra, tmp_path / "a/model.safetensors")
    path = recipe(PAIR.replace("{llamas}/a", "./a") + "merge: {method: linear}\ndrop: ['heads.*']\n")
    planned, *_ = told(mergery, path, tmp_path / "out")
    assert planned.count("left out") == 1
    assert "and 35 more (the recipe drops 'heads.*')" in one_line(planned)
    assert len(json.loads((tmp_path / "out/mergery.lock.json").read_text())["dropped"]) == 40


# --- fragments ----------------------------------------------------------------------------------------------------------


def words(*only: str) -> list[str]:
    return [word for each in only for word in ("--only", each)]


def test_a_fragment_is_called_one(mergery, recipe, tmp_path):
    for text in told(mergery, recipe(TIES), tmp_path / "out", *words("layers.0-1", "embed")):
        assert (
            "this is a fragment of the model, to try a recipe: 19 of its 39 tensors, of layers 0-1 of 0-3"
            in one_line(text)
        )
        assert "'model.norm.weight'" in text
    assert "# A fragment of a merged model" in (tmp_path / "out/README.md").read_text()


def test_a_fragment_has_the_bytes_of_the_whole_under_numbers_from_zero(mergery, recipe, tmp_path):
    path = recipe(TIES)
    assert mergery("merge", path, tmp_path / "all").code == 0
    assert mergery("merge", path, tmp_path / "part", *words("layers.1-2", "embed")).code == 0
    whole, part = tensors_of(tmp_path / "all"), tensors_of(tmp_path / "part")
    assert len(part) == 2 * 9 + 1
    for name, tensor in part.items():
        old = name.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1.")
        assert torch.equal(tensor, whole[old])
    assert mergery("verify", tmp_path / "part", "--sample", 3).code == 0


@pytest.mark.parametrize("layers", ["layers.0-1", "layers.1-3", "layers.3"])
def test_a_fragment_loads_as_the_model_that_it_is(mergery, recipe, tmp_path, layers):
    path = recipe(TIES)
    for text in told(mergery, path, tmp_path / "out", *words(layers, "embed", "model.norm.weight", "head")):
        assert "random numbers" not in text
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    first, _, last = layers.removeprefix("layers.").partition("-")
    depth = int(last or first) - int(first) + 1
    assert model.config.num_hidden_layers == depth
    assert model(torch.arange(8)[None]).logits.isfinite().all()
    # It computes what the whole model's layers compute.
    assert mergery("merge", path, tmp_path / "all").code == 0
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "all")
    whole.model.layers = whole.model.layers[int(first) : int(first) + depth]
    for place, layer in enumerate(whole.model.layers):
        layer.self_attn.layer_idx = place
    whole.config.num_hidden_layers = depth
    assert torch.equal(model(torch.arange(8)[None]).logits, whole(torch.arange(8)[None], use_cache=False).logits)


def test_lists_of_a_config_follow_the_layers_of_a_fragment(mergery, recipe, tmp_path):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, layer_types=kinds,
    )  # fmt: skip
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        Gemma3ForCausalLM(config).save_pretrained(tmp_path / name)
    path = recipe("models: {a: ./a, b: ./b}\nmerge: {method: linear}\n")
    assert mergery("merge", path, tmp_path / "out", *words("layers.2-3", "embed", "model.norm.weight")).code == 0
    assert AutoConfig.from_pretrained(tmp_path / "out").layer_types == kinds[2:]
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]


def test_a_fragment_without_layers_has_none(mergery, recipe, tmp_path):
    for text in told(mergery, recipe(TIES), tmp_path / "out", *words("embed")):
        assert "1 of its 39 tensors" in one_line(text)
    assert AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 0


def test_a_word_that_names_nothing(mergery, recipe, tmp_path):
    outcome = mergery("merge", recipe(TIES), tmp_path / "none", "--only", "layers.7")
    assert outcome.code == 2
    assert "names no tensor" in outcome.err
    assert "0-3" in outcome.err
