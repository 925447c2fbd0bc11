"""`protect`: on protected text the output's matrices do as the model's own, whatever the merge."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mergery.planning.protecting import leading
from tests.calibration.conftest import FAMILIES, model, recipe, tokenizer, write  # noqa: F401
from tests.calibration.whole import load

MATRICES = ("proj", "c_attn", "c_proj", "c_fc", "query", "key.", "value", "dense")


def test_the_leading_directions():
    x = torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gram = (x.T @ x).float().double()
    basis = leading(gram, 1.0)
    assert basis.shape == (30, 6)
    assert torch.allclose(x - (x @ basis) @ basis.T, torch.zeros_like(x), atol=1e-5)
    assert leading(gram, 0.0).shape == (30, 0)
    assert leading(torch.zeros(4, 4, dtype=torch.float64), 1.0).shape == (4, 0)
    some = leading(gram, 0.5)
    held = float(((x @ some) ** 2).sum() / (x**2).sum())
    assert 0.5 <= held < 0.5 + float(torch.linalg.eigvalsh(gram).max() / gram.trace())


def said(path, tmp_path, **more):
    """The recipe with `protect` in it, as a file of its own."""
    data = yaml.safe_load(path.read_text())
    data["protect"] = more
    data["output"] = {"dtype": "float32"}
    out = path.with_name("protected.yaml")
    out.write_text(yaml.safe_dump(data))
    return out


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_what_the_matrices_make_of_protected_text_stays(family, recipe, mergery, write, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, data = recipe(family), write(1)
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    assert mergery("merge", path, plain).code == 0
    outcome = mergery("merge", said(path, tmp_path, data=data.name), kept)
    assert outcome.code == 0, outcome.err
    base = load_file(yaml.safe_load(path.read_text())["models"]["base"] + "/model.safetensors")
    new, old = load_file(kept / "model.safetensors"), load_file(plain / "model.safetensors")
    module = load(kept, FAMILIES[family][0])
    own = load(yaml.safe_load(path.read_text())["models"]["base"], FAMILIES[family][0])
    from transformers import AutoTokenizer

    ids = torch.tensor([AutoTokenizer.from_pretrained(kept)(json.loads(data.read_text())["text"])["input_ids"]])
    with torch.no_grad():
        mine, theirs = (each(input_ids=ids).logits for each in (module, own))
        merged = load(plain, FAMILIES[family][0])(input_ids=ids).logits
    # Every matrix does as the base's on what the base gives it, so the whole model does; the plain merge does not.
    assert float((mine - theirs).abs().max()) < 1e-3 * float((merged - theirs).abs().max())
    moved = [name for name in new if not torch.equal(new[name], base[name])]
    assert moved and all("layer" in name or ".h." in name or "pooler" in name for name in moved)
    assert any(not torch.equal(new[name], old[name]) for name in moved)
    again = mergery("verify", kept, "--sample", 8)
    assert again.code == 0, again.err


def test_without_the_directions_of_any_text_it_is_the_merge(recipe, mergery, write, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = recipe("llama")
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(data | {"output": {"dtype": "float32"}}))
    assert mergery("merge", path, tmp_path / "plain").code == 0
    file = said(path, tmp_path, data=write(3).name, energy=0.0, rest="merge")
    assert mergery("merge", file, tmp_path / "kept").code == 0
    one, other = (tmp_path / each / "model.safetensors" for each in ("plain", "kept"))
    assert one.read_bytes() == other.read_bytes()


def test_only_some_tokens_count(recipe, mergery, write, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, data = recipe("llama"), write(20)
    word = json.loads(data.read_text().splitlines()[0])["text"].split()[1]
    base = yaml.safe_load(path.read_text())["models"]["base"]
    assert mergery("calibrate", base, tmp_path / "all", "--data", data).code == 0
    outcome = mergery("calibrate", base, tmp_path / "some", "--data", data, "--tokens", f" {word}")
    assert outcome.code == 0, outcome.err
    whole, some = (json.loads((tmp_path / each / "statistics.json").read_text()) for each in ("all", "some"))
    assert some["only"] == [f" {word}"] and whole["only"] == []
    tokens = {name: each["tokens"][0] for name, each in some["inputs"].items()}
    assert all(0 < count < whole["inputs"][name]["tokens"][0] for name, count in tokens.items())
    added = mergery("calibrate", base, tmp_path / "sum", "--data", data, "--add", tmp_path / "some")
    assert added.code == 2 and "these statistics are of other tokens" in added.err
    file = said(path, tmp_path, statistics=str(tmp_path / "some"))
    assert mergery("merge", file, tmp_path / "kept").code == 0
    told = mergery("plan", said(path, tmp_path, data=data.name, tokens=[f" {word}"]))
    assert told.code == 0 and "on protected text 14 matrices do as those of base" in told.out.replace("\n", " ")
    whole = said(path, tmp_path, data=data.name)
    assert mergery("merge", whole, tmp_path / "little").code == 0
    warned = mergery("plan", whole)  # once the text has been measured
    assert "more tokens than 14 matrices have inputs" in " ".join((warned.out + warned.err).split())


@pytest.mark.parametrize(
    ("protect", "message"),
    [
        ({}, "protect names a file of text"),
        ({"data": "nothing.jsonl"}, "the data 'nothing.jsonl' cannot be read"),
        ({"data": 3}, "data is 3"),
        ({"data": "data.jsonl", "energy": 2}, "energy is 2"),
        ({"data": "data.jsonl", "rest": "none"}, "rest is 'none'"),
        ({"data": "data.jsonl", "model": "three"}, "three"),
        ({"data": "data.jsonl", "tokens": [1]}, "tokens must be a list of texts"),
        ({"data": "data.jsonl", "tokens": ["qqqqq"]}, "no text has the tokens of 'qqqqq'"),
        ({"data": "data.jsonl", "token": ["a"]}, "unknown"),
        ({"statistics": "one"}, "these are no statistics"),
    ],
)
def test_what_cannot_be_protected(protect, message, recipe, mergery, write, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = recipe("llama")
    write(5)
    outcome = mergery("merge", said(path, tmp_path, **protect), tmp_path / "out")
    assert outcome.code == 2 and message in outcome.err, outcome.err
    assert not (tmp_path / "out").exists()


def test_a_merge_without_a_base_says_whose_text_it_is(model, mergery, tmp_path):  # noqa: F811
    path = tmp_path / "recipe.yaml"
    models = {"one": str(model("llama")), "two": str(model("llama", 1))}
    path.write_text(yaml.safe_dump({"models": models, "merge": {"method": "linear"}, "protect": "a.jsonl"}))
    outcome = mergery("plan", path)
    assert outcome.code == 2 and "protect does not say which model" in outcome.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"merge": {"stack": [{"models": {name: "0-1"}} for name in ("one", "two", "base")]}},
            "a stack cannot be protected",
        ),
        ({"output": {"adapter": True}}, "an adapter cannot be protected"),
    ],
)
def test_what_is_no_merge_of_whole_models(more, message, recipe, mergery, write, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = recipe("llama")
    file = said(path, tmp_path, data=write(2).name, model="one")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))
    outcome = mergery("plan", file)
    assert outcome.code == 2 and message in outcome.err, outcome.err


def test_experts_have_no_tokens_of_their_own(recipe, mergery, write, tmp_path):  # noqa: F811
    data = write(4)
    base = yaml.safe_load(recipe("mixtral").read_text())["models"]["base"]
    outcome = mergery("calibrate", base, tmp_path / "out", "--data", data, "--tokens", "a")
    assert outcome.code == 2 and "--tokens are of models without experts" in outcome.err
