"""Greedy generation: against a plain loop, the same for any batch, whatever the model's own settings say."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import mergery
from mergery.errors import TaskError
from mergery.evaluation import EvaluationOptions
from mergery.evaluation.generation import Generator, after_block, matches
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
    whole, tokens = Generator(loaded, 64).generate(ids, [], 8)[0]
    assert tokens == 8
    stop = whole[len(whole) // 2]
    ((text, shorter),) = Generator(loaded, 64).generate(ids, [stop, "never"], 8)
    assert text == whole[: whole.index(stop)] and shorter < 8
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


@pytest.mark.parametrize(
    ("text", "answer", "closed"),
    [
        ("<think> a </think> b", " b", True),
        (" a </think> b", " b", True),  # the prompt has opened it
        ("<think> a", "<think> a", False),
        ("b", "b", False),
        ("<think> a <think> b </think> c", " c", False),
        ("<think> a </think> b </think> c", " b </think> c", False),
        ("<think> a </think> b <think> c", " b <think> c", False),
    ],
)
def test_a_block_is_closed_where_it_opens_and_closes_once(text, answer, closed):
    assert after_block(text, "<think>", "</think>") == (answer, closed)


def test_length_and_block_are_measured_where_they_are_asked_for(zoo, loaded, write):
    items = prompts(5)
    plain = mergery.evaluate(zoo / "base", write([{"task": {"max_tokens": 6, "stop": []}}, *items]))
    head = {"max_tokens": 6, "stop": [], "block": ["<think>", "</think>"]}
    blocks = mergery.evaluate(zoo / "base", write([{"task": head}, *items], "blocks.jsonl"))
    lengths = mergery.evaluate(
        zoo / "base", write([{"task": {"max_tokens": 6, "stop": [], "length": True}}, *items], "lengths.jsonl")
    )
    names = [[metric.name for metric in each.tasks[0].metrics] for each in (plain, blocks, lengths)]
    assert names == [["match"], ["match", "closed", "length"], ["match", "length"]]
    assert set(blocks.tasks[0].columns("closed")[0]) == {0.0}
    wanted = [
        len(loaded.tokenizer.encode(greedy(loaded, item["prompt"], 6), add_special_tokens=False)) for item in items
    ]
    assert list(lengths.tasks[0].columns("length")[0]) == wanted


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"block": ["<think>"]}, "block is"),
        ({"block": "<think>"}, "block is"),
        ({"length": 1}, "length is 1"),
        ({"metric": "closed"}, "no metric 'closed'"),
    ],
)
def test_blocks_that_make_no_sense(head, said, zoo, write):
    with pytest.raises(TaskError, match=said):
        mergery.evaluate(zoo / "base", write([{"task": head}, *prompts(2)]))
