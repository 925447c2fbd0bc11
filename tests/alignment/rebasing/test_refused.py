"""What cannot be moved is said before any work; what was interrupted goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import mergery as library
from mergery.alignment.rebasing import running
from mergery.alignment.rebasing.models import shared_tokens
from mergery.alignment.rebasing.theseus import interpolated
from mergery.errors import MergeryError, RecipeError
from tests.alignment.rebasing.conftest import far, llama, read, tuned


def rebase(mergery: Any, own: Any, out: Any, old: Any, new: Any, *more: Any) -> Any:
    return mergery("rebase", own, out, "--from", old, "--to", new, "--way", "theseus", *more)


def test_other_depths_and_families(mergery: Any, save: Any, tmp_path: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

    state = llama().state_dict()
    old, own = save("old", state), save("own", tuned(state, 1))
    config, deep = llama().config, tmp_path / "deep"
    config.num_hidden_layers = 3
    LlamaForCausalLM(config).save_pretrained(deep)
    done = rebase(mergery, own, tmp_path / "out", old, deep)
    assert done.code == 2
    assert "the bases have different numbers of layers" in done.err
    assert "the old one has 2, the new one 3" in done.err
    other = tmp_path / "gpt2"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    ).save_pretrained(other)
    done = rebase(mergery, own, tmp_path / "out", old, other)
    assert done.code == 2
    assert "the bases are of different families" in done.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.rebase").exists()


def test_a_fine_tune_of_another_shape(mergery: Any, save: Any, tmp_path: Any) -> None:
    old, wide = save("old", llama().state_dict()), tmp_path / "wide"
    llama(hidden_size=64).save_pretrained(wide)
    done = rebase(mergery, wide, tmp_path / "out", old, wide)
    assert done.code == 2
    assert "the fine-tune is not of the old base's shape" in done.err


def test_other_tokens(mergery: Any, save: Any, texts: Any, tmp_path: Any) -> None:
    """Rows of embeddings go by the texts of tokens, and activations of one text are brought to one length."""
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    words = json.loads((new / "tokenizer.json").read_text())
    tokens = words["model"]["vocab"]
    first, second = list(tokens)[60:62]
    tokens[first], tokens[second] = tokens[second], tokens[first]
    words["model"]["merges"] = words["model"]["merges"][:-20]
    (new / "tokenizer.json").write_text(json.dumps(words))
    wide = tmp_path / "wide"
    llama(hidden_size=64).save_pretrained(wide)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (wide / file).write_bytes((new / file).read_bytes())
    plain = tmp_path / "plain.txt"
    plain.write_text("some words " * 40)
    done = rebase(mergery, own, tmp_path / "out", old, wide, "--data", plain)
    assert done.code == 2
    assert "the bases have different tokenizers" in done.err
    for name, data in (("weights", ()), ("texts", ("--data", texts))):
        done = rebase(mergery, own, tmp_path / name, old, wide, *data)
        assert done.code == 0, done.err
        assert far(read(tmp_path / name), read(wide)) > 1e-3
    with library.open(old) as one, library.open(wide) as other:
        mine, theirs = shared_tokens(one, other, 128, 128)
    moved = torch.nonzero(mine != theirs).flatten()
    assert sorted(theirs[moved].tolist()) == sorted((tokens[first], tokens[second]))


def test_rows_between_tokens() -> None:
    rows = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    torch.testing.assert_close(interpolated(rows, 2), rows)
    torch.testing.assert_close(interpolated(rows, 4)[:, 0], torch.tensor([0.0, 0.5, 1.5, 2.0]))


def test_other_widths_ask_for_theseus(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    old, own = save("old", state), save("own", tuned(state, 1))
    wide = tmp_path / "wide"
    llama(hidden_size=64).save_pretrained(wide)
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", wide)
    assert done.code == 2
    assert "Orthogonal shift moves between bases of one shape" in done.err and "--way theseus" in done.err


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match="unknown way 'thesus'"):
        library.RebaseOptions("thesus")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"whiten is 0\.7"):
        library.RebaseOptions("theseus", whiten=0.7)
    for way, option in (("shift", {"ridge": 0.1}), ("gradfix", {"heads": "whole"}), ("theseus", {"vote": "majority"})):
        with pytest.raises(RecipeError, match=f"{next(iter(option))} is of "):
            library.RebaseOptions(way, **option)  # type: ignore[arg-type]


def test_bad_tasks_are_told_before_anything_is_moved(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    done = rebase(mergery, own, tmp_path / "out", old, new, "--tasks", tmp_path / "bad.jsonl")
    assert done.code == 2 and "bad.jsonl:2:10" in done.err
    assert not (tmp_path / "out").exists()


def test_models_without_rows_of_tokens(mergery: Any, tmp_path: Any) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    for name in ("old", "own", "new"):
        ViTForImageClassification(
            ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
        ).save_pretrained(tmp_path / name)
    done = rebase(mergery, tmp_path / "own", tmp_path / "out", tmp_path / "old", tmp_path / "new")
    assert done.code == 2 and "Theseus carries models of text" in done.err
    found = library.diagnose(str(tmp_path / "old"), str(tmp_path / "new"))
    assert {door.name: door.state for door in found.doors}["align"] == "closed"
    assert not any(door.command for door in found.doors)


def test_data_that_no_one_reads(mergery: Any, llamas: Any, texts: Any, tmp_path: Any) -> None:
    done = mergery(
        "rebase", llamas / "a", tmp_path / "out", "--from", llamas / "base", "--to", llamas / "b", "--data", texts
    )
    assert done.code == 2
    assert "there is nothing to do with the data" in done.err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    mergery: Any, save: Any, texts: Any, tmp_path: Any
) -> None:
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    done = rebase(mergery, own, tmp_path / "out", old, new, "--data", texts, "--dry-run")
    assert done.code == 0, done.err
    assert f"{own}, a fine-tune of {old}, is moved by Theseus" in " ".join(done.out.split())
    assert not list(tmp_path.glob("out*"))


def test_what_was_interrupted_goes_on_with_the_same_bytes(
    mergery: Any, save: Any, texts: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = llama().state_dict()
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", tuned(state, 2))
    options = library.RebaseOptions("theseus")
    places = {"old": str(old), "new": str(new), "data": str(texts), "options": options}
    library.rebase(str(own), tmp_path / "whole", **places)
    write, left = running.write_arrays, 2

    def fail(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(running, "write_arrays", fail)
    with pytest.raises(KeyboardInterrupt):
        library.rebase(str(own), tmp_path / "again", **places)
    assert len(list((tmp_path / "again.rebase").glob("*.safetensors"))) == 2
    monkeypatch.setattr(running, "write_arrays", write)
    library.rebase(str(own), tmp_path / "again", **places)
    assert far(read(tmp_path / "again"), read(tmp_path / "whole")) == 0.0
    assert not (tmp_path / "again.rebase").exists()
    (tmp_path / "third.rebase").mkdir()
    with pytest.raises(MergeryError, match="stands in the way"):
        library.rebase(str(own), tmp_path / "third", **places)
