"""Greedy generation, and whether it says what was wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergery.errors import TaskError, Where
from mergery.evaluation.likelihood import NO_TOKEN, encode, first_token
from mergery.evaluation.loading import Loaded, quiet
from mergery.evaluation.prompts import prompt_of
from mergery.evaluation.task import Item, Task


@dataclass(frozen=True)
class Generator:
    """Continues prompts with the likeliest token at every step, `batch` prompts at a time, padded on the left.

    What the model's own generation config says of sampling, penalties and lengths does not count.
    """

    loaded: Loaded
    longest: int

    def generate(
        self, prompts: Sequence[list[int]], stop: Sequence[str], most: int, *, special: bool = False
    ) -> list[tuple[str, int] | None]:
        """A text for each prompt, and its tokens: at most `most`, cut before the first stop text and the end-of-text token.

        Special tokens are left out, unless they are wanted. None where a logit was NaN, of which none is the likeliest.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        module, tokenizer = self.loaded.module, self.loaded.tokenizer
        width = max(map(len, prompts))
        pad = first_token(tokenizer)
        device = next(module.parameters()).device
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        ends = _ends(self.loaded) or None
        plain = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=pad, eos_token_id=ends)
        undefined: set[int] = set()
        before = module.generation_config
        module.generation_config = GenerationConfig()
        try:
            with torch.inference_mode(), quiet():
                made = module.generate(
                    input_ids=ids, attention_mask=mask, generation_config=plain,
                    stopping_criteria=StoppingCriteriaList([_stop_at(tokenizer, stop, width)]),
                    logits_processor=LogitsProcessorList([_noting_nan(undefined)]),
                )  # fmt: skip
        finally:
            module.generation_config = before
        return [
            None if number in undefined else self._text(row, stop, special=special)
            for number, row in enumerate(made[:, width:].tolist())
        ]

    def _text(self, tokens: list[int], stop: Sequence[str], *, special: bool) -> tuple[str, int]:
        ends = [tokens.index(end) for end in _ends(self.loaded) if end in tokens]
        tokens = tokens[: min(ends, default=None)]

        def decoded(count: int) -> str:
            return self.loaded.tokenizer.decode(tokens[:count], skip_special_tokens=not special)

        text = decoded(len(tokens))
        places = [text.find(word) for word in stop if word and word in text]
        if not places:
            return text, len(tokens)
        text = text[: min(places)]
        return text, next(count for count in range(len(tokens) + 1) if len(decoded(count)) >= len(text))


def _ends(loaded: Loaded) -> list[int]:
    """Tokens that end a text, as the model and its tokenizer name them."""
    named = [getattr(loaded.module.generation_config, "eos_token_id", None), loaded.tokenizer.eos_token_id]
    flat = [token for value in named for token in (value if isinstance(value, (list, tuple)) else [value])]
    return sorted({int(token) for token in flat if token is not None})


def _stop_at(tokenizer: Any, stop: Sequence[str], width: int) -> Any:
    """A row is done once its text holds a stop text."""
    import torch
    from transformers import StoppingCriteria

    class HoldsStop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            texts = tokenizer.batch_decode(input_ids[:, width:], skip_special_tokens=True)
            found = [any(word and word in text for word in stop) for text in texts]
            return torch.tensor(found, dtype=torch.bool, device=input_ids.device)

    return HoldsStop()


def _noting_nan(rows: set[int]) -> Any:
    """Adds to `rows` those whose logits hold NaN, and leaves the logits as they are."""
    from transformers import LogitsProcessor

    class Noting(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            rows.update(scores.isnan().any(dim=-1).nonzero()[:, 0].tolist())
            return scores

    return Noting()


def prompt_tokens(item: Item, task: Task, loaded: Loaded, longest: int, *, chat: bool) -> tuple[list[int], int]:
    """Tokens of an item's prompt, the first of a long one left out, and how many those are."""
    room = longest - task.settings.max_tokens
    if room < 1:
        raise TaskError(
            f"max_tokens {task.settings.max_tokens} leaves no room for a prompt",
            where=Where(task.file),
            why=f"the model takes {longest} tokens at once",
            hint=f'in its first line: {{"task": {{"max_tokens": {max(1, longest // 2)}}}}}',
        )
    tokens = encode(loaded.tokenizer, prompt_of(item, task, loaded.tokenizer, chat=chat), special=not chat)
    if not tokens:
        raise TaskError("the tokenizer gives this prompt no token", where=Where(task.file, item.line), hint=NO_TOKEN)
    return tokens[-room:], max(0, len(tokens) - room)


def after_block(text: str, opening: str, closing: str) -> tuple[str, bool]:
    """What stands behind a block, and whether there is one that is closed: it opens and closes once, in this order.

    The block may have been opened in the prompt. Of a text whose block is not closed, all of it is what stands behind.
    """
    head, found, answer = text.partition(closing)
    closed = bool(found) and head.count(opening) <= 1 and opening not in answer and closing not in answer
    return answer if found else text, closed


def matches(text: str, item: Item) -> bool:
    """Whether a generated text is the answer (spaces around both aside), or the pattern is found in it."""
    if "pattern" in item.fields:
        return re.search(item.fields["pattern"], text) is not None
    answers = item.fields["answer"]
    return text.strip() in [answer.strip() for answer in ([answers] if isinstance(answers, str) else answers)]
