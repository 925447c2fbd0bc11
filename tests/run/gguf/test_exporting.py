"""Models written as GGUF: what they hold is read back by other hands, and what cannot be written is refused."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.errors import DataError, MergeryError
from mergery.run.exporting import GgufSink
from mergery.run.workers import Options
from mergery.testing.families import FAMILIES, fine_tune, make
from mergery.testing.families.making import load, logits
from mergery.testing.families.table import Family

gguf = pytest.importorskip("gguf", reason="GGUF is written with the package gguf")
from tests.run.gguf.test_llama_cpp import MORE, NAMES  # noqa: E402
from tests.run.gguf.tokenizers import TEXTS, byte_level_folder, pieces_folder  # noqa: E402

BY_NAME = {family.name: family for family in FAMILIES}


def family_named(name: str) -> Family:
    """A family whose tiny config says what llama.cpp needs to know."""
    family = BY_NAME[name]
    return replace(family, config={**family.config, **MORE.get(name, {})})


def make_model(name: str, folder: Path) -> Path:
    """A tiny model; where transformers has no class for it, its config is completed by hand."""
    made = make(family_named(name), folder)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, **MORE.get(name, {})}))
    return made


def values(path: Path) -> dict[str, np.ndarray]:
    """Every tensor as a checkpoint gives it."""
    found: dict[str, np.ndarray] = {}
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            raw = np.empty(info.nbytes, np.uint8)
            checkpoint.read(name, 0, info.elements, raw)
            found[name] = (
                torch.from_numpy(raw).view(getattr(torch, info.dtype.torch)).reshape(info.shape).float().numpy()
            )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    folder = make_model(name, tmp_path / "model")
    api.export_gguf(folder, tmp_path / "x.gguf", type="f32")
    before, after = values(folder), values(tmp_path / "x.gguf")
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        before.pop("lm_head.weight", None)
    assert before.keys() == after.keys()
    for key in before:
        assert np.allclose(before[key], after[key], rtol=0, atol=2e-7), key


@pytest.mark.parametrize("name", ["Mixtral", "Qwen 2 MoE", "Qwen 3 MoE"])
def test_experts_in_stacks_give_the_same_file(name: str, tmp_path: Path) -> None:
    """As newer transformers has them, under its names for modules."""
    from safetensors.torch import load_file, save_file

    folder = make_model(name, tmp_path / "model")
    api.export_gguf(folder, tmp_path / "x.gguf", type="q8_0")
    tensors = load_file(folder / "model.safetensors")
    model, _ = load(family_named(name), folder)
    stacks = {key: value for key, value in model.state_dict().items() if ".experts." in key}
    assert all(value.dim() == 3 for value in stacks.values())
    plain = {key: value for key, value in model.state_dict().items() if key not in stacks}
    assert len(tensors) > len(plain) + len(stacks)
    save_file(
        {key: value.contiguous().clone() for key, value in {**plain, **stacks}.items()}, folder / "model.safetensors"
    )
    api.export_gguf(folder, tmp_path / "again.gguf", type="q8_0")
    first, again = ({t.name: t.data for t in gguf.GGUFReader(tmp_path / f"{n}.gguf").tensors} for n in ("x", "again"))
    assert first.keys() == again.keys()
    assert [key for key in first if not np.array_equal(first[key], again[key])] == []


@pytest.mark.parametrize("name", ["Gemma 3", "Mistral 3", "LLaVA"])
def test_the_language_model_of_a_multimodal_one(name: str, tmp_path: Path) -> None:
    folder = make_model(name, tmp_path / "model")
    _, notes = api.export_gguf(folder, tmp_path / "x.gguf", type="f32")
    assert any("the file has the language model alone, without" in note for note in notes)
    after = values(tmp_path / "x.gguf")
    assert {key for key in after if "vision" in key or "projector" in key} == set()
    expected = {
        re.sub(r"^(model\.)?language_model\.(model\.)?|^model\.", "", key): value
        for key, value in values(folder).items()
    }
    found = {key.removeprefix("model."): value for key, value in after.items()}
    assert found.keys() <= expected.keys()
    assert [key for key in found if not np.allclose(found[key], expected[key], rtol=0, atol=2e-7)] == []


@pytest.mark.parametrize("name", ["Llama", "Kanana", "Mistral", "Qwen 2", "Qwen 2 tied", "Mamba"])
def test_transformers_reads_it(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF with it")
    family = family_named(name)
    folder = make_model(name, tmp_path / "model")
    api.export_gguf(folder, tmp_path / "x.gguf", type="f32")
    expected, _ = load(family, folder)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32)
    near = 1e-5 if name == "Mamba" else 0.0  # its A is a logarithm's power
    torch.testing.assert_close(logits(family, read), logits(family, expected), rtol=near, atol=near / 10)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_blocks_are_those_of_the_package(kind: str, tmp_path: Path) -> None:
    folder = make_model("Qwen 3", tmp_path / "model")  # whose rows stay in their places
    api.export_gguf(folder, tmp_path / "x.gguf", type=kind.lower())
    reader, plain = gguf.GGUFReader(tmp_path / "x.gguf"), values(folder)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    finer = gguf.GGMLQuantizationType["Q8_0" if kind[:2] in ("Q4", "Q5") else kind]
    assert tensors["output.weight"].tensor_type == finer
    assert tensors["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    found = tensors["blk.1.ffn_down.weight"]
    wanted = gguf.quants.quantize(plain["model.layers.1.mlp.down_proj.weight"], gguf.GGMLQuantizationType[kind])
    assert found.tensor_type == gguf.GGMLQuantizationType[kind]
    assert np.array_equal(found.data.reshape(-1).view(np.uint8), wanted.reshape(-1).view(np.uint8))


def recipe_of(tmp_path: Path) -> Path:
    """A merge of two fine-tunes of a tiny Llama with a tokenizer."""
    byte_level_folder(tmp_path / "base", "llama-bpe")
    for number, name in enumerate("ab"):
        fine_tune(tmp_path / "base", tmp_path / name, number + 1)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "models: {base: base, a: a, b: b}\n"
        "merge: {method: ties, base: base, models: [a, b], density: 0.5}\n"
        "output: {dtype: float32}\n"
    )
    return path


def test_a_recipe_goes_straight_into_the_file(mergery: Any, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    assert mergery("export", "gguf", recipe, tmp_path / "x.gguf", "--type", "f32").code == 0
    assert mergery("merge", recipe, tmp_path / "out").code == 0
    merged, written = values(tmp_path / "out"), values(tmp_path / "x.gguf")
    assert merged.keys() == written.keys()
    assert all(np.array_equal(merged[name], written[name]) for name in merged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base", "out", "recipe.yaml", "x.gguf"]
    for threads in (1, 2):
        api.export_gguf(recipe, tmp_path / f"{threads}.gguf", type="q4_0", options=Options(threads, 1 << 16))
    one, two = ((tmp_path / f"{threads}.gguf").read_bytes() for threads in (1, 2))
    assert one.replace(b"general.name\x08\0\0\0\1\0\0\0\0\0\0\x001", b"") == two.replace(
        b"general.name\x08\0\0\0\1\0\0\0\0\0\0\x002", b""
    )


def test_an_interrupted_export_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    api.export_gguf(recipe, tmp_path / "x.gguf", type="q8_0")
    whole = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "x.gguf").unlink()
    write, count = GgufSink.write, 0

    def failing(self: GgufSink, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(28, os.strerror(28))
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GgufSink, "write", failing)
        patch.setattr("mergery.run.workers.BATCH", 1)
        with pytest.raises(OSError, match="space"):
            api.export_gguf(recipe, tmp_path / "x.gguf", type="q8_0")
    assert not (tmp_path / "x.gguf").exists()
    api.export_gguf(recipe, tmp_path / "x.gguf", type="q8_0")
    assert (tmp_path / "x.gguf").read_bytes() == whole


@pytest.mark.parametrize("kind", ["byte level", "pieces"])
def test_the_tokenizer_comes_back(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if kind == "pieces":
        pytest.importorskip("sentencepiece", reason="it trains the tokenizer")
        original = pieces_folder(tmp_path / "model", prefix=True)
    else:
        original = byte_level_folder(tmp_path / "model", "qwen2")
    api.export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="bf16")
    copy = {"models": {"x": str(tmp_path / "x.gguf")}, "merge": {"method": "passthrough", "models": ["x"]}}
    api.merge(copy, tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    for text in TEXTS:
        ids = original.encode(text, add_special_tokens=False).ids
        assert again(text, add_special_tokens=False).input_ids == ids
        if kind == "byte level":
            assert again.decode(ids) == text
    assert again.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert torch.load is not None and open_checkpoint(tmp_path / "again").config["dtype"] == "bfloat16"


def test_a_file_is_evaluated_as_its_folder_is(tmp_path: Path) -> None:
    byte_level_folder(tmp_path / "model", "gpt-2")
    api.export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="f32")
    task = tmp_path / "texts.jsonl"
    task.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:2]))
    folder, file = (api.evaluate(tmp_path / name, task).scores for name in ("model", "x.gguf"))
    assert folder.keys() == file.keys()
    assert all(np.isclose(folder[key], file[key], rtol=1e-6) for key in folder)


def edit(folder: Path, **changes: Any) -> Path:
    """Change a model's config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("Falcon", {}, "a model of the family falcon cannot be written as GGUF here"),
        ("Qwen 3 MoE", {"norm_topk_prob": False}, "its norm_topk_prob is False, and llama.cpp takes True for granted"),
        ("Llama", {"hidden_act": "gelu"}, "its hidden_act is 'gelu'"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "in the way 'dynamic'"),
        ("Llama", {"rope_parameters": {**LLAMA3, "low_freq_factor": None}}, "stretched as Llama 3.1's, by {'factor': 8.0"),
        ("Llama", {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "stretched as Llama 3.1's"),
        ("Llama", {"rope_parameters": {**LLAMA3, "factor": 0}}, "stretched as Llama 3.1's"),
        ("Llama", {"num_hidden_layers": 1}, "its config speaks of 1 layers"),
        ("Llama", {"rms_norm_eps": None}, "its config.json has no number for 'rms_norm_eps'"),
        ("Llama", {"partial_rotary_factor": 0.5}, "it rotates 4 of the 8 dimensions of a head"),
        ("Gemma 2", {"query_pre_attn_scalar": 7}, "its query_pre_attn_scalar is 7"),
        ("Gemma 3 text", {"layer_types": ["full_attention"] * 2}, "another order than every 6th"),
        ("Qwen 2", {"use_sliding_window": True}, "sliding window"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = edit(make_model(name, tmp_path / "model"), **changes)
    with pytest.raises(MergeryError, match="cannot be written as GGUF") as caught:
        api.export_gguf(folder, tmp_path / "x.gguf")
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_messages(mergery: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = make_model("Llama", tmp_path / "model")
    out = tmp_path / "x.gguf"
    monkeypatch.setitem(sys.modules, "llama_cpp", None)

    def refused(*arguments: object) -> str:
        outcome = mergery("export", "gguf", folder, *arguments)
        assert outcome.code == 2
        return outcome.err

    assert "did you mean 'q4_k_m'?" in refused(out, "-t", "q4_km")
    assert "pip install llama-cpp-python" in refused(out, "-t", "q4_k_m")
    assert "has no name of a GGUF file" in refused(tmp_path / "x")
    out.write_bytes(b"mine")
    assert "is there already" in refused(out)
    assert out.read_bytes() == b"mine"
    assert mergery("export", "gguf", folder, out, "--replace").code == 0
    state = torch.full((128, 32), float("nan"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors") | {"model.embed_tokens.weight": state}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="embed_tokens"):
        api.export_gguf(folder, tmp_path / "y.gguf", type="q8_0")
    assert not (tmp_path / "y.gguf").exists()


def test_tokenizers_that_cannot_be_written(tmp_path: Path) -> None:
    byte_level_folder(tmp_path / "model", "gpt-2")
    path = tmp_path / "model" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"}, data["pre_tokenizer"]],
    }
    path.write_text(json.dumps(data))
    with pytest.raises(MergeryError, match="text is cut in a way that is not known here"):
        api.export_gguf(tmp_path / "model", tmp_path / "x.gguf")
    api.export_gguf(tmp_path / "model", tmp_path / "x.gguf", pre="falcon")
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "falcon"
    path.write_text(json.dumps({**data, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}))
    with pytest.raises(MergeryError, match="it is words"):
        api.export_gguf(tmp_path / "model", tmp_path / "y.gguf")
