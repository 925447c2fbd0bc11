"""Models written as codes: transformers loads them and computes nearly what it did, Mergery reads them back, and what cannot be
written is refused before any work.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.quantised.writing import SCHEMES
from mergery.kernels.rounding import Grid, nearest, scales_of, spread
from mergery.run.quantising import QuantisedSink
from mergery.run.workers import Options
from mergery.testing.families import FAMILIES, fine_tune, make
from mergery.testing.families.making import load, logits
from tests.run.gguf.tokenizers import TEXTS, byte_level_folder

BY_NAME = {family.name: family for family in FAMILIES}
Q = "model.layers.0.self_attn.q_proj"


def recipe_of(folder: Path, dtype: str = "float32") -> Path:
    """A merge of two fine-tunes of a tiny Llama with a tokenizer, and texts."""
    byte_level_folder(folder / "base", "llama-bpe")
    for number, name in enumerate("ab"):
        fine_tune(folder / "base", folder / name, number + 1)
    path = folder / "recipe.yaml"
    path.write_text(
        "models: {base: base, a: a, b: b}\n"
        "merge: {method: ties, base: base, models: [a, b], density: 0.5}\n"
        f"output: {{dtype: {dtype}}}\n"
    )
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": f"{text} {text}"}) + "\n" for text in TEXTS))
    return path


def values(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor as a checkpoint gives it, codes decoded, float32."""
    found: dict[str, torch.Tensor] = {}
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            raw = np.empty(info.nbytes, np.uint8)
            checkpoint.read(name, 0, info.elements, raw)
            found[name] = torch.from_numpy(raw).view(getattr(torch, info.dtype.torch)).reshape(info.shape).float()
    return found


def options_of(scheme: str, folder: Path) -> dict[str, Any]:
    """What a scheme needs for a tiny model."""
    group = {"group": 32} if SCHEMES[scheme].group else {}
    return {"scheme": scheme, **group, **({"data": folder / "texts.jsonl"} if SCHEMES[scheme].gptq else {})}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_a_merge_that_is_written_as_codes(scheme: str, dtype: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors", reason="transformers reads it with this")
    recipe = recipe_of(tmp_path, dtype)
    api.export_quantised(recipe, tmp_path / "out", **options_of(scheme, tmp_path))
    api.merge(recipe, tmp_path / "plain")
    assert api.verify(tmp_path / "out") == []
    merged, decoded = values(tmp_path / "plain"), values(tmp_path / "out")
    assert merged.keys() == decoded.keys()
    made = SCHEMES[scheme]
    grid = Grid(made.bits, made.floating, 32 if made.group else None)
    for name, value in merged.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(decoded[name], value), name
            continue
        scales = scales_of(value, grid, getattr(torch, dtype))
        if not made.gptq and dtype == "float32":
            assert torch.equal(decoded[name], nearest(value, scales, grid) * spread(scales, value.shape[1]))
        most = value.abs().amax() * 2**-4 if made.floating else scales.amax() * (4 if made.gptq else 0.5001)
        rounded = 0.0 if dtype == "float32" else value.abs().amax() * 2**-8  # of the merge that is written plainly
        assert float((decoded[name] - value).abs().amax()) <= most + rounded
    family = BY_NAME["Llama"]
    loaded, wrong = load(family, tmp_path / "out")
    assert wrong == []
    (tmp_path / "again").mkdir()
    copy = {"models": {"m": str(tmp_path / "out")}, "merge": {"method": "passthrough", "models": ["m"]}}
    api.merge({**copy, "output": {"dtype": "float32"}}, tmp_path / "again")
    again, _ = load(family, tmp_path / "again")
    plain, _ = load(family, tmp_path / "plain")
    found, expected, before = (logits(family, model) for model in (loaded, again, plain))
    limit = {"w8a16": 0.02, "fp8": 0.1}.get(scheme, 0.4)
    assert float((found - before).norm() / before.norm()) < limit
    if scheme != "fp8":  # which rounds inputs, too
        assert float((found - expected).norm() / expected.norm()) < (1e-5 if dtype == "float32" else 0.01)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("abc").input_ids


@pytest.mark.parametrize("scheme", SCHEMES)
def test_neither_threads_nor_windows_change_a_byte(scheme: str, tmp_path: Path) -> None:
    make(BY_NAME["Llama"], tmp_path / "m")
    recipe = recipe_of(tmp_path)
    for threads, chunk in ((1, 1 << 19), (2, 1 << 16)):
        out = tmp_path / f"{threads}"
        api.export_quantised(recipe, out, **options_of(scheme, tmp_path), options=Options(threads, chunk))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in "12")
    assert one == two
    left = {"1", "2", "a", "b", "base", "m", "recipe.yaml", "texts.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == left  # no statistics are left behind


def wide_model(folder: Path) -> dict[str, torch.Tensor]:
    """A model whose rows no window holds as whole ones: windows are of 64 Ki numbers here."""
    from safetensors.torch import save_file

    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    names = {Q: (40, 4160), "model.layers.0.mlp.down_proj": (9, 70016), "model.layers.0.mlp.up_proj": (300, 64)}
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator).bfloat16() for name, shape in names.items()}
    tensors["model.layers.0.mlp.gate.weight"] = torch.randn(4, 64, generator=generator).bfloat16()  # a router
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_hidden_layers": 1, "dtype": "bfloat16"})
    )
    return tensors


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16", "fp8"])
def test_rows_that_cross_windows(scheme: str, tmp_path: Path) -> None:
    tensors = wide_model(tmp_path / "m")
    chosen = {"scheme": scheme, **({"group": 64} if scheme == "w4a16" else {})}
    api.export_quantised(tmp_path / "m", tmp_path / "out", **chosen, options=Options(1, 1 << 16))
    decoded = values(tmp_path / "out")
    made = SCHEMES[scheme]
    grid = Grid(made.bits, made.floating, chosen.get("group"))
    for name, tensor in tensors.items():
        plain, expected = tensor.float(), tensor.float()
        if "gate" not in name:
            scales = scales_of(plain, grid, torch.bfloat16)
            expected = nearest(plain, scales, grid) * spread(scales, plain.shape[1])
        assert torch.equal(decoded[name], expected), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head", "model.layers.0.mlp.gate", r"re:.*\.(router|gate)$"]


def test_codes_scales_and_shape_lie_in_several_files(tmp_path: Path) -> None:
    wide_model(tmp_path / "m")
    copy = {"models": {"m": str(tmp_path / "m")}, "merge": {"method": "passthrough", "models": ["m"]}}
    api.export_quantised(copy, tmp_path / "one")
    api.export_quantised({**copy, "output": {"shard_size": "100KB"}}, tmp_path / "many")
    assert api.verify(tmp_path / "many") == []
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]
    assert {f"{Q}.weight_packed", f"{Q}.weight_scale", f"{Q}.weight_shape"} < index.keys()
    one, many = values(tmp_path / "one"), values(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_gptq_is_nearer_on_the_texts_than_rounding_to_the_nearest(tmp_path: Path) -> None:
    recipe_of(tmp_path)
    api.calibrate(tmp_path / "base", tmp_path / "texts.jsonl", tmp_path / "stats")
    chosen = {"nearest": {"scheme": "w4a16"}, "gptq": {"scheme": "w4a16-gptq", "data": tmp_path / "stats"}}
    for name, given in chosen.items():
        api.export_quantised(tmp_path / "base", tmp_path / name, group=32, **given)
    plain, statistics = values(tmp_path / "base"), values(tmp_path / "stats")
    said = json.loads((tmp_path / "stats" / "statistics.json").read_text())["inputs"]
    lost: dict[str, float] = {}
    for name in chosen:
        for key, value in values(tmp_path / name).items():
            if key in said and key.endswith("_proj.weight"):
                error = (value - plain[key]).double()
                gram = statistics[f"{said[key]['of']}.gram"].double()
                lost[name] = lost.get(name, 0.0) + float((error @ gram * error).sum())
    assert 0 < lost["gptq"] < 0.8 * lost["nearest"]


def test_an_interrupted_export_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    chosen = options_of("w4a16-gptq", tmp_path)
    api.export_quantised(recipe, tmp_path / "whole", **chosen)
    write, count = QuantisedSink.write, 0

    def failing(self: QuantisedSink, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(28, os.strerror(28))
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(QuantisedSink, "write", failing)
        patch.setattr("mergery.run.workers.BATCH", 1)
        with pytest.raises(OSError, match="space"):
            api.export_quantised(recipe, tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr("mergery.calibration.beside.calibrate", lambda *arguments, **named: 1 / 0)  # it is made already
        result = api.export_quantised(recipe, tmp_path / "out", **chosen)
    assert 0 < result.resumed < 21
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert files[0] == files[1]
    assert api.verify(tmp_path / "out") == []
    assert not (tmp_path / "out.statistics").exists()


def test_the_same_command_again_finds_the_folder(tmp_path: Path) -> None:
    make(BY_NAME["Llama"], tmp_path / "m")
    assert not api.export_quantised(tmp_path / "m", tmp_path / "out").already
    assert api.export_quantised(tmp_path / "m", tmp_path / "out").already
    with pytest.raises(Exception, match="holds the result of another plan"):
        api.export_quantised(tmp_path / "m", tmp_path / "out", scheme="fp8")


def test_messages(mergery: Any, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    make(BY_NAME["Llama"], tmp_path / "other")
    out = tmp_path / "out"

    def refused(*arguments: object, model: Path = recipe) -> str:
        outcome = mergery("export", "quantized", model, out, *arguments)
        assert outcome.code == 2, outcome.err
        assert not out.exists()
        assert not list(tmp_path.glob("out*"))
        return " ".join(outcome.err.split())

    assert "did you mean 'w4a16-gptq'?" in refused("--scheme", "w4a16_gptq")
    assert "w4a16-gptq needs data" in refused("--scheme", "w4a16-gptq")
    assert "fp8 needs no data" in refused("--scheme", "fp8", "--data", tmp_path / "texts.jsonl")
    said = refused("--scheme", "w4a16")
    assert "rows cannot be cut into groups of 128" in said
    assert "try: --group 32" in said
    assert "w8a16 has no groups" in refused("--group", "64")
    assert "one of 16, 32, 64, 128, 256" in refused("--scheme", "w4a16", "--group", "33")
    gptq = ("--scheme", "w4a16-gptq", "--group", "32", "--data")
    assert "cannot be read" in refused(*gptq, tmp_path / "nothing.jsonl")
    assert "these are no statistics" in refused(*gptq, tmp_path / "base")
    api.calibrate(tmp_path / "base", tmp_path / "texts.jsonl", tmp_path / "stats")
    assert "these are statistics of another model" in refused(*gptq, tmp_path / "stats")
    api.calibrate(recipe, tmp_path / "texts.jsonl", tmp_path / "fisher", options=fisher())
    assert "calibrate with --stats gram" in refused(*gptq, tmp_path / "fisher")
    state = tmp_path / "other" / "model.safetensors"
    assert "this model has no config.json" in refused(model=state.rename(tmp_path / "alone.safetensors"))
    make(BY_NAME["GPT-2"], tmp_path / "gpt2")
    assert "there is nothing to quantise" in refused(model=tmp_path / "gpt2")


@pytest.mark.parametrize("name", ["Falcon", "Llama 4", "T5", "Mamba"])
def test_families_that_codes_do_not_serve(name: str, mergery: Any, tmp_path: Path) -> None:
    make(BY_NAME[name], tmp_path / "m")
    outcome = mergery("export", "quantized", tmp_path / "m", tmp_path / "out")
    assert outcome.code == 2
    assert "is not quantised here" in outcome.err or "there is nothing to quantise" in outcome.err
    assert not (tmp_path / "out").exists()


FEW = ["Qwen 2 tied", "Gemma 3", "Qwen 3 MoE", "Mixtral", "Phi 3", "Phi 3.5 MoE", "DeepSeek V2", "BERT", "LLaVA",
       "GPT-OSS", "Falcon H1", "Qwen 2 VL"]  # fmt: skip


@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("ignore")
def test_families_load_as_what_is_read_back(name: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="transformers reads it with this")
    family = BY_NAME[name]
    make(family, tmp_path / "m")
    api.export_quantised(tmp_path / "m", tmp_path / "out")
    copy = {"models": {"m": str(tmp_path / "out")}, "merge": {"method": "passthrough", "models": ["m"]}}
    api.merge(copy, tmp_path / "again")
    loaded, wrong = load(family, tmp_path / "out")
    assert wrong == []
    again, wrong = load(family, tmp_path / "again")
    assert wrong == []
    assert torch.allclose(logits(family, loaded), logits(family, again), atol=1e-5)


def fisher() -> Any:
    from mergery.calibration.options import CalibrationOptions

    return CalibrationOptions(("fisher",))


def test_codes_are_not_taken_for_weights_when_they_are_rounded_again(mergery: Any, tmp_path: Path) -> None:
    make(BY_NAME["Llama"], tmp_path / "m")
    api.export_quantised(tmp_path / "m", tmp_path / "four", scheme="w4a16", group=32)
    outcome = mergery("export", "quantized", tmp_path / "four", tmp_path / "eight")
    assert outcome.code == 0
    assert "its weights are codes (compressed-tensors, packed integers), decoded as they are read" in " ".join(
        outcome.err.split()
    )
    four, eight = values(tmp_path / "four"), values(tmp_path / "eight")
    for name, value in four.items():
        assert torch.allclose(eight[name], value, atol=float(value.abs().amax()) / 127), name


def test_what_is_not_finite_is_refused(mergery: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make(BY_NAME["Llama"], tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors[f"{Q}.weight"][3, 5] = float("nan")
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    outcome = mergery("export", "quantized", tmp_path / "m", tmp_path / "out")
    assert outcome.code == 2
    assert f"tensor '{Q}.weight' holds NaN or infinity" in outcome.err
    assert not (tmp_path / "out").exists()


def test_samples_of_codes_are_not_made_again(mergery: Any, tmp_path: Path) -> None:
    make(BY_NAME["Llama"], tmp_path / "m")
    api.export_quantised(tmp_path / "m", tmp_path / "out")
    assert mergery("verify", tmp_path / "out").code == 0
    recipe = tmp_path / "copy.yaml"
    recipe.write_text("models: {m: m}\nmerge: {method: passthrough}\n")
    outcome = mergery("verify", tmp_path / "out", "--recipe", recipe)
    assert outcome.code == 2
    assert "its weights are codes (compressed-tensors, packed integers), which are about 0.6% off" in outcome.err
    (tmp_path / "out" / "model.safetensors").write_bytes(b"")  # it is refused before anything is read
    outcome = mergery("verify", tmp_path / "out", "--sample", "2")
    assert outcome.code == 2
    assert "not made again" in outcome.err
