"""Log-likelihoods: against a float64 reference that takes one span at a time, and the same for any batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mergery
from mergery.errors import TaskError
from mergery.evaluation import EvaluationOptions, load_task
from mergery.evaluation.likelihood import Scorer, encode, split_pair, text_spans
from mergery.evaluation.loading import Loaded
from mergery.evaluation.models import open_subject
from mergery.evaluation.prompts import prompt_of
from tests.evaluation.conftest import choices, texts


@pytest.fixture(scope="module")
def loaded(zoo) -> Loaded:
    return open_subject(zoo / "base").load("language")


def by_hand(loaded: Loaded, before: list[int], after: list[int]) -> float:
    """A span's log-likelihood, token by token, in float64, without a batch."""
    with torch.inference_mode():
        logits = loaded.module(input_ids=torch.tensor([before + after])).logits[0].double()
    logs = torch.log_softmax(logits, dim=-1)
    return math.fsum(float(logs[len(before) + place - 1, token]) for place, token in enumerate(after))


@given(data=st.data())
@settings(max_examples=20)
def test_spans_of_any_shape_are_scored_as_one_by_one(loaded, data):
    ids = st.integers(0, 127)
    span = st.tuples(st.lists(ids, min_size=1, max_size=12), st.lists(ids, min_size=1, max_size=8))
    spans = data.draw(st.lists(span, min_size=1, max_size=9))
    batch = data.draw(st.integers(1, 10))
    scores = Scorer(loaded, batch, 64).score(spans)
    for (before, after), score in zip(spans, scores, strict=True):
        assert score == pytest.approx(by_hand(loaded, before, after), rel=1e-5)


def test_spans_that_end_otherwise_are_read_off_one_row(loaded):
    rows = []
    hook = loaded.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    scores = Scorer(loaded, 32, 64).score([([5, 6], [7]), ([5, 6], [8]), ([5, 6], [9])])
    hook.remove()
    assert rows == [1]
    assert scores == pytest.approx([by_hand(loaded, [5, 6], [token]) for token in (7, 8, 9)], rel=1e-5)


def test_every_token_of_a_long_text_is_scored_once(loaded, write):
    task = load_task(write([{"text": "ab cd " * 50}]))
    spans = text_spans(task.items[0], task, loaded, 16)
    tokens = loaded.tokenizer.encode("ab cd " * 50, add_special_tokens=False)
    assert [token for _, after in spans for token in after] == tokens
    assert spans[0][0] == [loaded.tokenizer.bos_token_id]
    assert all(len(before) + len(after) - 1 <= 16 for before, after in spans)
    assert len(spans[-1][0]) + len(spans[-1][1]) - 1 == 16  # the last looks as far back as fits


def test_a_space_before_the_answer_goes_with_the_answer(loaded):
    assert split_pair(loaded.tokenizer, "ab ", "cd") == split_pair(loaded.tokenizer, "ab", " cd")


def test_perplexity_worked_by_hand(zoo, loaded, write):
    """Bits for each byte: the sum of -log2 p over tokens, over the bytes of UTF-8, of all texts together."""
    lines = [{"text": "ab é"}, {"text": "dcba abc"}]
    found = mergery.evaluate(zoo / "base", write(lines)).tasks[0]
    nats, tokens, nbytes = 0.0, 0, 0
    for line in lines:
        ids = loaded.tokenizer.encode(line["text"], add_special_tokens=False)
        nats -= by_hand(loaded, [0], ids)
        tokens, nbytes = tokens + len(ids), nbytes + len(line["text"].encode())
    assert nbytes == 5 + 8
    assert found.scores["bits_per_byte"] == pytest.approx(nats / math.log(2) / nbytes, rel=1e-6)
    assert found.scores["byte_perplexity"] == pytest.approx(math.exp(nats / nbytes), rel=1e-6)
    assert found.scores["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)


def test_choices_worked_by_hand(zoo, loaded, write):
    """The likeliest choice; and, normalised, the likeliest for each byte."""
    items = choices(12)
    found = mergery.evaluate(zoo / "base", write(items)).tasks[0]
    for item, outcome in zip(items, found.items, strict=True):
        prompt = f"Question: {item['question']}\nAnswer:"
        logs = []
        for choice in item["choices"]:
            before = loaded.tokenizer.encode(prompt, add_special_tokens=False)
            whole = loaded.tokenizer.encode(f"{prompt} {choice}", add_special_tokens=False)
            logs.append(by_hand(loaded, before, whole[len(before) :]))
        assert outcome.details["logs"] == pytest.approx(logs, rel=1e-5)
        right = max(range(4), key=lambda index: logs[index]) == item["answer"]
        each = [log / len(choice.encode()) for log, choice in zip(logs, item["choices"], strict=True)]
        assert outcome.values["accuracy"] == right
        assert outcome.values["accuracy_normalised"] == (max(range(4), key=lambda index: each[index]) == item["answer"])


def test_prompts_with_examples_letters_and_chat(zoo, loaded, write):
    example = {"question": "e", "choices": ["x", "y"], "answer": 1}
    item = {"question": "q", "choices": ["v", "w"], "answer": 0}
    task = load_task(write([{"task": {"examples": [example], "letters": True}}, item]))
    assert prompt_of(task.items[0], task, loaded.tokenizer, chat=False) == (
        "Question: e\nA. x\nB. y\nAnswer: B\n\nQuestion: q\nA. v\nB. w\nAnswer:"
    )
    plain = load_task(write([{"task": {"examples": [{"prompt": "1", "answer": "2"}]}}, {"prompt": "3", "answer": "4"}]))
    assert prompt_of(plain.items[0], plain, loaded.tokenizer, chat=True) == (
        "<s>[user] 1\n[assistant] 2\n[user] 3\n[assistant] "
    )


def test_a_conversation_begins_with_one_first_token(zoo, write):
    """The template writes the beginning-of-sequence token itself; the tokenizer must not add another."""
    seen = []
    module = open_subject(zoo / "base").load("language")
    module.module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    mergery.evaluate(module.module, write(choices(2)), tokenizer=module.tokenizer, options=EvaluationOptions(chat=True))
    assert all(row[0] == 0 and 0 not in row[1:3] for row in seen)


@pytest.mark.parametrize("kind", [choices, texts])
def test_the_same_for_any_batch_size(zoo, write, kind):
    path = write(kind(40))
    one, some, many = (
        mergery.evaluate(zoo / "a", path, options=EvaluationOptions(batch=batch)) for batch in (1, 7, 32)
    )
    for other in (some, many):
        for x, y in zip(one.tasks[0].items, other.tasks[0].items, strict=True):
            assert x.values == pytest.approx(y.values, rel=1e-5)
            assert x.details.get("chosen") == y.details.get("chosen")
            assert x.details.get("logs", []) == pytest.approx(y.details.get("logs", []), rel=1e-5)
    if kind is choices:
        assert one.scores == some.scores == many.scores


def test_long_prompts_are_cut_and_counted(zoo, write):
    item = {"question": "ab cd " * 60, "choices": ["x", "y"], "answer": 0}
    found = mergery.evaluate(zoo / "base", write([item, choices(1)[0]])).tasks[0]
    assert found.cut == 1
    assert found.items[0].details["cut"] > 0


def test_an_answer_that_the_tokenizer_does_not_see(zoo, write, loaded, monkeypatch):
    task = write([{"task": {"delimiter": ""}}, {"prompt": "ab", "choices": [" ", "c"], "answer": 0}])

    class Stripping:
        def __getattr__(self, name):
            return getattr(loaded.tokenizer, name)

        def encode(self, text, **settings):
            return loaded.tokenizer.encode(text.strip(), **settings)

    with pytest.raises(TaskError, match=r"task.jsonl:2: the tokenizer gives the choice ' ' no token"):
        mergery.evaluate(loaded.module, task, tokenizer=Stripping())


def test_chat_that_changes_nothing_is_refused(zoo, write):
    with pytest.raises(TaskError, match="--chat changes nothing here"):
        mergery.evaluate(zoo / "a", write(texts(2)), options=EvaluationOptions(chat=True))


def test_a_text_that_a_tokenizer_of_words_refuses_is_named():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1})))
    assert encode(words, "a", special=True) == [0]
    with pytest.raises(TaskError, match="the tokenizer cannot take the text 'c'"):
        encode(words, "c", special=True)
