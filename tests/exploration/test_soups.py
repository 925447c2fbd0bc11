"""Soups: greedy decisions by hand, and all strategies from the command line on tiny models."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergery.exploration.sampling.surrogate import quadratic, spread
from mergery.exploration.soups.strategies import greedy
from tests.evaluation.conftest import words


def bowl(weights: Mapping[str, float]) -> float:
    """Best where a and c stand equal and b is out."""
    return 1 - abs(weights.get("a", 0) - 0.5) - abs(weights.get("c", 0) - 0.5)


def test_greedy_keeps_what_the_average_gains_by() -> None:
    """a alone .5, with b: .5 again, no gain; with c: 1."""
    alone = {"c": 0.4, "a": 0.5, "b": 0.45}
    found = greedy(alone, bowl)
    assert [(each.model, each.kept) for each in found.decisions] == [("a", True), ("b", False), ("c", True)]
    assert found.weights == {"a": 0.5, "c": 0.5}
    assert found.score == 1


def test_greedy_is_never_below_the_best_model() -> None:
    rng = random.Random(1)
    for _ in range(50):
        alone = {name: rng.random() for name in "abcd"}
        found = greedy(alone, lambda weights: rng.random() * 1.2)
        assert found.score >= max(alone.values())


def test_points_of_a_surrogate_determine_it() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(84, 3))
    terms = 10
    chosen = spread(points, terms)
    assert len(set(chosen)) == terms
    truth = rng.normal(size=terms)
    values = quadratic(points) @ truth
    fitted, *_ = np.linalg.lstsq(quadratic(points)[chosen], values[chosen], rcond=None)
    np.testing.assert_allclose(quadratic(points) @ fitted, values, rtol=1e-6)


@pytest.fixture(scope="session")
def texts(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three models, each a category."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path_factory.mktemp("texts")
    rng, lines = random.Random(0), []
    torch.manual_seed(0)
    for name in ("base", "a", "b"):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(zoo / name), AutoTokenizer.from_pretrained(zoo / name)
        for number in range(16):
            start = tokenizer(words(rng, 2), return_tensors="pt")["input_ids"]
            made = model.generate(start, max_new_tokens=20, min_new_tokens=20, do_sample=True, pad_token_id=0)
            text = tokenizer.decode(made[0], skip_special_tokens=True)
            lines.append(json.dumps({"id": f"{name}{number}", "category": name, "text": text}))
    (root / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return root / "texts.jsonl"


def test_category_experts_from_the_command_line(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    models = [zoo / name for name in ("base", "a", "b")]
    out = tmp_path / "soup"
    done = mergery("soup", "soce", *models, "--tasks", texts, "--out", out, "--threshold", "1")
    assert done.code == 0, done.err
    found = json.loads((out / "soup.json").read_text())
    assert found["soce"]["choice"]["experts"] == ["base", "a", "b"]
    assert len(found["soce"]["tried"]) == 37
    assert found["soce"]["score"] >= found["search"]["uniform of experts"]
    assert found["soce"]["score"] == max(each["score"] for each in found["soce"]["tried"])
    uniform, shares = found["search"]["uniform of experts"], found["soce"]["shapley"]
    assert sum(shares.values()) == pytest.approx(uniform)
    assert {"soce", "uniform", "base", "a", "b"} <= set(found["report"]["models"])
    assert mergery("merge", out / "recipe.yaml", tmp_path / "merged").code == 0

    again = mergery("soup", "soce", *models, "--tasks", texts, "--out", out, "--threshold", "1", "--json")
    assert again.code == 0
    assert not [line for line in again.out.splitlines() if '"loading"' in line]
    assert json.loads((out / "soup.json").read_text()) == found


def test_quick_search_tastes_fewer_and_says_so(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    models = [zoo / name for name in ("base", "a", "b")]
    done = mergery("soup", "soce", *models, "--tasks", texts, "--out", tmp_path / "soup", "--threshold", "1", "--quick")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "soup" / "soup.json").read_text())["soce"]
    assert found["quick"]
    assert 6 < len(found["tried"]) <= 9
    assert "not the published method" in done.out


def test_greedy_from_the_command_line(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    models = [zoo / name for name in ("base", "a", "b")]
    done = mergery("soup", "greedy", *models, "--tasks", texts, "--out", tmp_path / "soup")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert found["greedy"]["score"] >= max(found["search"][name] for name in ("base", "a", "b"))
    assert found["weights"] == found["greedy"]["weights"]


def test_experts_of_a_table_need_no_models(mergery: Any, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("model,math,code\na,1,9\nb,9,1\nc,5,5\nd,6,2\n")
    done = mergery("soup", "soce", "--scores", table, "--threshold", "0.99")
    assert done.code == 0, done.err
    assert "experts: a, b" in done.out
    assert "9 weights to try" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("greedy", "a", "b"), "a soup needs --tasks"),
        (("greedy", "a", "b", "--tasks", "t.jsonl"), "a soup needs --out"),
        (("soce", "a", "--tasks", "TEXTS", "--out", "out"), "two models or more"),
        (("greedy", "--scores", "t.csv"), "goes with soce alone"),
        (("soce", "a", "b", "--tasks", "TEXTS", "--out", "out", "--threshold", "2"), "threshold is 2"),
        (("greedy", "a", "b", "--tasks", "TEXTS", "--out", "out", "--quick"), "quick is for soce"),
    ],
)
def test_slips_end_with_one_message(mergery: Any, texts: Path, tmp_path: Path, words: Any, said: str) -> None:
    given = [texts if word == "TEXTS" else tmp_path / word if word == "out" else word for word in words]
    done = mergery("soup", *given)
    assert done.code == 2
    assert said in done.err


def test_one_folder_holds_one_kind_of_search(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    models = [zoo / name for name in ("a", "b")]
    assert mergery("soup", "uniform", *models, "--tasks", texts, "--out", tmp_path / "soup").code == 0
    before = (tmp_path / "soup" / "recipe.yaml").read_text()
    done = mergery("soup", "greedy", *models, "--tasks", texts, "--out", tmp_path / "soup")
    assert done.code == 2
    assert "it holds a uniform soup" in done.err
    assert (tmp_path / "soup" / "recipe.yaml").read_text() == before
