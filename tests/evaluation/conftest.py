"""Tiny models with a tokenizer trained here, and task files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_llama

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
Write = Callable[..., Path]


def words(rng: random.Random, count: int) -> str:
    """Made-up words of a small alphabet."""
    return " ".join("".join(rng.choices("abcdé", k=rng.randint(1, 4))) for _ in range(count))


def train_tokenizer() -> Any:
    """A byte-pair tokenizer of 128 tokens, with spaces at the front of words as usual."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    alphabet = [chr(code) for code in range(32, 127)] + ["é", "\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=128, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([words(rng, 50) for _ in range(20)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return fast


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside one another: each takes one thread where it would take one for each core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with language models `base`, `a` and `b`, fine-tunes of `base`, each with the tokenizer."""
    root = tmp_path_factory.mktemp("zoo")
    tokenizer = train_tokenizer()
    make_llama(root / "base", 0, initializer_range=0.3, bos_token_id=0, eos_token_id=1)
    for seed, name in enumerate("ab", start=1):
        make_llama(root / name, seed, root / "base")
    for name in ("base", "a", "b"):
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a task file of objects, or of lines as they are: `write(items, "name.jsonl")`."""

    def to_file(lines: Iterable[Any], name: str = "task.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(text + "\n" for text in texts))
        return path

    return to_file


def choices(count: int, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Items of four choices of several lengths."""
    rng = random.Random(seed)
    return [
        {
            "question": words(rng, rng.randint(1, 9)),
            "choices": [words(rng, length) + f"{length}" for length in (1, 2, 3, 2)],
            "answer": rng.randrange(4),
            **more,
        }
        for _ in range(count)
    ]


def prompts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts of several lengths."""
    rng = random.Random(seed)
    return [{"prompt": words(rng, rng.randint(1, 9)), "answer": words(rng, 1)} for _ in range(count)]


def texts(count: int, seed: int = 0, longest: int = 60) -> list[dict[str, Any]]:
    """Texts of several lengths; the longest do not fit in the models' windows."""
    rng = random.Random(seed)
    return [{"text": words(rng, rng.randint(1, longest))} for _ in range(count)]
