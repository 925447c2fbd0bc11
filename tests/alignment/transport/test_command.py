"""`mergery transport` between models of other widths, depths and tokenizers, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mergery.alignment.transport import capture, moving, running
from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.texts import pair
from mergery.errors import MergeryError
from mergery.kernels.threads import quiet_torch
from tests.alignment.transport.planted import save, small, widened
from tests.conftest import Killed

Run = Callable[..., Any]


def other_tokenizer(texts: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts the same texts elsewhere, and has more tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    made.train_from_iterator([texts.read_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


@pytest.fixture
def source(tmp_path: Path, texts: Path) -> Path:
    """A model of another width, depth, number of heads and tokenizer."""
    model = small(seed=7, layers=3, hidden_size=48, num_attention_heads=6, num_key_value_heads=3, vocab_size=320)
    return save(model, tmp_path / "source", other_tokenizer(texts))


def test_a_model_of_another_shape_and_tokenizer_goes_into_a_target(
    source: Path, target: Path, texts: Path, tmp_path: Path, mergery: Run
) -> None:
    command = ("transport", source, "--into", target, "--data", texts, "--alpha", 0.2, "--neurons", 12, "--threads", 1)
    foreseen = mergery(*command[:1], source, tmp_path / "out", *command[2:], "--dry-run")
    assert foreseen.code == 0 and "q, k, v, o of 3 layers of the source into 2 of the target" in foreseen.out
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.transported").exists()

    out = tmp_path / "out"
    done = mergery(command[0], source, out, *command[2:])
    assert done.code == 0, done.err
    found = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert found.config.hidden_size == 32 and found.config.num_hidden_layers == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(target).get_vocab()
    before, after = (load_file(folder / "model.safetensors") for folder in (target, out))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if "self_attn" in name}
    assert mergery("verify", out).code == 0

    recipe = tmp_path / "out.transported" / "recipe.yaml"
    again = mergery("merge", recipe, tmp_path / "less", "--set", "merge.weight=0.2")
    assert again.code == 0, again.err
    for said in (
        done,
        again,
    ):  # that most tensors are the target's is what was asked for, and the folder's own files are known
        assert "warning" not in said.err and "left behind" not in said.err
        assert "copied from target: 13 tensors" in said.err
    assert load_file(tmp_path / "less" / "model.safetensors").keys() == after.keys()
    assert all(
        torch.equal(value, after[name]) for name, value in load_file(tmp_path / "less" / "model.safetensors").items()
    )


def test_another_share_takes_no_other_transport_and_other_options_are_refused(
    source: Path, target: Path, texts: Path, tmp_path: Path, mergery: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--into", target, "--data", texts, "--weights", tmp_path / "kept", "--threads", 1)
    assert mergery("transport", source, tmp_path / "one", *command).code == 0
    monkeypatch.setattr(running, "capture", lambda *_, **__: pytest.fail("nothing is read again"))
    assert mergery("transport", source, tmp_path / "two", *command, "--alpha", 0.5).code == 0
    refused = mergery("transport", source, tmp_path / "three", *command, "--epsilon", 0.1)
    assert refused.code == 2
    assert "stands in the way" in refused.err and "these are of other models, data or options" in refused.err


@pytest.mark.parametrize("place", ["capturing", "matching", "moving"])
def test_a_run_that_was_killed_goes_on_with_the_same_bytes(
    place: str, source: Path, target: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TransportOptions(threads=1)
    running.transport(source, target, texts, tmp_path / "whole", options=options)
    home, name = {
        "capturing": (capture._Capture, "_finish"),
        "matching": (moving.Mover, "_match_layer"),
        "moving": (moving.Mover, "_layer"),
    }[place]
    real, calls = getattr(home, name), []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(home, name, counted)
    with pytest.raises(Killed):
        running.transport(source, target, texts, tmp_path / "halved", options=options)
    running.transport(source, target, texts, tmp_path / "halved", options=options)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "halved" / "model.safetensors"
    ).read_bytes()


def test_workers_change_no_byte(
    source: Path, target: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same activations: torch's own sums depend on its threads, on some processors, so these are held to one."""
    monkeypatch.setattr(running, "torch_threads", lambda threads: quiet_torch(load=True))
    for threads in (1, 3):
        running.transport(source, target, texts, tmp_path / f"{threads}", options=TransportOptions(threads=threads))
    assert (tmp_path / "1" / "model.safetensors").read_bytes() == (tmp_path / "3" / "model.safetensors").read_bytes()


# --- texts in two tokenizers ----------------------------------------------------------------------------------------------


def test_tokens_are_compared_where_both_end(texts: Path, target: Path) -> None:
    words: Any = transformers.AutoTokenizer.from_pretrained(target), other_tokenizer(texts)
    some = texts.read_text().splitlines()[:5]
    found = pair(some, words, (64, 64), "tokens", 1000)
    assert (
        found.rows
        == sum(len(each.places) for each in found.target)
        == sum(len(each.places) for each in found.source)
        > 20
    )
    for text, own, other in zip(some, found.target, found.source, strict=True):
        for place, there in zip(own.places, other.places, strict=True):
            read = words[0].decode(own.ids[: place + 1], skip_special_tokens=True)
            also = words[1].decode(other.ids[: there + 1], skip_special_tokens=True)
            assert read.split() == also.split() == text[: len(also)].split()
    assert pair(some, words, (64, 64), "tokens", 7).rows == 7


def test_texts_are_cut_alike_and_dropped_in_both(texts: Path, target: Path) -> None:
    words: Any = transformers.AutoTokenizer.from_pretrained(target), other_tokenizer(texts)
    text = texts.read_text().splitlines()[0]
    found = pair([text, "  ", text], words, (6, 64), "prompts", 1000)
    assert found.dropped == 1 and found.rows == 2
    assert len(found.target[0].ids) <= 6
    assert text.startswith(words[1].decode(found.source[0].ids, skip_special_tokens=True).strip())


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_models_without_the_parts_are_refused(target: Path, texts: Path, tmp_path: Path, mergery: Run) -> None:
    config = transformers.MixtralConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    experts = save(transformers.MixtralForCausalLM(config), tmp_path / "experts")
    refused = mergery(
        "transport", experts, tmp_path / "out", "--into", target, "--data", texts, "--modules", "attention,mlp"
    )
    assert refused.code == 2
    assert "the source has no 'gate', 'up', 'down'" in refused.err and "try: --modules q,k,v,o" in refused.err


def test_an_encoder_with_a_decoder_is_refused(target: Path, texts: Path, tmp_path: Path, mergery: Run) -> None:
    kind: Any = transformers.T5Config
    config = kind(vocab_size=128, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    both = save(transformers.T5ForConditionalGeneration(config), tmp_path / "both")
    refused = mergery("transport", both, tmp_path / "out", "--into", target, "--data", texts)
    assert refused.code == 2 and "the source" in refused.err


def test_data_without_text_and_without_shared_tokens_are_refused(
    source: Path, target: Path, tmp_path: Path, mergery: Run
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    refused = mergery("transport", source, tmp_path / "out", "--into", target, "--data", empty)
    assert refused.code == 2 and f"{empty}: there is no text in it" in refused.err
    missing = mergery("transport", source, tmp_path / "out", "--into", target, "--data", tmp_path / "none.txt")
    assert missing.code == 2 and "this file cannot be read" in missing.err
    words = transformers.AutoTokenizer.from_pretrained(target)
    with pytest.raises(MergeryError, match="these texts give nothing to compare models on"):
        pair(["  ", ""], (words, words), (8, 8), "tokens", 10)


def test_another_ones_folder_is_never_overwritten(
    source: Path, target: Path, texts: Path, tmp_path: Path, mergery: Run
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    refused = mergery("transport", source, tmp_path / "out", "--into", target, "--data", texts)
    assert refused.code == 2 and "is not empty" in refused.err
    (tmp_path / "new.transported").mkdir()
    (tmp_path / "new.transported" / "thesis.txt").write_text("mine")
    refused = mergery("transport", source, tmp_path / "new", "--into", target, "--data", texts)
    assert refused.code == 2 and "stands in the way" in refused.err
    assert (tmp_path / "new.transported" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (("--alpha", "1.5"), "alpha is 1.5"),
        (("--modules", "q,norm"), "unknown module 'norm'"),
        (("--epsilon", "0"), "epsilon is 0.0"),
        (("--mode", "paper", "--sign", "signed"), "sign is for the mode normalised, not paper"),
        (("--modules", ""), "no module is to be transported"),
        (("--neurons", "-1"), "neurons is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    said: tuple[str, ...], what: str, source: Path, target: Path, texts: Path, tmp_path: Path, mergery: Run
) -> None:
    refused = mergery("transport", source, tmp_path / "out", "--into", target, "--data", texts, *said)
    assert refused.code == 2 and what in refused.err


def test_a_base_of_another_shape_is_refused(target: Path, texts: Path, tmp_path: Path, mergery: Run) -> None:
    wide = save(widened(small()), tmp_path / "wide")
    refused = mergery("transport", wide, tmp_path / "out", "--into", target, "--data", texts, "--since", target)
    assert refused.code == 2 and "is no base of the source: " in refused.err


def test_what_was_learnt_since_is_added_and_nothing_else(
    source: Path, target: Path, texts: Path, tmp_path: Path, mergery: Run
) -> None:
    said = ("--into", target, "--data", texts, "--since", source, "--fusion", "convex")
    refused = mergery("transport", source, tmp_path / "out", *said)
    assert refused.code == 2 and "--since and --fusion convex do not go together" in refused.err


def test_a_recipe_is_a_source_and_no_target(target: Path, texts: Path, tmp_path: Path, mergery: Run) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        save(small(seed=seed), tmp_path / name)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: {a: ./a, b: ./b}\nmerge: {method: linear}\n")
    done = mergery("transport", recipe, tmp_path / "out", "--into", target, "--data", texts, "--threads", 1)
    assert done.code == 0, done.err
    refused = mergery("transport", target, tmp_path / "other", "--into", recipe, "--data", texts)
    assert refused.code == 2 and "the target is a recipe" in refused.err


def test_texts_that_the_source_draws(source: Path, target: Path, tmp_path: Path, mergery: Run) -> None:
    done = mergery(
        "transport", source, tmp_path / "out", "--into", target, "--data", "synthetic", "--limit", 12, "--longest", 16,
        "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "out.transported" / "transport.json").read_text())
    assert facts["texts"] > 3
    shutil.rmtree(tmp_path / "out")
