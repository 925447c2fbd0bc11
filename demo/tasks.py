"""The tasks: short words over an alphabet of their own, and a rule that says what becomes of them.

An item is a line of text such as `sort:392051=012359`. Every task has an alphabet, so one glance tells what a model was
asked. Half of each alphabet is rare in the base's training data: that is what an expert has left to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

LENGTH = 6
"""Symbols in a word."""
COMMON = 5
"""Symbols of each alphabet that the base sees often."""

Split = Literal["train", "dev", "test"]
Rule = Callable[[Tensor], Tensor]
"""From words to words: (n, LENGTH) indices into an alphabet, both ways."""


@dataclass(frozen=True)
class Task:
    """One skill. `rare` is the share of symbols that the base's words take from the whole alphabet, not its common half."""

    name: str
    alphabet: str
    rule: Rule
    rare: float
    meaning: str

    @property
    def word(self) -> str:
        """The token that names the task in an item."""
        return f"{self.name}:"


def reverse(words: Tensor) -> Tensor:
    return words.flip(1)


def sort(words: Tensor) -> Tensor:
    return words.sort(dim=1).values


def swap(words: Tensor) -> Tensor:
    return words.unflatten(1, (-1, 2)).flip(2).flatten(1)


def deal(words: Tensor) -> Tensor:
    return torch.cat([words[:, ::2], words[:, 1::2]], dim=1)


def climb(words: Tensor) -> Tensor:
    return words.cummax(dim=1).values


TASKS = (
    Task("reverse", "abcdefghij", reverse, 0.03, "last symbol first"),
    Task("sort", "0123456789", sort, 0.1, "in ascending order"),
    Task("swap", "ABCDEFGHIJ", swap, 0.04, "neighbours change places"),
    Task("deal", "klmnopqrst", deal, 0.03, "odd places, then even places"),
    Task("climb", "KLMNOPQRST", climb, 0.02, "the highest symbol so far"),
)


class Items:
    """Draws items as token ids: `<bos>`, the task's word, a word, `=`, the answer, `<eos>`."""

    answer = 3 + LENGTH
    """Where the answer starts; the prompt is what stands before."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = tokenizer.get_vocab()

    def draw(self, task: Task, count: int, split: Split, generator: torch.Generator, *, rare: float = 1.0) -> Tensor:
        """Draw `count` items (count, 16) of a split; all but the share `rare` of their symbols are common."""
        drawn: list[Tensor] = []
        while sum(map(len, drawn)) < count:
            words = torch.randint(len(task.alphabet), (8 * count, LENGTH), generator=generator)
            common = scatter(task)[words % COMMON]
            whole = torch.rand(words.shape, generator=generator) < rare
            words = torch.where(whole, words, common)
            drawn.append(words[belongs(words, split)])
        return self.spell(task, torch.cat(drawn)[:count])

    def spell(self, task: Task, words: Tensor) -> Tensor:
        """Write words and their answers as the token ids of items."""
        symbols = torch.tensor([self.ids[symbol] for symbol in task.alphabet])

        def column(token: str) -> Tensor:
            return torch.full((len(words), 1), self.ids[token])

        start = [column("<bos>"), column(task.word), symbols[words], column("=")]
        return torch.cat([*start, symbols[task.rule(words)], column("<eos>")], dim=1)


def scatter(task: Task) -> Tensor:
    """The common symbols: half of the alphabet, not the same half for every task."""
    seed = sum(map(ord, task.name))
    order = torch.randperm(len(task.alphabet), generator=torch.Generator().manual_seed(seed))
    return order[:COMMON]


def belongs(words: Tensor, split: Split) -> Tensor:
    """Which words are of the split. One word in ten is for `dev` and one for `test`, by what it spells: no word is in two."""
    sums = (words * torch.tensor([1, 3, 7, 9, 1, 3])).sum(dim=1) % 10
    return {"dev": sums == 0, "test": sums == 1, "train": sums > 1}[split]


def make_tokenizer(tasks: tuple[Task, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer of the tasks' words and symbols: one token for `reverse:`, one for each letter, digit and `=`.

    It has no token for the unknown: text that holds anything else is an error.
    """
    special = ["<pad>", "<bos>", "<eos>"]
    words = [*special, *(task.word for task in tasks), "=", *(symbol for task in tasks for symbol in task.alphabet)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]+:|."), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
