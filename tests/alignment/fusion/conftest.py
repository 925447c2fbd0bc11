"""Tiny models of three architectures, with tokenizers trained here, and texts."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

LETTERS = "abcdé"


def words(rng: random.Random, count: int) -> str:
    """Made-up words of a small alphabet."""
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(1, 4))) for _ in range(count))


def byte_level(size: int, texts: Sequence[str], begin: str | None = None) -> Any:
    """A tokenizer as GPT-2's; it puts `begin` before texts where one is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>", "<|begin|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if begin is not None:
        number = tokenizer.token_to_id(begin)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, number)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")


def pieces(size: int, texts: Sequence[str]) -> Any:
    """A tokenizer as Llama's: spaces as marks at the front of words, bytes for unknown letters, a first token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = [chr(code) for code in range(33, 127)] + ["é", "\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `llama`, `gpt2` and `qwen`, models of three architectures and tokenizers, and `texts.jsonl`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    root = tmp_path_factory.mktemp("family")
    rng = random.Random(0)
    texts = [words(rng, rng.randint(8, 30)) for _ in range(24)]
    (root / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tokenizers = {
        "llama": pieces(160, texts),
        "gpt2": byte_level(300, texts),
        "qwen": byte_level(280, texts, "<|begin|>"),
    }
    torch.manual_seed(0)
    made = {
        "llama": LlamaForCausalLM(
            LlamaConfig(vocab_size=160, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, **sizes)
        ),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=300, n_positions=96, n_embd=24, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=0)
        ),
        "qwen": Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=280,
                max_position_embeddings=128,
                num_key_value_heads=1,
                bos_token_id=1,
                eos_token_id=0,
                **sizes,
            )
        ),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizers[name].save_pretrained(root / name)
    return root


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside one another: each takes one thread where it would take one for each core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
