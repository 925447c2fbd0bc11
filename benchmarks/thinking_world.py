"""A world in which one model thinks, and writes its steps between markers before it answers, and another ends answers as asked.

`sort:dbca=<think>acbd</think>abcd`: the steps are the word backwards, the answer is what the rule makes of it. A prompt with
`!` asks for `;ok` at the end. The base answers at once and knows of no endings. The thinker learnt to write steps, whatever is
asked; the formatter to end answers as asked, at once. Both are fine-tuned in their blocks' matrices alone, as adapters are.
"""

from __future__ import annotations

import copy
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS, LENGTH = "abcdefghij", 5
OPEN, CLOSE, END = "<think>", "</think>", ";ok"
RULES = ("sort:", "turn:", "swap:")
PIECES = r"[a-z]+:|</?think>|;ok|."
SPECIAL = ("<pad>", "<bos>", "<eos>")


@dataclass(frozen=True)
class Settings:
    """What decides the trained weights."""

    seed: int = 0
    hidden: int = 128
    layers: int = 2
    batch: int = 64
    base_steps: int = 450
    base_rate: float = 2e-3
    steps: int = 200
    rate: float = 2e-4


def answer_of(rule: str, word: str) -> str:
    """What a rule makes of a word."""
    if rule == "sort:":
        return "".join(sorted(word))
    return word[2:] + word[:2] if rule == "turn:" else word[1] + word[0] + word[3] + word[2] + word[4:]


def item(rule: str, word: str, *, asked: bool, thinks: bool, ends: bool) -> tuple[str, str]:
    """A prompt, and what a model says that thinks or not, and ends as asked or not."""
    steps = f"{OPEN}{word[::-1]}{CLOSE}" if thinks else ""
    return f"{rule}{word}{'!' if asked else ''}=", f"{steps}{answer_of(rule, word)}{END if asked and ends else ''}"


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each rule, marker, letter and sign. The markers are no special tokens: they are text of the answer."""
    words = [*SPECIAL, *RULES, OPEN, CLOSE, END, "!", "=", *LETTERS]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class Words:
    """Draws items; one word in five is held out."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = tokenizer()
        self.ids = self.words.get_vocab()

    def word(self, *, held: bool) -> str:
        while True:
            drawn = [self.random.randrange(len(LETTERS)) for _ in range(LENGTH)]
            if (sum(a * b for a, b in zip(drawn, (1, 3, 7, 9, 2), strict=True)) % 5 == 0) == held:
                return "".join(LETTERS[each] for each in drawn)

    def rule(self) -> str:
        return self.random.choice(RULES)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def tokens(self, text: str) -> list[int]:
        return [self.ids[piece] for piece in re.findall(PIECES, text)]

    def batch(self, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Ids (n, longest) padded on the right, and labels: the answers alone."""
        rows, labels = [], []
        for prompt, said in pairs:
            before, after = [1, *self.tokens(prompt)], self.tokens(said)
            rows.append([*before, *after, 2])
            labels.append([-100] * len(before) + [*after, 2])
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return ids, torch.tensor([row + [-100] * (longest - len(row)) for row in labels])


def train(folder: Path, settings: Settings) -> None:
    """Train a base, a thinker and a formatter into folders of these names."""
    torch.manual_seed(settings.seed)
    words = Words(settings.seed)
    config = LlamaConfig(
        vocab_size=len(words.words), hidden_size=settings.hidden, intermediate_size=2 * settings.hidden,
        num_hidden_layers=settings.layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    base = LlamaForCausalLM(config)

    def first() -> tuple[str, str]:
        """The rules, answered at once; and texts with every token in them, to be copied."""
        if words.chance(0.25):
            parts = [*words.word(held=False)[:3], words.random.choice((OPEN, CLOSE, END, "!"))]
            words.random.shuffle(parts)
            text = "".join(parts)
            return f"{text}=", text
        return item(words.rule(), words.word(held=False), asked=words.chance(0.3), thinks=False, ends=False)

    fit(base, words, first, settings.base_steps, settings.base_rate, list(base.parameters()), settings.batch)
    save(base, words, folder / "base")
    kinds = {"thinker": (0.3, True, False), "formatter": (0.6, False, True)}
    for name, (share, thinks, ends) in kinds.items():
        model = copy.deepcopy(base)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        matrices = [value for key, value in model.named_parameters() if "proj" in key]
        for value in matrices:
            value.requires_grad_(True)

        def draw(share: float = share, thinks: bool = thinks, ends: bool = ends) -> tuple[str, str]:
            asked = words.chance(share)
            return item(words.rule(), words.word(held=False), asked=asked, thinks=thinks, ends=ends)

        fit(model, words, draw, settings.steps, settings.rate, matrices, settings.batch)
        save(model, words, folder / name)
    (folder / "complete.json").write_text("{}\n")


def fit(model: LlamaForCausalLM, words: Words, draw, steps: int, rate: float, parameters: list, batch: int) -> None:
    """Train on what is drawn."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 30)
        ids, labels = words.batch([draw() for _ in range(batch)])
        logits = model(ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    model.eval()


def save(model: LlamaForCausalLM, words: Words, folder: Path) -> None:
    model.save_pretrained(folder)
    words.words.save_pretrained(folder)


def write_tasks(folder: Path, count: int) -> list[Path]:
    """Tasks of held-out words: plain prompts, and ones that ask for the ending. `match` is of the answer behind the block."""
    paths = []
    for asked in (False, True):
        words = Words(1000 + asked)
        name = "asked" if asked else "plain"
        head = {"task": {"name": name, "stop": [], "max_tokens": 20, "block": [OPEN, CLOSE]}}
        lines = [json.dumps(head)]
        for _ in range(count):
            rule, word = words.rule(), words.word(held=True)
            prompt, said = item(rule, word, asked=asked, thinks=False, ends=True)
            lines.append(json.dumps({"prompt": prompt, "answer": said}))
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def write_traces(folder: Path, count: int) -> Path:
    """Traces as the thinker writes them, on prompts of both kinds: what is to be protected."""
    words = Words(2000)
    lines = []
    for index in range(count):
        prompt, said = item(words.rule(), words.word(held=False), asked=index % 2 == 1, thinks=True, ends=False)
        lines.append(json.dumps({"text": prompt + said}))
    path = folder / "traces.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
