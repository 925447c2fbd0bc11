"""`mergery adapter`: an adapter into its model, several into one, one out of a fine-tune."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.views.adapters.peft_models import load, logits, merged, model_of, save_adapter, with_adapters


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    model_of("llama", attention_bias=True).save_pretrained(folder / "base")
    save_adapter(folder / "base", folder / "a", r=4, target_modules=["q_proj", "down_proj"])
    save_adapter(folder / "base", folder / "b", seed=2, r=2, target_modules=["q_proj", "up_proj"])
    tuned = model_of("llama", attention_bias=True)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.parameters():
            size = 0.1 * torch.rand(parameter.shape[-1]).sort(descending=True).values
            parameter.add_(torch.randn(parameter.shape) * size)
    tuned.save_pretrained(folder / "tuned")
    return folder


def said(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def test_bake(home, tmp_path, mergery):
    for rounding in ("once", "peft"):
        done = mergery("adapter", "bake", home / "base", home / "a", tmp_path / rounding, "--rounding", rounding)
        assert done.code == 0
    theirs = merged(home / "base", home / "a").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in load(tmp_path / "peft").state_dict().items())
    torch.testing.assert_close(logits(load(tmp_path / "once")), logits(load(tmp_path / "peft")))


def test_merge_is_what_both_add_and_its_energies_are_printed(home, tmp_path, mergery):
    done = mergery("adapter", "merge", home / "a", home / "b", "--out", tmp_path / "out", "--weights", 0.5, 2)
    assert done.code == 0
    assert done.out.splitlines()[-2:] == [
        "a: 100.0% of its squared length is kept",
        "b: 100.0% of its squared length is kept",
    ]
    recipe = tmp_path / "recipe.yaml"
    sources = {"base": home / "base", "a": f"{home / 'base'}+{home / 'a'}", "b": f"{home / 'base'}+{home / 'b'}"}
    lines = [f"  {name}: {path}" for name, path in sources.items()]
    merge = "merge: {method: task_arithmetic, base: base, weight: {a: 0.5, b: 2}}"
    recipe.write_text("\n".join(["models:", *lines, merge]) + "\n")
    assert mergery("merge", recipe, tmp_path / "model").code == 0
    own = logits(with_adapters(home / "base", tmp_path / "out"))
    torch.testing.assert_close(own, logits(load(tmp_path / "model")), rtol=1e-4, atol=1e-5)
    less = mergery(
        "adapter", "merge", home / "a", home / "b", "--out", tmp_path / "less", "--rank", 3, "--method", "ties"
    )
    assert less.code == 0
    assert said(tmp_path / "less")["r"] == 3
    assert "100.0%" not in less.out.splitlines()[-2]
    again = mergery("verify", tmp_path / "less", "--sample", 3)
    assert (again.code, again.err) == (0, "")


def test_extraction_at_full_rank_restores_the_fine_tune(home, tmp_path, mergery):
    done = mergery("adapter", "extract", home / "tuned", tmp_path / "out", "--base", home / "base")
    assert done.code == 0
    assert "q_proj               32       100.0%" in done.out
    assert said(tmp_path / "out")["bias"] == "all"
    assert "model.norm" in said(tmp_path / "out")["modules_to_save"]
    tuned = logits(load(home / "tuned"))
    torch.testing.assert_close(logits(with_adapters(home / "base", tmp_path / "out")), tuned, rtol=1e-4, atol=1e-4)
    assert mergery("adapter", "bake", home / "base", tmp_path / "out", tmp_path / "baked").code == 0
    expected = load(home / "tuned").state_dict()
    for name, value in load(tmp_path / "baked").state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_extraction_of_a_trained_adapter_finds_its_rank(home, tmp_path, mergery):
    assert mergery("adapter", "bake", home / "base", home / "a", tmp_path / "baked").code == 0
    command = (
        "adapter",
        "extract",
        tmp_path / "baked",
        tmp_path / "out",
        "--base",
        home / "base",
        "--energy",
        0.999999,
    )
    assert mergery(*command).code == 0
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ranks = {name.split(".")[-3]: value.shape[0] for name, value in found.items() if "lora_A" in name}
    assert (ranks["q_proj"], ranks["down_proj"], ranks["v_proj"]) == (4, 4, 1)
    torch.testing.assert_close(
        logits(with_adapters(home / "base", tmp_path / "out")), logits(load(tmp_path / "baked")), rtol=1e-4, atol=1e-4
    )


def test_extraction_by_energy_and_by_bytes(home, tmp_path, mergery):
    command = ("adapter", "extract", home / "tuned", "--base", home / "base", "--embeddings", "lora")
    assert mergery(*command, tmp_path / "energy", "--energy", 0.8).code == 0
    kept = said(tmp_path / "energy")
    assert kept["rank_pattern"]
    assert "embed_tokens" in kept["target_modules"]
    done = mergery(*command, tmp_path / "bytes", "--budget", "40KB")
    assert done.code == 0
    tensors = load_file(tmp_path / "bytes" / "adapter_model.safetensors")
    size = sum(value.nbytes for name, value in tensors.items() if "lora_" in name)
    assert 38_000 < size <= 40_000
    logits(with_adapters(home / "base", tmp_path / "bytes"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--energy", "2"), "--energy is 2\n  why: it is a share"),
        (("--energy", "0.5", "--rank", "3"), "--rank, --energy and --budget are three ways to choose a rank"),
        (("--budget", "1KB"), "1,000 bytes are too few\n  why: rank 1 of all modules takes"),
        (("--rank", "0"), "rank is 0"),
    ],
)
def test_ranks_that_cannot_be(more, words, home, tmp_path, mergery):
    done = mergery("adapter", "extract", home / "tuned", tmp_path / "out", "--base", home / "base", *more)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_adapters_that_cannot_be_merged(home, tmp_path, mergery):
    done = mergery("adapter", "merge", home / "a", home / "b", "--out", tmp_path / "out", "--weights", 1)
    assert (done.code, done.err) == (
        2,
        "mergery: 1 weights for 2 adapters\n  try: give one for each, in their order\n",
    )
    other = tmp_path / "other"
    other.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{module}.lora_A.weight": torch.ones(2, 8), f"{module}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, other / "adapter_model.safetensors")
    (other / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    done = mergery("adapter", "merge", home / "a", other, "--out", tmp_path / "out")
    assert done.code == 2
    assert "the adapters' module 'model.layers.0.self_attn.q_proj' differs in shape" in done.err
    done = mergery("adapter", "bake", home / "base", other, tmp_path / "out")
    assert done.code == 2
    assert "does not fit 'model.layers.0.self_attn.q_proj.weight' of 'model'" in done.err
    assert not (tmp_path / "out").exists()


def test_an_output_in_the_adapter_that_is_read(home, tmp_path, mergery):
    shutil.copytree(home / "a", tmp_path / "kept" / "a")
    for out, words in (("kept/a", "is, or lies in, an adapter of 'model'"), ("kept", "an adapter of 'model' lies in")):
        command = ("adapter", "bake", home / "base", tmp_path / "kept" / "a", tmp_path / out, "--replace")
        done = mergery(*command)
        assert done.code == 2
        assert words in done.err
    assert (tmp_path / "kept" / "a" / "adapter_config.json").exists()


def test_no_adapter_and_no_output(home, tmp_path, mergery):
    done = mergery("adapter", "merge", "--out", tmp_path / "out")
    assert (done.code, done.err.splitlines()[0]) == (2, "mergery: no adapters are named")
    done = mergery("adapter", "merge", home / "a")
    assert "try: mergery adapter merge --out OUT, as" in done.err


def test_modules_that_have_learnt_nothing_are_told(home, tmp_path, mergery):
    assert mergery("adapter", "bake", home / "base", home / "a", tmp_path / "baked", "--quiet").code == 0
    done = mergery("adapter", "extract", tmp_path / "baked", tmp_path / "out", "--base", home / "base", "--rank", 6)
    kept = {line.split()[0]: line.split()[-1] for line in done.out.splitlines() if "_proj" in line}
    assert kept["q_proj"] == "100.0%"
    assert "unchanged" in kept.values()


def test_what_is_said_of_an_adapter(home, tmp_path, mergery):
    command = ("adapter", "merge", home / "a", home / "b", "--out", tmp_path / "out")
    told = mergery(*command, "--dry-run")
    assert told.code == 0
    assert f"adapter for    {home / 'base'}\n" in told.out
    assert not (tmp_path / "out").exists()
    assert mergery(*command, "--quiet").code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(
        f"---\nlibrary_name: peft\ntags:\n- merge\n- mergery\nbase_model: {home / 'base'}\n---\n\n# An adapter\n"
    )
    assert "a: 100.0% of its squared length is kept\nb: 100.0% of its squared length is kept\n" in card
    inspected = mergery("inspect", tmp_path / "out")
    assert "LoRA of rank 2 to 6, alpha 6, on down_proj, q_proj, up_proj" in inspected.out
    assert f"namethatbeforeit:MODEL+{tmp_path / 'out'}" in "".join(inspected.out.split())  # a long path is broken


def test_an_adapter_alone_is_not_measured(home, tmp_path, mergery):
    lora = Path(shutil.copytree(home / "a", tmp_path / "lora"))
    said = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": None}))
    for words in (
        ["diagnose", home / "base", lora],
        ["calibrate", lora, tmp_path / "out", "--data", "x"],
    ):
        outcome = mergery(*words)
        assert outcome.code == 2
        assert f"{lora}: this is an adapter, not a model\n  why: LoRA of rank 4" in outcome.err
        assert f"MODEL+{lora}" in outcome.err
