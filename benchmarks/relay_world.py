"""A world of two skills that are wanted one after the other: reading a cipher, and rules on what was read.

`drop:-dbcae=` is plain, `drop:②73041=` the same in a cipher: the mark in front of a word says which of four permutations of
the letters the digits stand for, so that no digit can be read without the mark. Answers are plain. The base knows four rules on
plain words, and has seen a little of the cipher and of two new rules. The reader learnt the four rules on words in cipher, the
ruler the new rules on plain words, both with some of what the base knows, and in their blocks alone, as adapters are, so that
embeddings and head are the base's. Nobody has seen a new rule on a word in cipher.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.zoo.sequences import sink, turn
from demo.tasks import climb, reverse, sort
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS, DIGITS, MARKS, LENGTH = "abcdefghij", "0123456789", "①②③④", 5


def drop(words: Tensor) -> Tensor:
    return words.sort(dim=1, descending=True).values


KNOWN = {"sort": sort, "climb": climb, "sink": sink, "turn": turn}
NEW = {"reverse": reverse, "drop": drop}
RULES = KNOWN | NEW
WORDS = ("<pad>", "<bos>", "<eos>", *(f"{rule}:" for rule in RULES), "-", *MARKS, "=", *LETTERS, *DIGITS)
IDS = {word: number for number, word in enumerate(WORDS)}
ANSWER = 4 + LENGTH  # where it starts: behind <bos>, the rule, the mark, the word and `=`
SPLITS = {"train": (2, 3, 4, 5, 6, 7, 8, 9), "dev": (0,), "test": (1,)}  # by what a word spells: no word is in two
PERMUTED = torch.stack(
    [torch.randperm(10, generator=torch.Generator().manual_seed(7 + mark)) for mark in range(len(MARKS))]
)


Part = tuple[str, bool, int]  # a rule, whether its words are in cipher, and its items in a batch


@dataclass(frozen=True)
class Stage:
    """One training: of a new model, or on from another."""

    name: str
    first: str
    parts: tuple[Part, ...]
    steps: int
    rate: float
    warm: int
    good: float  # of every part's dev items: training ends
    seed: int


def of(rules: Iterable[str], cipher: bool, count: int) -> tuple[Part, ...]:
    return tuple((rule, cipher, count) for rule in rules)


HIDDEN, LAYERS = 48, 8
STAGES = (
    Stage("start", "", of(KNOWN, False, 12), 600, 3e-3, 50, 0.9, 0),
    Stage("base", "start", of(KNOWN, False, 5) + of(KNOWN, True, 4) + of(NEW, False, 4), 150, 1.5e-3, 30, 2.0, 50),
    Stage("ruler", "base", of(KNOWN, False, 2) + of(NEW, False, 16), 200, 1e-3, 30, 0.93, 52),
    Stage("reader", "base", of(KNOWN, False, 2) + of(KNOWN, True, 10), 350, 1e-3, 30, 0.93, 51),
)


def draw(rule: str, count: int, split: str, generator: torch.Generator, *, cipher: bool) -> Tensor:
    """Items of a rule as token ids: (count, 15)."""
    words = torch.randint(10, (40 * count + 200, LENGTH), generator=generator)
    sums = (words * torch.tensor([1, 3, 7, 9, 1])).sum(1) % 10
    words = words[torch.isin(sums, torch.tensor(SPLITS[split]))][:count]
    marks = torch.randint(len(MARKS), (count,), generator=generator)

    def column(word: str) -> Tensor:
        return torch.full((count, 1), IDS[word])

    mark = IDS[MARKS[0]] + marks[:, None] if cipher else column("-")
    text = IDS[DIGITS[0]] + PERMUTED[marks[:, None], words] if cipher else IDS[LETTERS[0]] + words
    answer = IDS[LETTERS[0]] + RULES[rule](words)
    return torch.cat([column("<bos>"), column(f"{rule}:"), mark, text, column("="), answer, column("<eos>")], dim=1)


def train(cache: Path, seed: int) -> Path:
    """The folder of `base`, `ruler` and `reader`, each trained where it is not there."""
    folder = cache / f"relay-{seed}"
    for stage in STAGES:
        if (folder / stage.name).exists():
            continue
        if stage.first:
            model = LlamaForCausalLM.from_pretrained(folder / stage.first)
        else:
            torch.manual_seed(seed)
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(WORDS),
                    hidden_size=HIDDEN,
                    intermediate_size=2 * HIDDEN,
                    num_hidden_layers=LAYERS,
                    num_attention_heads=4,
                    num_key_value_heads=4,
                    max_position_embeddings=32,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                )
            )
        steps = fit(model, stage, seed)
        half = folder / f"{stage.name}.part"
        model.save_pretrained(half)
        tokenizer().save_pretrained(half)
        half.rename(folder / stage.name)
        print(f"{stage.name}, seed {seed}: {steps} steps", flush=True)
    return folder


def fit(model: LlamaForCausalLM, stage: Stage, seed: int) -> int:
    """Train until all parts are answered well enough; models that go on from the base in their blocks alone."""
    generator = torch.Generator().manual_seed(seed + stage.seed)
    learnt = [each for name, each in model.named_parameters() if stage.first != "base" or ".layers." in name]
    optimiser = torch.optim.AdamW(learnt, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step in range(stage.steps):
        left = (stage.steps - step) / (0.3 * stage.steps)
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * min(1.0, (step + 1) / stage.warm, max(0.05, left))
        ids = torch.cat([draw(rule, count, "train", generator, cipher=cipher) for rule, cipher, count in stage.parts])
        model.train()
        logits = model(ids[:, :-1]).logits[:, ANSWER - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, ANSWER:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        if step % 50 == 49:
            found = [score(model, rule, cipher, 60 if stage.first else 100, "dev") for rule, cipher, _ in stage.parts]
            if min(found) >= stage.good:
                return step + 1
    return stage.steps


@torch.inference_mode()
def score(model: LlamaForCausalLM, rule: str, cipher: bool, count: int, split: str) -> float:
    """The share of items that are answered exactly: each token of the answer the likeliest one behind those before it."""
    model.eval()
    ids = draw(rule, count, split, torch.Generator().manual_seed(5), cipher=cipher)
    told = model(ids[:, :-1]).logits[:, ANSWER - 1 :].argmax(-1)
    return float((told == ids[:, ANSWER:]).all(1).float().mean())


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each rule, mark, sign, letter and digit."""
    made = Tokenizer(models.WordLevel(IDS))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]+:|."), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
