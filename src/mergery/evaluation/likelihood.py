"""Log-likelihoods of texts under a causal language model, the same for any batch size.

Rows are padded on the right, where causal attention cannot see; logits are taken to float32 before anything is summed,
and sums over tokens are float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.errors import TaskError, Where
from mergery.evaluation.loading import Loaded
from mergery.evaluation.prompts import options, prompt_of
from mergery.evaluation.task import Item, Task

if TYPE_CHECKING:
    import numpy as np

Span = tuple[list[int], list[int]]  # tokens that condition, tokens that are scored

NO_TOKEN = "remove this item, or give the tokenizer that the model was trained with"
"""What to try where a text is not made of tokens."""


def first_token(tokenizer: Any) -> int:
    """The token that stands before a text of which every token is scored."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id):
        if token is not None:
            return int(token)
    return 0


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Token ids, with the special tokens that the tokenizer puts around a text, or without.

    A text that begins with the beginning-of-sequence token, as chat templates write it, is given no second one.
    """
    start = tokenizer.bos_token
    if special and start and text.startswith(start):
        special = False
    with told_of(text):
        return list(tokenizer.encode(text, add_special_tokens=special))


@contextmanager
def told_of(text: str) -> Iterator[None]:
    """Say of which text it is where a tokenizer refuses one, as those of words do without a token for unknown ones.

    Raises TaskError.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises no other of its own
            raise
        begin = text if len(text) <= 40 else f"{text[:40]}…"
        raise TaskError(f"the tokenizer cannot take the text {begin!r}", why=str(error), hint=NO_TOKEN) from None


def split_pair(tokenizer: Any, context: str, continuation: str, *, special: bool = True) -> Span:
    """Tokens of a prompt and of what follows it, cut where the prompt ends.

    Spaces at the prompt's end go with the continuation, as most vocabularies have them at the front of words.
    """
    stripped = context.rstrip()
    if not stripped:
        return [first_token(tokenizer)], encode(tokenizer, context + continuation, special=False)
    before = encode(tokenizer, stripped, special=special)
    whole = encode(tokenizer, context + continuation, special=special)
    return before, whole[len(before) :]


def choice_spans(item: Item, task: Task, loaded: Loaded, *, chat: bool) -> list[Span]:
    """A span for each choice of an item."""
    prompt = prompt_of(item, task, loaded.tokenizer, chat=chat)
    between = "" if chat else task.settings.delimiter
    spans = []
    for choice in options(item.fields, task):
        span = split_pair(loaded.tokenizer, prompt, between + choice, special=not chat)
        if not span[1]:
            what, why = f"the tokenizer gives the choice {choice!r} no token", "it cannot be scored"
            raise TaskError(what, where=Where(task.file, item.line), why=why, hint=NO_TOKEN)
        spans.append(span)
    return spans


def text_spans(item: Item, task: Task, loaded: Loaded, longest: int) -> list[Span]:
    """Windows over a text, each as long as the model allows; every token is scored once.

    A window begins one token before the first that it scores, and the last window, which is shorter, as far before it as
    fits. Before the text stands the first token of all.
    """
    tokens = encode(loaded.tokenizer, item.fields["text"], special=False)
    if not tokens:
        raise TaskError("the tokenizer gives this text no token", where=Where(task.file, item.line), hint=NO_TOKEN)
    joined = [first_token(loaded.tokenizer), *tokens]
    spans = []
    for start in range(0, len(tokens), longest):
        stop = min(start + longest, len(tokens))
        spans.append((joined[max(0, stop - longest) : start + 1], joined[start + 1 : stop + 1]))
    return spans


@dataclass(frozen=True)
class Scorer:
    """Scores spans with one model, `batch` rows at a time."""

    loaded: Loaded
    batch: int
    longest: int

    def score(self, spans: Sequence[Span]) -> np.ndarray:
        """The natural log-likelihood of each span's second part, float64, shape (len(spans),)."""
        import numpy as np

        # Spans that differ in the last token alone, such as choices of one letter, are read off the same row.
        rows: dict[tuple[int, ...], list[int]] = {}
        cut = [self._cut(span) for span in spans]
        for index, (ids, _) in enumerate(cut):
            rows.setdefault(tuple(ids[:-1]), []).append(index)
        order = sorted(rows, key=lambda row: (-len(row), row))
        result = np.zeros(len(spans), np.float64)
        for start in range(0, len(order), self.batch):
            chunk = order[start : start + self.batch]
            wanted = [[cut[index] for index in rows[row]] for row in chunk]
            for row, totals in zip(chunk, self._run(chunk, wanted), strict=True):
                for index, total in zip(rows[row], totals, strict=True):
                    result[index] = total
        return result

    def _cut(self, span: Span) -> tuple[list[int], int]:
        """The ids that fit, the first of a long prompt left out, and how many of them are scored."""
        ids = span[0] + span[1]
        return ids[-(self.longest + 1) :], min(len(span[1]), self.longest)

    def _run(
        self, rows: Sequence[tuple[int, ...]], wanted: Sequence[Sequence[tuple[list[int], int]]]
    ) -> Iterator[list[float]]:
        import torch

        module = self.loaded.module
        width = max(map(len, rows))
        pad = first_token(self.loaded.tokenizer)
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        first = min(len(ids) - 1 - count for asked in wanted for ids, count in asked)
        device = next(module.parameters()).device
        given = {"logits_to_keep": torch.arange(first, width, device=device)} if _keeps(module) else {}
        with torch.inference_mode():
            logits = module(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **given).logits
            logits = logits if given else logits[:, first:]
            for row, asked, scores in zip(rows, wanted, logits, strict=True):
                start = min(len(row) - count for _, count in asked)
                logs = torch.log_softmax(scores[start - first : len(row) - first].float(), dim=-1)
                totals = []
                for tokens, count in asked:
                    targets = torch.tensor(tokens[-count:], device=device)
                    picked = logs[len(row) - count - start :].gather(1, targets[:, None])
                    totals.append(float(picked.double().sum()))
                yield totals


def _keeps(module: Any) -> bool:
    """Whether the model can leave out logits that nobody asks for."""
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
