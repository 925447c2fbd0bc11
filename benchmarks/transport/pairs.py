"""Pairs of a larger source and smaller targets, trained here on the standard library's prose and code.

Prose is what its docstrings say, code is its modules without them; files whose name's hash says so are held out. The base
learns prose and a little code; the source learns from it on code. Two targets of half the width and depth know prose and as
little code: `independent` starts from random weights and has a tokenizer of its own; `pruned` is cut out of the base, as small
models of published families are out of their large ones, and keeps its tokenizer.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH, BATCH = 96, 16
SKIPPED = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "__pycache__",
    "encodings",
)
HELD = 8  # one file in so many is held out
SOURCES = 1  # seeds beyond have targets of their own, and the base and source of an earlier one
LITTLE = 24_000  # characters of code that a target has seen


@dataclass(frozen=True)
class Steps:
    """How long each model is trained."""

    base: int = 1100
    source: int = 800
    independent: int = 1500
    pruned: int = 800


@dataclass(frozen=True)
class Corpus:
    """Texts of one kind: of those that are trained on, and held out."""

    train: str
    held: str


def corpora() -> tuple[Corpus, Corpus]:
    """Prose and code of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[tuple[str, bool], list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        if set(path.relative_to(root).parts[:-1]) & set(SKIPPED) or path.stat().st_size > 200_000:
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        held = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % HELD == 0
        found.setdefault(("prose", held), []).extend(_prose(tree))
        code = ast.unparse(tree)
        if len(code) > 200:
            found.setdefault(("code", held), []).append(code + "\n\n")
    prose, code = (Corpus(*("".join(found[kind, held]) for held in (False, True))) for kind in ("prose", "code"))
    return prose, code


def _prose(tree: ast.Module) -> Iterator[str]:
    """The docstrings of a module, which are taken out of it."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is None:
                continue
            node.body = node.body[1:] or [ast.Pass()]
            if len(text) > 60:
                yield text + "\n\n"


def tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", clean_up_tokenization_spaces=False)


def llama(words: Any, width: int, layers: int, inner: int) -> LlamaForCausalLM:
    """A model with random weights; heads have 16 dimensions, and two of them share key and value."""
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 16, num_key_value_heads=width // 32, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def ids_of(words: Any, text: str) -> Tensor:
    """A text in tokens, (tokens,)."""
    return torch.tensor(words(text, add_special_tokens=False)["input_ids"])


def fit(
    model: LlamaForCausalLM,
    parts: Sequence[tuple[Tensor, float]],
    steps: int,
    rate: float,
    seed: int,
    batch: int = BATCH,
) -> None:
    """Train on windows of texts, each drawn with its share."""
    generator = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    shares = np.array([share for _, share in parts])
    model.train()
    for step in range(steps):
        warm, cool = min(1.0, (step + 1) / 30), min(1.0, (steps - step) / (0.3 * steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * cool
        rows = []
        for which in generator.choice(len(parts), batch, p=shares / shares.sum()):
            text = parts[which][0]
            start = int(generator.integers(0, len(text) - LENGTH))
            rows.append(text[start : start + LENGTH])
        ids = torch.stack(rows)
        loss = model(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


@torch.no_grad()
def pruned(model: LlamaForCausalLM, ids: Tensor) -> LlamaForCausalLM:
    """A model of half the width and depth cut out of another: every other layer, the heads, inner neurons and dimensions that
    are largest on a text.
    """
    old = model.config
    half = copy.deepcopy(old)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        setattr(half, key, getattr(old, key) // 2)
    kept = list(range(1, old.num_hidden_layers, 2))
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if name.endswith(("o_proj", "down_proj", "model.norm")):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: seen.__setitem__(
                        name, args[0].reshape(-1, args[0].shape[-1]).square().mean(0)
                    )
                )
            )
    rows = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)[:64]
    model(input_ids=rows)
    for hook in hooks:
        hook.remove()

    def top(score: Tensor, count: int) -> Tensor:
        return score.topk(count).indices.sort().values

    width = top(seen["model.norm"], half.hidden_size)
    small = LlamaForCausalLM(half)
    state, mine = model.state_dict(), small.state_dict()
    mine["model.embed_tokens.weight"].copy_(state["model.embed_tokens.weight"][:, width])
    mine["model.norm.weight"].copy_(state["model.norm.weight"][width])
    dim, heads, fewer = old.head_dim, old.num_key_value_heads, half.num_key_value_heads
    assert dim and heads and fewer
    for new, layer in enumerate(kept):
        before, after = f"model.layers.{layer}.", f"model.layers.{new}."
        groups = seen[f"{before}self_attn.o_proj"].reshape(heads, -1).sum(1)
        group = top(groups, fewer)
        keys = (group[:, None] * dim + torch.arange(dim)).reshape(-1)
        wide = 2 * dim
        queries = (group[:, None] * wide + torch.arange(wide)).reshape(-1)
        inner = top(seen[f"{before}mlp.down_proj"], half.intermediate_size)
        for name, out, into in (
            ("self_attn.q_proj", queries, width), ("self_attn.k_proj", keys, width), ("self_attn.v_proj", keys, width),
            ("self_attn.o_proj", width, queries), ("mlp.gate_proj", inner, width), ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):  # fmt: skip
            mine[f"{after}{name}.weight"].copy_(state[f"{before}{name}.weight"][out][:, into])
        for name in ("input_layernorm", "post_attention_layernorm"):
            mine[f"{after}{name}.weight"].copy_(state[f"{before}{name}.weight"][width])
    return small


def train(folder: Path, seed: int, steps: Steps = Steps()) -> None:
    """Train the models of one seed into folders of their names; what is there is not trained again."""
    for name in ("base", "source") if seed >= SOURCES and not (folder / "base").exists() else ():
        (folder / name).symlink_to(Path("..") / str(seed % SOURCES) / name)
    prose, code = corpora()
    words = tokenizer([prose.train[:400_000], code.train[:400_000]], 512)
    small = tokenizer([prose.train[:400_000]], 384)
    much, all_code, little = ids_of(words, prose.train), ids_of(words, code.train), ids_of(words, code.train[:LITTLE])
    torch.manual_seed(seed)

    def kept(name: str, make: Any, own: Any = words) -> LlamaForCausalLM:
        place = folder / name
        if not place.exists():
            model = make()
            unfinished = place.with_suffix(".part")
            model.save_pretrained(unfinished)
            own.save_pretrained(unfinished)
            unfinished.rename(place)
        return LlamaForCausalLM.from_pretrained(place)

    def made_base() -> LlamaForCausalLM:
        torch.manual_seed(seed)
        model = llama(words, 128, 4, 320)
        fit(model, [(much, 0.95), (little, 0.05)], steps.base, 3e-3, seed)
        return model

    base = kept("base", made_base)

    def made_source() -> LlamaForCausalLM:
        model = copy.deepcopy(base)
        fit(model, [(much, 0.3), (all_code, 0.7)], steps.source, 2e-3, seed + 100)
        return model

    def made_pruned() -> LlamaForCausalLM:
        torch.manual_seed(seed + 200)
        model = pruned(base, much)
        fit(model, [(much, 0.95), (little, 0.05)], steps.pruned, 3e-3, seed + 200)
        return model

    def made_independent() -> LlamaForCausalLM:
        torch.manual_seed(seed + 300)
        model = llama(small, 64, 2, 160)
        own, few = ids_of(small, prose.train), ids_of(small, code.train[:LITTLE])
        fit(model, [(own, 0.95), (few, 0.05)], steps.independent, 3e-3, seed + 300)
        return model

    kept("pruned", made_pruned)
    kept("independent", made_independent, small)
    kept("source", made_source)
