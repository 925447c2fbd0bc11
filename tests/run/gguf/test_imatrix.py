"""Importance matrices: made of statistics, read in both formats of llama.cpp's, and given to its quantiser."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergery import CalibrationOptions, api
from mergery.checkpoints.gguf.imatrix import Entry, Imatrix, read_imatrix
from mergery.errors import MergeryError
from mergery.testing.families import make
from mergery.testing.families.making import load
from tests.run.gguf.test_exporting import family_named, values
from tests.run.gguf.test_llama_cpp import PYTHON
from tests.run.gguf.tokenizers import TEXTS, byte_level_folder

gguf = pytest.importorskip("gguf", reason="GGUF is written with the package gguf")


def measured(folder: Path, out: Path, *stats: str) -> Path:
    data = folder.parent / "texts.txt"
    data.write_text("\n".join(TEXTS) * 3)
    api.calibrate(folder, data, out, options=CalibrationOptions(stats or ("square",), longest=64))
    return out


def test_statistics_become_the_importance_of_columns(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "model", "gpt-2") and tmp_path / "model"
    squares, grams = measured(folder, tmp_path / "squares"), measured(folder, tmp_path / "grams", "gram")
    assert api.export_imatrix(folder, squares, tmp_path / "x.gguf") == ()
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["texts.txt"]
    names = {tensor.name: tensor for tensor in reader.tensors}
    said = json.loads((squares / "statistics.json").read_text())
    tokens = said["inputs"]["model.layers.1.mlp.down_proj.weight"]["tokens"]
    assert names["blk.1.ffn_down.weight.counts"].data.reshape(-1).tolist() == tokens
    mine, other = read_imatrix(tmp_path / "x.gguf"), None
    api.export_imatrix(folder, grams, tmp_path / "y.gguf")
    other = read_imatrix(tmp_path / "y.gguf")
    assert set(mine.entries) - set(other.entries) <= {"output.weight"}
    for name, (sums, _) in other.entries.items():
        assert np.allclose(sums, mine.entries[name].sums, rtol=1e-4)
    q, k = (mine.entries[f"blk.0.attn_{each}.weight"].sums for each in "qk")
    assert np.array_equal(q, k)  # of one input


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_have_a_row_each(stacked: bool, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    family = family_named("Mixtral")
    family = replace(family, config={**family.config, "vocab_size": 512})
    folder = make(family, tmp_path / "model")
    byte_level_folder(tmp_path / "words", "gpt-2")
    if stacked:
        model, _ = load(family, folder)
        save_file(
            {key: value.contiguous().clone() for key, value in model.state_dict().items()}, folder / "model.safetensors"
        )
    data = tmp_path / "texts.txt"
    data.write_text("ab cd " * 40)
    options = CalibrationOptions(("square",), longest=16)
    found = api.calibrate(folder, data, tmp_path / "stats", options=options, tokenizer=tmp_path / "words")
    api.export_imatrix(folder, tmp_path / "stats", tmp_path / "x.gguf")
    imatrix = read_imatrix(tmp_path / "x.gguf")
    gates, ups = (imatrix.entries[f"blk.0.ffn_{word}_exps.weight"] for word in ("gate", "up"))
    assert gates.sums.shape[0] == len(gates.counts) > 1
    assert np.array_equal(gates.sums, ups.sums)
    assert gates.counts.sum() == 2 * found.tokens
    means = imatrix.means("blk.0.ffn_gate_exps.weight").reshape(gates.sums.shape)
    for number, count in enumerate(gates.counts):
        assert np.allclose(means[number], gates.sums[number] / count if count else 1.0, rtol=1e-3)


def test_the_older_format_is_read(tmp_path: Path) -> None:
    values = np.array([4.0, 0.0, 8.0, 2.0], dtype="<f4")
    name = b"blk.0.attn_q.weight"
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 2, 4) + values.tobytes() + struct.pack("<i", 2)
    (tmp_path / "old.dat").write_bytes(data)
    assert read_imatrix(tmp_path / "old.dat").means("blk.0.attn_q.weight").tolist() == pytest.approx([2, 1.75e-6, 4, 1])
    for broken in (data[:20], b"", struct.pack("<i", -1), struct.pack("<ii", 1, 1 << 30)):
        (tmp_path / "bad.dat").write_bytes(broken)
        with pytest.raises(MergeryError, match="no importance matrix"):
            read_imatrix(tmp_path / "bad.dat")


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "llama_cpp", type(sys)("llama_cpp")
    )  # what is refused is refused before it is called
    folder = byte_level_folder(tmp_path / "model", "gpt-2") and tmp_path / "model"
    out = tmp_path / "x.gguf"

    def refused(**said: Any) -> str:
        with pytest.raises(MergeryError) as caught:
            api.export_gguf(folder, out, **said)
        assert not out.exists() and "try:" in str(caught.value)
        return str(caught.value)

    assert "iq2_xs needs an importance matrix" in refused(type="iq2_xs")
    assert "an importance matrix changes nothing of q8_0" in refused(type="q8_0", imatrix="stats")
    assert "there is no importance matrix" in refused(type="q4_k_m", imatrix=tmp_path / "none")
    assert "these are no statistics" in refused(type="q4_k_m", imatrix=folder)
    magnitudes = measured(folder, tmp_path / "magnitudes", "activation")
    assert "an importance matrix is of squares of inputs" in refused(type="q4_k_m", imatrix=magnitudes)
    api.export_gguf(folder, tmp_path / "model.gguf", type="f32")
    assert "this GGUF file is no importance matrix" in refused(type="q4_k_m", imatrix=tmp_path / "model.gguf")
    other = Imatrix({"blk.0.attn_q.weight": Entry(np.ones((1, 7), np.float32), np.ones(1, np.float32))})
    (tmp_path / "other.gguf").write_bytes(other.encoded())
    assert "this importance matrix is of another model" in refused(type="q4_k_m", imatrix=tmp_path / "other.gguf")
    nan = Imatrix({"blk.0.attn_q.weight": Entry(np.full((1, 32), np.nan, np.float32), np.ones(1, np.float32))})
    (tmp_path / "nan.gguf").write_bytes(nan.encoded())
    assert "infinite or NaN" in refused(type="q4_k_m", imatrix=tmp_path / "nan.gguf")


# --- with llama.cpp -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _library() -> Iterator[None]:
    """llama.cpp's package of its own environment, in this process."""
    assert PYTHON
    folder = next(Path(PYTHON).parent.parent.glob("lib/python*/site-packages"))
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.mark.skipif(not PYTHON, reason="llama.cpp is built and named by `make test-gguf`")
@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_m", "q6_k", "q2_k", "iq2_xs"])
def test_columns_that_count_are_kept_better(kind: str, tmp_path: Path) -> None:
    """Of what a matrix makes of its inputs, less is lost with their importance than without."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:  # a few loud columns, as trained models have them
                parameter.mul_(torch.where(torch.rand(parameter.shape) < 0.1, 8.0, 0.5))
    folder = tmp_path / "model"
    byte_level_folder(folder, "gpt-2")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder)
    stats = measured(folder, tmp_path / "stats", "gram")
    losses = {}
    for name, imatrix in (("plain", None), ("known", stats)):
        if kind == "iq2_xs" and imatrix is None:
            continue
        _, notes = api.export_gguf(folder, tmp_path / f"{name}.gguf", type=kind, imatrix=imatrix)
        assert not [note for note in notes if "importance" in note]
        losses[name] = _loss(model, stats, tmp_path / f"{name}.gguf")
    assert losses["known"] < (0.9 * losses["plain"] if "plain" in losses else 1.0)
    assert not list(tmp_path.glob("*unquantised*"))


def _loss(model: Any, stats: Path, file: Path) -> float:
    """The squared length of what is lost of all outputs, as a share."""
    from safetensors.torch import load_file

    from mergery.checkpoints import open_checkpoint

    grams = {key: value for part in stats.glob("*.safetensors") for key, value in load_file(part).items()}
    said = json.loads((stats / "statistics.json").read_text())["inputs"]
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    made, lost, whole = values(file), 0.0, 0.0
    for name, weight in model.state_dict().items():
        if name not in said or "layers" not in name:
            continue
        gram = grams[f"{said[name]['of']}.gram"].double()
        difference = torch.from_numpy(made[name]).double() - weight.double()
        lost += float(((difference @ gram) * difference).sum())
        whole += float(((weight.double() @ gram) * weight.double()).sum())
    return lost / whole
