"""Python as a notebook's user expects it: merging by keywords, models in memory, short reprs, bars, events, logging."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import mergery
from mergery.errors import CheckpointError, MergeryError, PlanError, RecipeError
from mergery.planning.plan import Plan
from mergery.report import notebook
from mergery.run.events import Compiling, Progress
from tests.conftest import make_llama, tensors_of, weights_of


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- keywords -------------------------------------------------------------------------------------------------------------


def test_keywords_say_what_a_recipe_says(recipe, tmp_path, llamas):
    path = recipe(
        "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\n"
        "merge: {method: ties, base: base, density: 0.3, weight: {a: 0.7, b: 0.2}}\noutput: {dtype: bfloat16}\nseed: 5\n"
    )
    models = {name: str(llamas / name) for name in ("base", "a", "b")}
    same = {
        "method": "ties",
        "base": "base",
        "density": 0.3,
        "weight": [0.7, 0.2],
        "output": {"dtype": "bfloat16"},
        "seed": 5,
    }
    assert equal(mergery.merge(models=models, **same), mergery.merge(path))
    result = mergery.merge(models=models, out=tmp_path / "out", **same)
    mergery.merge(path, tmp_path / "other")
    assert weights_of(result.folder) == weights_of(tmp_path / "other")
    with mergery_plan(models=models, **same) as plan:
        assert plan.recipe.title == "ties of a, b on base"
    assert mergery.load_recipe({"models": models, "merge": {"method": mergery.methods.ties.name, "base": "base"}})


@contextmanager
def mergery_plan(**said) -> Iterator[Plan]:
    plan = mergery.plan(**said)
    try:
        yield plan
    finally:
        plan.close()


@pytest.mark.parametrize(
    ("models", "base", "names", "wanted"),
    [
        (["{llamas}/a", "{llamas}/b"], None, ["a", "b"], None),
        (["{llamas}/a", "{llamas}/b"], "{llamas}/base", ["base", "a", "b"], "base"),
        (["{llamas}/base", "{llamas}/a"], "{llamas}/base", ["base", "a"], "base"),
        (["{llamas}/base", "{llamas}/a"], "base", ["base", "a"], "base"),
        (["{llamas}/a", "{llamas}/../" + "llamas0/a"], None, ["model1", "model2"], None),
    ],
)
def test_models_in_a_list_are_called_by_their_folders(llamas, models, base, names, wanted):
    def here(text):
        return text.replace("{llamas}", str(llamas)).replace("llamas0", llamas.name) if text else text

    method = "linear" if wanted is None else "task_arithmetic"
    with mergery_plan(models=[here(model) for model in models], method=method, base=here(base)) as plan:
        assert list(plan.recipe.models) == names
        assert plan.recipe.merge.base == wanted


def test_objects_in_memory_have_numbers(llamas):
    a, base = AutoModelForCausalLM.from_pretrained(llamas / "a"), tensors_of(llamas / "base")
    merged = mergery.merge(
        models=[a, tensors_of(llamas / "b")], method=mergery.methods.task_arithmetic, base=base, weight=[1, 0]
    )
    assert equal(merged, mergery.merge(models=[a], method="task_arithmetic", base=base, weight=1))


def test_hub_ids_are_called_by_their_last_part():
    from mergery.recipe.building import build_recipe

    built = build_recipe(["org/llama-math@v1", Path("/models/code 2")], "linear", settings={})
    assert list(built["models"]) == ["llama-math", "code-2"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda here: mergery.merge(), "no models are given"),
        (lambda here: mergery.merge(models={"a": here / "a"}), "no method is given"),
        (lambda here: mergery.merge(models=str(here / "a"), method="linear"), "a mapping of names to sources, or a list"),
        (lambda here: mergery.merge(models=[here / "a"], method="lineal"), "did you mean 'linear'"),
        (lambda here: mergery.merge(models=[here / "a", here / "b"], method="linear", wieght=2), "did you mean 'weight'"),
        (lambda here: mergery.merge([here / "a", here / "b"]), r"a list is no recipe\n.*merge\(models="),
        (lambda here: mergery.merge("r.yaml", replase=True), "a recipe is given, and keywords beside it\n  why: replase"),
        (lambda here: mergery.merge("r.yaml", "out", threads=2), r"try: options=mergery.Options\(threads=2\)"),
        (lambda here: mergery.merge_tensors("tise", [torch.ones(2)]), "did you mean 'ties'"),
        (lambda here: mergery.plan("r.yaml", method="ties"), "keywords beside it\n  why: method"),
        (lambda here: mergery.merge(models={"base": here / "a"}, method="ties", base=here / "base"), "is called 'base'"),
        (lambda here: mergery.merge("r.yaml", "out", as_model=True), "as_model is for a merge that stays in memory"),
    ],
)  # fmt: skip
def test_mistakes_are_told(llamas, call, says):
    with pytest.raises((RecipeError, PlanError), match=says):
        call(llamas)


def test_tensors_are_merged_by_a_method_or_by_its_name():
    a, b, base = torch.tensor([1.0, 3.0]), torch.tensor([3.0, -1.0]), torch.zeros(2)
    by_name = mergery.merge_tensors("ties", [a, b], base, density=1.0)
    assert by_name.equal(mergery.merge_tensors(mergery.methods.ties, [a, b], base, density=1.0))


# --- models in memory -----------------------------------------------------------------------------------------------------


def test_as_model_is_what_transformers_loads_from_the_folder(recipe, tmp_path):
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\noutput: {dtype: bfloat16}\n")
    model = mergery.merge(path, as_model=True)
    mergery.merge(path, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is type(loaded)
    assert model.dtype == loaded.dtype == torch.bfloat16
    assert equal(model.state_dict(), loaded.state_dict())
    words = torch.arange(8)[None]
    assert torch.equal(model(words).logits, loaded(words).logits)
    assert model.generate(words, max_new_tokens=3, do_sample=False).shape == (1, 11)
    model.save_pretrained(tmp_path / "saved")
    assert equal(tensors_of(tmp_path / "saved"), tensors_of(tmp_path / "out"))


def test_as_model_keeps_a_tied_head_tied(tmp_path):
    make_llama(tmp_path / "base", 0, tie_word_embeddings=True)
    make_llama(tmp_path / "a", 1, tmp_path / "base")
    model = mergery.merge(models=[tmp_path / "base", tmp_path / "a"], method="linear", as_model=True)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_as_model_makes_nothing_up(llamas):
    fragment = mergery_plan(models=[llamas / "base", llamas / "a"], method="linear", only=["layers.0-1"])
    with fragment as plan, pytest.raises(CheckpointError, match="would be random"):
        mergery.merge(plan, as_model=True)
    states = [tensors_of(llamas / name) for name in "ab"]
    with pytest.raises(CheckpointError, match="the merged model has no config"):
        mergery.merge(models=states, method="linear", as_model=True)


# --- what is shown --------------------------------------------------------------------------------------------------------


def test_plans_recipes_and_results_are_shown_in_a_line(recipe, tmp_path):
    parts = "parts: [{where: {role: norm}, take: base}]"
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: ties, base: base, " + parts + "}\n")
    plan = mergery.plan(path)
    assert repr(plan).startswith("<Plan: ties of a on base; 39 tensors, ")
    assert repr(plan.recipe) == "<Recipe: ties of a on base>"
    result = mergery.merge(plan, tmp_path / "out")
    assert repr(result).startswith(f"<Result: {tmp_path / 'out'}, 39 tensors, ")
    for each in (plan, plan.recipe, result):
        assert len(repr(each)) < 200
        assert "\n" not in repr(each)
        assert each._repr_html_().startswith("<pre>")
        assert len(each._repr_html_()) < 2000
    for part in ("copied from base: 9 tensors (norm)", "warning: the chat templates", "config from base"):
        assert part in str(plan)
        assert part in plan._repr_html_()
    assert "method: ties" in plan.recipe._repr_html_()
    again = mergery.merge(path, tmp_path / "out")
    assert "there before" in repr(again)


def test_what_names_a_tag_is_escaped(llamas):
    with mergery_plan(models={"<b>a": llamas / "a", "b": llamas / "b"}, method="linear") as plan:
        assert "<b>" not in plan._repr_html_()
        assert "<b>" not in plan.recipe._repr_html_()


def test_a_plan_can_be_explained(llamas):
    with mergery_plan(models=[llamas / "a", llamas / "b"], method="linear") as plan:
        facts = mergery.explain(plan)
    assert facts["parts"][0]["what"].startswith("linear of a, b")
    assert facts["output"]["tensors"] == 39


# --- notebooks ------------------------------------------------------------------------------------------------------------


class Cell:
    """Stands for IPython in a kernel: keeps what a cell shows."""

    def __init__(self, monkeypatch, kernel=True):
        self.shown: list[dict[str, str]] = []
        shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
        self.handles = 0
        package = types.ModuleType("IPython")
        package.get_ipython = lambda: shell
        module = types.ModuleType("IPython.display")
        module.display = self.display
        monkeypatch.setitem(sys.modules, "IPython", package)
        monkeypatch.setitem(sys.modules, "IPython.display", module)

    def display(self, bundle, *, raw, display_id):
        assert raw
        assert display_id
        self.handles += 1
        self.shown.append(bundle)
        return self

    def update(self, bundle, *, raw):
        assert raw
        self.shown.append(bundle)


def test_a_notebook_shows_lines_and_a_bar_by_default(recipe, tmp_path, monkeypatch):
    cell = Cell(monkeypatch)
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\n")
    monkeypatch.setattr(notebook, "INTERVAL", 0.0)
    mergery.merge(path, tmp_path / "out")
    assert cell.handles == 1
    assert any("<progress" in each["text/html"] and "merging: " in each["text/plain"] for each in cell.shown)
    last = cell.shown[-1]
    assert "<progress" not in last["text/html"]
    assert last["text/plain"].startswith("linear of base, a: 39 tensors")
    assert f"wrote {tmp_path / 'out'}" in last["text/plain"]


def test_a_listener_of_ones_own_is_the_only_one(recipe, monkeypatch):
    cell, seen = Cell(monkeypatch), []
    mergery.merge(recipe("models: {a: {llamas}/a, b: {llamas}/b}\nmerge: {method: linear}\n"), on_event=seen.append)
    assert not cell.shown
    assert any(isinstance(event, Progress) for event in seen)


@pytest.mark.parametrize("kernel", [True, False])
def test_only_a_notebook_shows_anything(recipe, monkeypatch, capsys, kernel):
    if kernel:
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
    else:
        cell = Cell(monkeypatch, kernel=False)  # IPython on a terminal
    mergery.merge(recipe("models: {a: {llamas}/a, b: {llamas}/b}\nmerge: {method: linear}\n"))
    assert capsys.readouterr() == ("", "")
    assert kernel or not cell.shown


def test_events_without_words_show_nothing(monkeypatch):
    cell = Cell(monkeypatch)
    with notebook.NotebookReporter() as reporter:
        reporter.event(Compiling("x"))
    assert not cell.shown


@pytest.mark.skipif(not importlib.util.find_spec("ipykernel"), reason="needs ipykernel")
def test_in_a_real_kernel(recipe, tmp_path):
    from jupyter_client.manager import start_new_kernel

    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: linear}\n")
    manager, client = start_new_kernel()
    try:
        shown: list[str] = []

        def hear(message):
            data = message["content"].get("data", {})
            shown.append(data.get("text/html") or data.get("text/plain") or message["content"].get("text", ""))

        code = f"import mergery\nresult = mergery.merge({str(path)!r}, {str(tmp_path / 'out')!r})\nresult"
        reply = client.execute_interactive(code, timeout=120, output_hook=hear)
        assert reply["content"]["status"] == "ok", reply
        assert any("wrote" in each for each in shown)
        assert any("Result" in each or "39 tensors" in each for each in shown)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# --- errors ---------------------------------------------------------------------------------------------------------------


def test_an_error_is_plain_data_too():
    with pytest.raises(MergeryError) as caught:
        mergery.plan({"models": {"a": "x"}, "merge": {"method": "lineal"}})
    assert {"what": "unknown method 'lineal'", "try": "did you mean 'linear'?"}.items() <= {
        key: value for problem in caught.value.plain() for key, value in problem.items() if "lineal" in problem["what"]
    }.items()
