"""Greedy generation: against a plain loop, the same for any batch, whatever the model's own settings say."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import mergery
from mergery.errors import TaskError
from mergery.evaluation import EvaluationOptions
from mergery.evaluation.generation import Generator, matches
from mergery.evaluation.loading import Loaded
from mergery.evaluation.models import open_subject
from mergery.evaluation.task import Item
from tests.evaluation.conftest import prompts


@pytest.fixture(scope="module")
def loaded(zoo) -> Loaded:
    return open_subject(zoo / "base").load("language")


def greedy(loaded: Loaded, text: str, most: int) -> str:
    """The likeliest token, one after the other, each from a whole forward pass."""
    ids = loaded.tokenizer.encode(text)
    start = len(ids)
    while len(ids) < start + most:
        with torch.inference_mode():
            token = int(loaded.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == loaded.tokenizer.eos_token_id:
            break
        ids.append(token)
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_as_a_plain_loop_does_for_any_batch(zoo, loaded, write):
    items = prompts(12)
    path = write([{"task": {"max_tokens": 6, "stop": []}}, *items])
    wanted = [greedy(loaded, item["prompt"], 6) for item in items]
    assert len(set(wanted)) > 3
    for batch in (1, 5, 32):
        found = mergery.evaluate(zoo / "base", path, options=EvaluationOptions(batch=batch)).tasks[0]
        assert [outcome.details["text"] for outcome in found.items] == wanted


def test_what_the_model_says_of_sampling_does_not_count(loaded):
    ids = loaded.tokenizer.encode("ab cd")
    generator = Generator(loaded, 64)
    plain = generator.generate([ids], [], 8)
    before = loaded.module.generation_config
    loaded.module.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=2, eos_token_id=1
    )
    try:
        assert generator.generate([ids], [], 8) == plain
        assert loaded.module.generation_config.temperature == 9.0
    finally:
        loaded.module.generation_config = before


def test_a_text_ends_before_its_stop_and_is_not_longer_than_asked(loaded):
    ids = [loaded.tokenizer.encode("ab cd")]
    whole = Generator(loaded, 64).generate(ids, [], 8)[0]
    stop = whole[len(whole) // 2]
    assert Generator(loaded, 64).generate(ids, [stop, "never"], 8) == [whole[: whole.index(stop)]]
    steps = []
    hook = loaded.module.register_forward_hook(lambda *_: steps.append(1))
    Generator(loaded, 64).generate(ids, [whole[0]], 8)
    hook.remove()
    assert len(steps) < 8  # no more is made than is wanted


def test_what_is_right():
    def right(text: str, **fields: object) -> bool:
        return matches(text, Item("1", "", fields, 1))

    assert right(" 42\n", answer="42")
    assert right("42", answer=["forty-two", "42"])
    assert not right("142", answer="42")
    assert right("it is 42.", pattern=r"\b42\b")
    assert not right("142", pattern=r"\b42\b")


def test_a_generation_that_leaves_no_room_for_the_prompt(zoo, write):
    path = write([{"task": {"max_tokens": 64}}, *prompts(1)])
    with pytest.raises(TaskError, match="max_tokens 64 leaves no room for a prompt"):
        mergery.evaluate(zoo / "base", path)
