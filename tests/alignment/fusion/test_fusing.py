"""`mergery fuse`, end to end: models of three architectures and tokenizers, written, loaded, taken up after a kill."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

import mergery as library
from mergery.alignment.fusion import training
from mergery.evaluation.loading import quiet
from tests.conftest import Killed, Outcome

Run = Callable[..., Outcome]
QUICK = ("--batch", 8, "--rate", 3e-3, "--epochs", 3)


@pytest.fixture(scope="module")
def made(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llama`, fused with the two others in Python."""
    out = tmp_path_factory.mktemp("made") / "fused"
    options = library.FuseOptions(batch=8, rate=3e-3, epochs=2, shard=800)
    return library.fuse(
        family / "llama", [family / "gpt2", family / "qwen"], family / "texts.jsonl", out, options=options
    )


def test_what_is_written_is_a_model_as_any_other(family: Path, made: Path) -> None:
    module, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer("ab cad")["input_ids"] == AutoTokenizer.from_pretrained(family / "llama")("ab cad")["input_ids"]
    assert bool(torch.isfinite(module(torch.tensor([[1, 5, 9]])).logits).all())
    card = (made / "README.md").read_text()
    assert "`llama`, taught by `gpt2`, `qwen`" in card and "MinCE" in card
    said = json.loads((made / "fusion.json").read_text())
    assert said["after"] < said["before"] and said["steps"] == 6
    assert not made.with_name("fused.partial").exists()


def test_the_same_command_is_done_already(family: Path, made: Path, mergery: Run) -> None:
    again = mergery(
        "fuse",
        family / "llama",
        made,
        "--teachers",
        family / "gpt2",
        family / "qwen",
        "--data",
        family / "texts.jsonl",
        *QUICK,
    )
    assert again.code == 2 and "it holds another fusion" in again.err  # of other shards
    before = (made / "model.safetensors").stat().st_mtime_ns
    library.fuse(
        family / "llama", [family / "gpt2", family / "qwen"], family / "texts.jsonl", made,
        options=library.FuseOptions(batch=8, rate=3e-3, epochs=2, shard=800),
    )  # fmt: skip
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    family: Path, tmp_path: Path, mergery: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while teachers are asked, then while the target is trained: nothing that was done is done again."""
    given = ("--teachers", family / "gpt2", "--data", family / "texts.jsonl", *QUICK, "--save", 5, "--quiet")
    whole = mergery("fuse", family / "llama", tmp_path / "whole", *given)
    assert whole.code == 0, whole.err
    asked: list[str] = []

    def kill(*arguments: Any, **more: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", kill)
        with pytest.raises(Killed):
            mergery("fuse", family / "llama", tmp_path / "parts", *given)

    def late(self: Any, args: Any, state: Any, *more: Any, **named: Any) -> None:
        if state.global_step == 7:
            raise Killed

    from mergery.alignment.fusion import teaching

    ask = teaching.ask
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "ask", lambda teacher, *rest: asked.append(teacher.name) or ask(teacher, *rest))
        patch.setattr(training.Telling, "on_log", late)
        with pytest.raises(Killed):
            mergery("fuse", family / "llama", tmp_path / "parts", *given)
        assert (tmp_path / "parts.partial/training/checkpoint-5").exists()
    assert asked == []
    torn = tmp_path / "parts.partial/training/checkpoint-6"  # as a kill within the writing leaves it
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    other = mergery("fuse", family / "llama", tmp_path / "parts", *given, "--seed", 1)
    assert other.code == 2 and "holds an unfinished fusion of other models, data or options" in other.err
    rest = mergery("fuse", family / "llama", tmp_path / "parts", *given)
    assert rest.code == 0, rest.err
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "parts.partial").mkdir()  # of somebody else
    (tmp_path / "parts.partial/mine.txt").write_text("mine")
    assert mergery("fuse", family / "llama", tmp_path / "parts", *given).code == 0
    assert (tmp_path / "parts.partial/mine.txt").exists()


def test_stored_distributions_serve_the_next_run(
    family: Path, tmp_path: Path, mergery: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergery.alignment.fusion import teaching

    given = ("--teachers", family / "gpt2", "--data", family / "texts.jsonl", "--steps", 1, "--batch", 4, "--quiet")
    store = ("--store", tmp_path / "store")
    assert mergery("fuse", family / "qwen", tmp_path / "one", *given, *store).code == 0
    monkeypatch.setattr(teaching, "ask", lambda *_: pytest.fail("a teacher was asked again"))
    other = mergery(
        "fuse", family / "qwen", tmp_path / "two", *given, *store, "--rule", "avgce", "--lora", 2, "--recompute"
    )
    assert other.code == 0, other.err
    assert {name.name.split("-")[0] for name in (tmp_path / "store").iterdir()} == {"texts", "gpt2", "qwen"}
    before, after = load_file(family / "qwen/model.safetensors"), load_file(tmp_path / "two/model.safetensors")
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])  # no linear layer


def test_each_teacher_has_a_student_and_these_are_merged(family: Path, tmp_path: Path, mergery: Run) -> None:
    """FuseChat: pairwise, then SCE with the pivot as the base."""
    done = mergery(
        "fuse", family / "llama", tmp_path / "chat", "--teachers", family / "gpt2", family / "qwen", "--data",
        family / "texts.jsonl", "--pairwise", "sce", "--preset", "fusechat", "--rule", "avgce",
        "--steps", 2, "--batch", 8, "--rate", 1e-2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {each.name for each in (tmp_path / "chat/students").iterdir()} == {"gpt2", "qwen"}
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "chat/merged").state_dict()
    pivot = AutoModelForCausalLM.from_pretrained(family / "llama").state_dict()
    assert any(not torch.equal(merged[name], pivot[name]) for name in pivot)
    assert "method: sce" in (tmp_path / "chat/recipe.yaml").read_text()
    assert mergery("plan", tmp_path / "chat/recipe.yaml").code == 0


def test_a_student_of_another_architecture_comes_near_its_teacher(family: Path, tmp_path: Path) -> None:
    """Of distributions alone, without the text: its loss on them falls."""
    options = library.FuseOptions(text=0.0, with_target=False, batch=8, rate=1e-2, epochs=5, top=100, warmup=0.0)
    out = library.fuse(
        family / "gpt2", [family / "qwen"], family / "texts.jsonl", tmp_path / "student", options=options
    )
    said = json.loads((out / "fusion.json").read_text())
    assert said["after"] < said["before"] - 0.1


def test_prompts_are_not_learnt_and_a_recipe_is_a_target_whose_type_is_kept(
    family: Path, tmp_path: Path, mergery: Run
) -> None:
    tensors = {name: each.bfloat16() for name, each in load_file(family / "llama/model.safetensors").items()}
    shutil.copytree(family / "llama", tmp_path / "half")
    save_file(tensors, tmp_path / "half/model.safetensors", {"format": "pt"})
    config = (tmp_path / "half/config.json").read_text()
    (tmp_path / "half/config.json").write_text(config.replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    (tmp_path / "asked.jsonl").write_text('{"prompt": "ab cad", "answer": "da"}\n{"prompt": "d", "answer": "abca"}\n')
    (tmp_path / "half.yaml").write_text("models: {a: ./half, b: ./half}\nmerge: {method: linear, models: [a, b]}\n")
    done = mergery(
        "fuse", tmp_path / "half.yaml", tmp_path / "out", "--teachers", family / "gpt2", "--data", tmp_path / "asked.jsonl",
        "--batch", 2, "--rule", "avgce", "--match", "warping", "--vocabulary", "edit",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {each.dtype for each in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()


def test_one_process_at_a_time(family: Path, tmp_path: Path, mergery: Run) -> None:
    given = (
        "fuse",
        family / "llama",
        tmp_path / "out",
        "--teachers",
        family / "gpt2",
        "--data",
        family / "texts.jsonl",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda *_: pytest.fail(mergery(*given).err))
        with pytest.raises(pytest.fail.Exception, match="another run is writing"):
            mergery(*given)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(family: Path, tmp_path: Path, mergery: Run) -> Callable[..., str]:
    """What is said to a fusion that cannot be; nothing is left of it."""

    def say(*more: object, target: object = "llama", teachers: object = "gpt2", data: object = "texts.jsonl") -> str:
        outcome = mergery(
            "fuse", family / str(target), tmp_path / "out", "--teachers", family / str(teachers), "--data", family / str(data),
            *more,
        )  # fmt: skip
        assert outcome.code == 2, outcome.out
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
        return outcome.err

    return say


def test_what_cannot_be_fused_is_said_before_any_work(
    family: Path, tmp_path: Path, refused: Callable[..., str], mergery: Run
) -> None:
    assert "this file cannot be read" in refused(data="none.jsonl")
    (tmp_path / "empty.txt").write_text(" \n")
    assert "there is no text in it" in refused(data=tmp_path / "empty.txt")
    assert "llama takes 64 tokens at once" in refused("--longest", 500)
    assert "text is 1.5" in refused("--text", 1.5) and "it must be between 0 and 1" in refused("--text", 1.5)
    assert "rate is 0.0" in refused("--rate", 0)
    assert "top is 0" in refused("--top", 0)
    encoder = BertForMaskedLM(
        BertConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    encoder.save_pretrained(tmp_path / "bert")
    said = refused(teachers=tmp_path / "bert")
    assert "this model does not write text token by token" in said and "it is a BertForMaskedLM" in said
    shutil.copytree(family / "gpt2", tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    assert "there is no tokenizer" in refused(teachers=tmp_path / "bare")
    both = refused(target=tmp_path / "bare", teachers=tmp_path / "bert")
    assert "there is no tokenizer" in both and "BertForMaskedLM" in both
    assert "needs two teachers at least" in refused("--pairwise", "sce")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    taken = mergery(
        "fuse", family / "llama", tmp_path / "taken", "--teachers", family / "gpt2", "--data", family / "texts.jsonl"
    )
    assert taken.code == 2 and "is not empty" in taken.err and "nothing that exists is overwritten" in taken.err


def test_what_it_would_take_is_told_and_nothing_is_written(family: Path, tmp_path: Path, mergery: Run) -> None:
    given = (
        "fuse",
        family / "llama",
        tmp_path / "out",
        "--teachers",
        family / "gpt2",
        "--data",
        family / "texts.jsonl",
    )
    words = mergery(*given, "--dry-run")
    assert words.code == 0 and "in 24 sequences: 1 steps" in words.out and "asked: gpt2, llama" in words.out
    assert "once for each teacher" in mergery(*given, "--dry-run", "--pairwise", "sce").out
    told = json.loads(mergery(*given, "--dry-run", "--json", "--batch", 8, "--epochs", 2).out)
    assert told["steps"] == 6 and told["sequences"] == 24 and told["letters"] > 1000
    assert told["disk"] > told["tokens"] * 124 and told["training"] > 0
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_target_that_the_machine_cannot_hold_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergery.alignment.fusion.foretelling.machine_memory", lambda: 100_000)
    said = refused()
    assert "llama is too large to be trained here" in said and "lora: 16" in said


def test_what_bitsandbytes_lacks_is_not_said_and_what_it_warns_of_is(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    lacking = "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'."
    with quiet():
        logger.warning(lacking)
        logger.warning("no library was found")
    logger.warning(lacking)
    assert caplog.messages == ["no library was found", lacking]
