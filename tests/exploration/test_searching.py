"""A search from the command line: it finds what was planted, goes on where it was killed, and says what is wrong first."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Outcome
from tests.evaluation.conftest import words


@pytest.fixture(scope="session")
def planted(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that the model `a` itself writes, so that nothing but `a` explains them as well; and a recipe."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path_factory.mktemp("planted")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(zoo / "a"), AutoTokenizer.from_pretrained(zoo / "a")

    rng, lines = random.Random(0), []
    torch.manual_seed(0)
    for number in range(64):
        start = tokenizer(words(rng, 2), return_tensors="pt")["input_ids"]
        made = model.generate(start, max_new_tokens=24, do_sample=True, min_new_tokens=24, pad_token_id=0)
        lines.append(json.dumps({"id": str(number), "text": tokenizer.decode(made[0], skip_special_tokens=True)}))
    (root / "texts.jsonl").write_text("\n".join(lines) + "\n")
    models = "".join(f"  {name}: {zoo / name}\n" for name in ("base", "a", "b"))
    (root / "recipe.yaml").write_text(
        f"models:\n{models}merge:\n  method: task_arithmetic\n  base: base\n  scale: 1\n"
        "  weight: {search: [0.0, 1.5], per: model}\n"
    )
    return root


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "search.json").read_text())


def test_the_planted_model_is_found_and_the_recipe_merges(mergery: Any, planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    command = (
        "search",
        planted / "recipe.yaml",
        out,
        "--tasks",
        planted / "texts.jsonl",
        "--trials",
        "40",
        "--no-early",
    )
    done: Outcome = mergery(*command)
    assert done.code == 0, done.err
    chosen = found(out)["chosen"]["values"]
    assert chosen["weight.a"] > 0.7 > 0.4 > chosen["weight.b"]
    report = found(out)["report"]
    assert set(report["models"]) == {"merge", "base", "a", "b"}
    assert "on validation items" in done.out
    assert mergery("merge", out / "recipe.yaml", tmp_path / "merged").code == 0
    assert (tmp_path / "merged" / "config.json").exists()


def test_a_killed_search_goes_on_to_the_same_end_though_its_models_were_moved(
    mergery: Any, planted: Path, zoo: Path, tmp_path: Path
) -> None:
    tasks = ("--tasks", planted / "texts.jsonl")
    assert mergery("search", planted / "recipe.yaml", tmp_path / "whole", *tasks, "--trials", "14").code == 0
    assert mergery("search", planted / "recipe.yaml", tmp_path / "parts", *tasks, "--trials", "6").code == 0
    shutil.copytree(zoo, tmp_path / "elsewhere")
    moved = (planted / "recipe.yaml").read_text().replace(str(zoo), str(tmp_path / "elsewhere"))
    (tmp_path / "moved.yaml").write_text(moved)
    done = mergery("search", tmp_path / "moved.yaml", tmp_path / "parts", *tasks, "--trials", "14", "--json")
    assert done.code == 0
    tried = [json.loads(line) for line in done.out.splitlines() if '"tried"' in line]
    assert [each["number"] for each in tried] == list(range(7, 15))
    assert found(tmp_path / "parts")["candidates"] == found(tmp_path / "whole")["candidates"]
    (tmp_path / "moved.yaml").write_text(moved.replace("/elsewhere/b\n", "/elsewhere/base\n"))
    other = mergery("search", tmp_path / "moved.yaml", tmp_path / "parts", *tasks, "--trials", "14")
    assert other.code == 2
    assert "another search" in other.err
    assert found(tmp_path / "parts")["chosen"] == found(tmp_path / "whole")["chosen"]


@pytest.mark.parametrize("options", [(), ("--workers", 2)])
def test_a_candidate_that_is_not_finite_counts_as_the_worst(
    options: tuple[Any, ...], mergery: Any, planted: Path, tmp_path: Path
) -> None:
    """One such in a night does not end the search; where the first is one, there is nothing to go by."""
    text = (planted / "recipe.yaml").read_text().replace("scale: 1\n", "scale: {choose: [1.0, 3.0e38]}\n")
    (tmp_path / "recipe.yaml").write_text(text)
    command = ("--tasks", planted / "texts.jsonl", "--sampler", "random", "--trials", "8", "--no-early", *options)
    done = mergery("search", tmp_path / "recipe.yaml", tmp_path / "out", *command)
    assert done.code == 0, done.err
    lost = [int(number) - 1 for number in re.findall(r"candidate (\d+) counts as the worst so far: ", done.err)]
    tried = found(tmp_path / "out")["candidates"]
    assert lost and found(tmp_path / "out")["chosen"]["values"]["scale"] == 1.0
    for number in lost:
        least = min(each["score"] for each in tried[:number] if not each["stopped"])
        assert (tried[number]["stopped"], tried[number]["score"]) == (True, least)
    (tmp_path / "recipe.yaml").write_text(text.replace("[1.0, 3.0e38]", "[1.0e40, 1.0]"))
    first = mergery("search", tmp_path / "recipe.yaml", tmp_path / "other", *command)
    assert first.code == 2 and "NaN or infinity" in first.err


@pytest.mark.parametrize(("sampler", "trials"), [("quadratic", 7), ("niches", 19)])
def test_samplers_of_our_own_find_the_planted_model_as_well(
    mergery: Any, planted: Path, tmp_path: Path, sampler: str, trials: int
) -> None:
    tasks = ("--tasks", planted / "texts.jsonl", "--sampler", sampler)
    done = mergery("search", planted / "recipe.yaml", tmp_path / "out", *tasks, "--trials", trials)
    assert done.code == 0, done.err
    chosen = found(tmp_path / "out")["chosen"]["values"]
    assert chosen["weight.a"] > chosen["weight.b"]
    assert mergery("merge", tmp_path / "out" / "recipe.yaml", tmp_path / "merged").code == 0


def test_qualities_in_turn_from_the_command_line(mergery: Any, planted: Path, tmp_path: Path) -> None:
    lines = (planted / "texts.jsonl").read_text().splitlines()
    for name, part in (("one", lines[::2]), ("two", lines[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    tasks = ("--tasks", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--sampler", "cycle")
    done = mergery("search", planted / "recipe.yaml", tmp_path / "out", *tasks, "--pareto", "--trials", "9")
    assert done.code == 0, done.err
    assert "blend" in {each["name"] for each in found(tmp_path / "out")["finalists"]}
    done = mergery("search", planted / "recipe.yaml", tmp_path / "other", *tasks, "--trials", "9")
    assert done.code == 2
    assert "cycle is for several goals" in done.err


def test_hopeless_candidates_are_given_up_early_and_never_chosen(mergery: Any, planted: Path, tmp_path: Path) -> None:
    tasks = ("--tasks", planted / "texts.jsonl")
    early = ("search", planted / "recipe.yaml", tmp_path / "early", *tasks, "--sampler", "random", "--trials", "20")
    assert mergery(*early).code == 0
    candidates = found(tmp_path / "early")["candidates"]
    stopped = [each for each in candidates if each["stopped"]]
    assert 0 < len(stopped) < len(candidates)
    best = max(each["score"] for each in candidates if not each["stopped"])
    assert max(each["score"] for each in stopped) < best
    names = [each["values"] for each in found(tmp_path / "early")["finalists"]]
    assert not [each for each in stopped if each["values"] in names and each["number"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sampler", "grid", "--trials", "0"), "trials is 0"),
        (("--minutes", "0"), "minutes is 0"),
        (("--tasks", "nothing.jsonl"), "nothing.jsonl"),
        (("--sampler", "cna"), "cma"),
    ],
)
def test_slips_end_with_one_message(mergery: Any, planted: Path, tmp_path: Path, options: Any, said: str) -> None:
    tasks = () if "--tasks" in options else ("--tasks", planted / "texts.jsonl")
    done = mergery("search", planted / "recipe.yaml", tmp_path / "out", *tasks, *options)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_a_folder_with_other_things_is_left_alone(mergery: Any, planted: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    done = mergery("search", planted / "recipe.yaml", tmp_path / "mine", "--tasks", planted / "texts.jsonl")
    assert done.code == 2
    assert "no search has been here" in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.fixture(scope="session")
def quiz(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answers are what the model `a` would say, so that nothing but `a` solves them all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(zoo / "a"), AutoTokenizer.from_pretrained(zoo / "a")
    rng, lines = random.Random(1), []
    for number in range(120):
        prompt = words(rng, 3)
        start = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(start, max_new_tokens=1, min_new_tokens=1, do_sample=False, pad_token_id=0)
        answer = tokenizer.decode(made[0, start.shape[1] :], skip_special_tokens=True).strip()
        if answer:
            lines.append(json.dumps({"id": str(number), "prompt": prompt, "answer": answer}))
    path = tmp_path_factory.mktemp("quiz") / "quiz.jsonl"
    head = {"task": {"max_tokens": 1, "stop": [], "delimiter": ""}}
    path.write_text("\n".join([json.dumps(head), *lines]) + "\n")
    return path


def test_anchors_estimate_the_rest_and_say_how_far_they_are_off(
    mergery: Any, planted: Path, quiz: Path, tmp_path: Path
) -> None:
    command = ("search", planted / "recipe.yaml", tmp_path / "out", "--tasks", quiz, "--anchors", "12")
    assert mergery(*command, "--trials", "18").code == 0
    done = mergery(*command, "--trials", "22")
    assert done.code == 0, done.err
    record = found(tmp_path / "out")
    asked = [each["stopped"] for each in record["candidates"]]
    assert asked == [False] * 16 + [True] * 6
    assert record["anchors"]["candidates"] == 16
    assert set(record["anchors"]["errors"]) == {"mean", "mixture", "ability", "half"}
    assert "scores from anchors" in done.out
    whole = ("search", planted / "recipe.yaml", tmp_path / "whole", "--tasks", quiz, "--anchors", "12")
    assert mergery(*whole, "--trials", "22").code == 0
    assert found(tmp_path / "whole")["candidates"] == record["candidates"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--anchors", "5"), "these tasks have no anchors"),
        (("--anchors", "5", "--pareto"), "anchors are not for several goals"),
        (("--anchors", "5", "--sampler", "niches"), "anchors are not for niches"),
    ],
)
def test_where_anchors_say_nothing_they_are_refused(
    mergery: Any, planted: Path, tmp_path: Path, options: Any, said: str
) -> None:
    tasks = ("--tasks", planted / "texts.jsonl")
    done = mergery("search", planted / "recipe.yaml", tmp_path / "out", *tasks, *options)
    assert done.code == 2
    assert said in done.err
