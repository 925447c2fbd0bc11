"""Whose row each token gets, worked by hand: three models with two columns, merged through the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery import api
from mergery.checkpoints.tokenizer.reading import WORDS, Tokenizer
from mergery.errors import MergeryError
from mergery.recipe import Vocabulary
from mergery.run.merging import Result
from mergery.views.vocabulary.choosing import Member, assign_rows, choose_tokens, count_rows
from tests.views.vocabulary.models import BIAS, EMBED, HEAD, words, write_model

Merge = Callable[..., dict[str, list[list[float]]]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """base knows u, v, w and has a row of padding; a adds x; b lacks v and adds y, x, in another order."""
    write_model(tmp_path / "base", words("u", "v", "w"), [[0, 0], [1, 1], [2, 2], [9, 9]])
    write_model(tmp_path / "a", words("u", "v", "w", "x"), [[0, 1], [1, 2], [2, 3], [3, 4]])
    write_model(tmp_path / "b", words("u", "y", "w", "x"), [[0, 5], [7, 7], [2, 5], [3, 6]])
    return tmp_path


@pytest.fixture
def merge(home: Path) -> Merge:
    """Merge in memory: (merge, vocabulary, output) -> tensors as lists."""

    def run(merge: dict[str, Any], vocabulary: Any = None, **output: Any) -> dict[str, list[list[float]]]:
        names = [name for name in ("base", "a", "b") if name in str(merge) + str(vocabulary)]
        recipe: dict[str, Any] = {"models": {name: str(home / name) for name in names}, "merge": merge}
        recipe |= {"vocabulary": vocabulary} if vocabulary else {}
        recipe |= {"output": output} if output else {}
        result = api.merge(recipe)
        assert isinstance(result, dict)
        return {name: tensor.tolist() for name, tensor in result.items()}

    return run


SUM = {"method": "task_arithmetic", "base": "base", "models": ["a", "b"], "weight": 1.0}
MEAN = {"method": "linear", "models": ["a", "b"]}


def test_union_on_a_base(merge: Merge) -> None:
    """u, v, w, then a's x and b's y: where one model lacks a token its difference is zero."""
    out = merge(SUM, tokenizer="union")
    # u: 0 + (0,1) + (0,5); v: (1,1) + (0,1) + nothing; w: (2,2) + (0,1) + (0,3)
    # x: base lacks it, and gets the mean of a and b: (3,5) + (0,-1) + (0,1); y: only b has it, all get its row
    assert out[EMBED] == [[0, 6], [1, 2], [2, 6], [3, 5], [7, 7]]
    assert out[HEAD] == [[10 * value for value in row] for row in out[EMBED]]
    assert out[BIAS] == [0, 1, 2, 3, 7]


def test_union_without_a_base(merge: Merge) -> None:
    """A row that only one model has is that model's for all of them; an average leaves it as it is."""
    out = merge(MEAN, tokenizer="union")
    assert out[EMBED] == [[0, 3], [1, 2], [2, 4], [3, 5], [7, 7]]


def test_a_row_that_several_models_have_is_their_mean_for_the_others(merge: Merge) -> None:
    out = merge(
        {"method": "linear", "models": ["base", "a", "b"], "weight": {"base": 2.0, "a": 1.0, "b": 1.0}},
        tokenizer="union",
    )
    assert out[EMBED][3] == [3, 5]  # x: base gets (3,5); (2 (3,5) + (3,4) + (3,6)) / 4
    assert out[EMBED][1] == [1, pytest.approx((2 * 1 + 2 + 1.5) / 4)]  # v: b gets the mean of base and a


def test_the_words_base_and_a_models_name(merge: Merge) -> None:
    assert merge(SUM, tokenizer="base")[EMBED] == [[0, 6], [1, 2], [2, 6], [9, 9]]  # with its padding
    by_b = merge(SUM, tokenizer="b")[EMBED]  # u, y, w, x
    assert by_b == [[0, 6], [7, 7], [2, 6], [3, 5]]


def test_padding_is_cut_or_rounded_up(merge: Merge) -> None:
    assert len(merge(SUM, {"from": "base", "padding": "cut"})[EMBED]) == 3
    kept = merge(SUM, {"from": "base", "pad_to_multiple_of": 3})[EMBED]
    assert len(kept) == 6
    assert kept[3] == [9, 9]
    # new rows of padding are the mean of each model's tokens: base (1,1), a (1,2), b (2/3 + ..): merged like any row
    base, a, b = torch.tensor([1.0, 1]), torch.tensor([1.0, 2]), torch.tensor([[0.0, 5], [1, 1], [2, 5]]).mean(dim=0)
    assert kept[4] == kept[5] == pytest.approx((a + b - base).tolist())


def test_single_tokens(merge: Merge) -> None:
    tokens: dict[str, Any] = {
        "x": {"from": "b"},  # base lacks it: b's row, not the mean
        "v": {"id": 1, "of": "b", "force": True},  # b's row 1 is y's
        "<new>": {"like": "w", "of": "a"},
        "<zero>": "zero",
    }
    out = merge(SUM, {"from": "union", "tokens": tokens})[EMBED]
    assert out[3] == [3, 6 - 2 + 0]  # base (3,6), a (3,4), b (3,6)
    assert out[1] == [7, 7]
    assert out[5:] == [[2, 3], [0, 0]]


def test_tokens_that_no_model_has(merge: Merge) -> None:
    mean = merge(SUM, {"from": "base", "padding": "cut", "add": ["<new>"]})[EMBED]
    assert mean[3] == pytest.approx([1, 2 + 11 / 3 - 1])  # as padding above
    zero = merge(SUM, {"from": "base", "padding": "cut", "add": ["<new>"], "unknown": "zero"})[EMBED]
    assert zero[3] == [0, 0]
    drawn = [
        merge({**SUM, "weight": 0.0}, {"from": "base", "add": ["<new>", "<n2>"], "unknown": "random"})[EMBED]
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0][3] != drawn[0][4]


def test_tied_models(tmp_path: Path) -> None:
    write_model(tmp_path / "a", words("u", "v"), [[1, 2], [3, 4]], tied=True)
    write_model(tmp_path / "b", words("v", "x"), [[5, 6], [7, 8]], tied=True)
    names = {name: str(tmp_path / name) for name in "ab"}
    out = api.merge({"models": names, "merge": {"method": "linear"}, "output": {"tokenizer": "union"}})
    assert isinstance(out, dict)
    assert out[EMBED].tolist() == [[1, 2], [4, 5], [7, 8]]
    assert HEAD not in out


def union(home: Path) -> dict[str, Any]:
    models = {name: str(home / name) for name in "ab"}
    return {"models": models, "merge": {"method": "linear"}, "output": {"tokenizer": "union"}}


def test_a_model_that_needs_nothing_is_copied_as_it_is(merge: Merge, home: Path) -> None:
    write_model(home / "b", words("u", "v", "w", "x"), [[0, 5], [7, 7], [2, 5], [3, 6]])
    plan = api.plan(union(home))
    assert plan.vocabulary is None
    plan.close()


def test_a_model_without_a_tokenizer_is_taken_to_have_the_others(home: Path) -> None:
    write_model(home / "b", None, [[0, 5], [7, 7], [2, 5], [3, 6]])
    plan = api.plan(union(home))
    assert "b has no tokenizer; its rows are taken to be in the order of a" in plan.warnings
    plan.close()


def test_stages_get_the_same_rows(home: Path) -> None:
    models = {
        "base": str(home / "base"), "a": str(home / "a"), "b": str(home / "b"),
        "blend": {"method": "linear", "models": ["a", "b"]},
    }  # fmt: skip
    merge = {"method": "task_arithmetic", "base": "base", "models": ["blend"]}
    out = api.merge({"models": models, "merge": merge, "output": {"tokenizer": "union"}})
    assert isinstance(out, dict)
    assert out[EMBED].tolist() == [[0, 3], [1, 1.5], [2, 4], [3, 5], [7, 7]]


def test_configs_speak_of_the_outputs_ids(home: Path, tmp_path: Path) -> None:
    write_model(
        home / "base", words("u", "v", "w"), [[0, 0]] * 4, bos_token_id=0, eos_token_id=[1, 2], pad_token_id=None
    )
    (home / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "top_k": 5}))
    recipe = {
        "models": {n: str(home / n) for n in ("base", "b")},
        "merge": {"method": "linear"},
        "output": {"tokenizer": "b"},
    }
    with api.plan(recipe).checkpoints["base"]:
        pass
    result = api.merge(recipe, tmp_path / "out")
    assert isinstance(result, Result)
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (4, 0, [2])  # b has no v
    assert config["pad_token_id"] is None
    assert json.loads((result.folder / "generation_config.json").read_text()) == {"eos_token_id": [2], "top_k": 5}
    assert (
        "base's config.json: eos_token_id held [1], tokens that the output lacks; they are left out"
        in result.plan.warnings
    )


def fails(home: Path, vocabulary: Any, **models: str) -> str:
    names = models or {"base": "base", "a": "a", "b": "b"}
    with pytest.raises(MergeryError) as caught:
        api.plan(
            {
                "models": {n: str(home / p) for n, p in names.items()},
                "merge": {"method": "linear"},
                "vocabulary": vocabulary,
            }
        )
    return str(caught.value)


def test_what_cannot_be_given(home: Path) -> None:
    assert fails(home, {"from": "union", "tokens": {"y": {"from": "a"}}}) == (
        "recipe: 'a' has no token 'y'\n  why: so it has no row to give\n"
        '  try: take another token\'s row: {like: "...", of: a}'
    )
    assert "'a' has no token 'nothing'" in fails(home, {"tokens": {"u": {"like": "nothing", "of": "a"}}})
    assert "'a' has no row 4\n  why: its embeddings have 4 rows" in fails(home, {"tokens": {"u": {"id": 4, "of": "a"}}})
    write_model(home / "wide", words("u", "q"), [[0, 0, 0], [1, 1, 1]])
    message = fails(home, {"from": "base", "tokens": {"q": {"from": "wide"}}}, base="base", a="a", wide="wide")
    assert "its rows have 3 columns, those of 'base' 2" in message or "is [2, 3] in 'wide'" in message
    assert "matching pursuit cannot make a row for '<new>'" in fails(home, {"add": ["<new>"], "unknown": "omp"})
    data = words("u", "v", "w")
    data["model"]["vocab"]["far"] = 1 << 30
    write_model(home / "far", data, torch.zeros(0, 2))
    models = {name: str(home / name) for name in ("base", "far")}
    with pytest.raises(MergeryError) as caught:
        api.plan({"models": models, "merge": {"method": "linear", "models": ["base"]}, "vocabulary": {"from": "far"}})
    message = str(caught.value)
    assert (
        "the ids of the tokenizer of 'far' lie too far apart\n  why: 4 tokens have ids up to 1,073,741,824" in message
    )
    (home / "base" / "tokenizer.json").unlink()
    assert "the model 'base' has no tokenizer" in fails(home, {"from": "union"})


def test_the_short_form_with_no_tokenizer_to_give(home: Path) -> None:
    write_model(home / "a", None, [[0, 0]] * 4)
    models = {name: str(home / name) for name in ("base", "a")}
    plan = api.plan({"models": models, "merge": {"method": "linear"}, "output": {"tokenizer": "a"}})
    assert plan.vocabulary is None
    assert plan.warnings == ("a has no tokenizer to give; rows stay as they are",)
    plan.close()


def tokenizer(name: str, tokens: list[str]) -> Tokenizer:
    ids = {token: place for place, token in enumerate(tokens)}
    return Tokenizer(name, WORDS, ids, {}, (), {}, {"model": {"vocab": ids}}, {}, {}, "tokenizer.json", name)


@settings(max_examples=100)
@given(st.data())
def test_any_models(data: st.DataObject) -> None:
    """The lead's tokens keep their ids; whoever has a token keeps its row; every gap is filled by one who has it."""
    members = []
    for name in ("p", "q", "r"):
        tokens = data.draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=8))
        members.append(Member(name, tokenizer(name, tokens), len(tokens) + data.draw(st.integers(0, 3))))
    wanted = Vocabulary(
        data.draw(st.sampled_from(["union", "base"])), padding=data.draw(st.sampled_from(["keep", "cut"]))
    )
    base = data.draw(st.sampled_from([None, "p"]))
    lead = members[0]
    chosen = choose_tokens(wanted, lead.tokenizer, lead.rows, members)
    size = count_rows(wanted, chosen, lead.rows)
    rows = assign_rows(wanted, chosen, members, base, "p", size)
    assert dict(list(chosen.tokens.items())[: len(lead.tokenizer.tokens)]) == lead.tokenizer.tokens
    if wanted.source == "union":
        assert set(chosen.tokens) == {token for member in members for token in member.tokenizer.tokens}
    assert sorted(chosen.tokens.values()) == list(range(len(chosen.tokens)))
    for place, member in enumerate(members):
        giver, row = rows.of(member.name)
        for token, index in chosen.tokens.items():
            if token in member.tokenizer.tokens:
                assert (giver[index], row[index]) == (place, member.tokenizer.tokens[token])
            elif giver[index] >= 0:
                assert members[giver[index]].tokenizer.tokens[token] == row[index]
            else:
                holders = rows.groups[-4 - giver[index]]
                assert [m for m, each in enumerate(members) if token in each.tokenizer.tokens] == list(holders)
                assert rows.group_rows[-4 - giver[index]][row[index]] == index
    assert not len(rows.unknown)
    assert np.all(rows.row >= 0)
