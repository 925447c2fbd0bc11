"""Models, slices, stages and outputs: what a whole file becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergery.recipe import Merge, Source
from mergery.recipe.mergekit.names import name_models
from mergery.recipe.mergekit.references import Reference
from mergery.recipe.reading import load_recipe
from mergery.recipe.values import Constant
from tests.recipe.mergekit.conftest import Read, Refuse

LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n"
PAIR = LINEAR + "  - model: a\n  - model: b\n"


# --- models -------------------------------------------------------------------------------------------------


def sources(read: Read, *models: str) -> dict[str, tuple[object, str | None]]:
    recipe = read(LINEAR + "".join(f"  - model: {model}\n" for model in models))
    return {name: (model.path, model.revision) for name, model in recipe.models.items() if isinstance(model, Source)}


def test_models_are_named_by_the_end_of_their_paths(read: Read) -> None:
    assert sources(
        read, "./llama/", "org/Math-7B@v2", "{model: {path: org/code, revision: main}}", "{model: /data/x/chat}"
    ) == {
        "llama": ("./llama/", None),
        "Math-7B": ("org/Math-7B", "v2"),
        "code": ("org/code", "main"),
        "chat": ("/data/x/chat", None),
    }


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["x/m", "y/m"], ["x-m", "y-m"]),
        (["o/m@1", "o/m@2"], ["m-1", "m-2"]),
        (["m", "x/m"], ["m", "x-m"]),
        (["..", "."], ["model-1", "model-2"]),
        (["runs/12", "runs/1e5"], ["runs-12", "runs-1e5"]),
        (["12"], ["12-1"]),
        (["value", "x/gradient"], ["value-1", "x-gradient"]),
        ([r"C:\models\m"], ["m"]),
    ],
)
def test_names_are_unique_and_can_be_read_back(models: list[str], names: list[str]) -> None:
    references = [Reference(*model.split("@")) for model in models]
    assert list(name_models(references).values()) == names


def test_names_of_stages_come_first() -> None:
    assert name_models([Reference("x/blend")], taken=["blend"]) == {Reference("x/blend"): "x-blend"}


def test_models_that_cannot_be(refuse: Refuse) -> None:
    text = (
        LINEAR
        + "  - model: a+b+c\n  - model: {model: b, lora: 3}\n  - model: a@b@c\n  - model: 3\n"
        + "  - model: {modle: a}\n  - {}\n"
    )
    assert refuse(text) == [
        "4:12: 'a+b+c' is no model\n  why: '@' stands before a revision and '+' before an adapter, once each\n"
        "  try: {model: {path: …, revision: …}} where the path itself holds such a sign",
        "5:29: lora is 3\n  try: a path or a hub id",
        "6:12: 'a@b@c' is no model\n  why: '@' stands before a revision and '+' before an adapter, once each\n"
        "  try: {model: {path: …, revision: …}} where the path itself holds such a sign",
        "7:12: 3 is no model\n  try: a path, a hub id or {model: {path: …, revision: …}}",
        "8:13: unknown key 'modle'\n  try: did you mean 'model'?",
        "9:5: an entry names its model\n  try: - model: ./a",
    ]


def test_a_model_that_stands_twice(refuse: Refuse) -> None:
    assert refuse(LINEAR + "  - model: a\n  - model: a\n") == [
        "5:12: 'a' stands twice\n  try: give it twice the weight instead"
    ]


def test_paths_may_hold_signs_that_mean_something_else(tmp_path: Path, read: Read) -> None:
    (tmp_path / "math+code@home").mkdir()
    assert sources(read, "math+code@home", "b") == {"math+code@home": ("math+code@home", None), "b": ("b", None)}


def test_paths_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "recipes" / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("recipes/config.yml").write_text(PAIR)
    recipe = load_recipe("recipes/config.yml")
    assert recipe.models == {"a": Source(str(tmp_path / "a")), "b": Source("b")}
    assert recipe.folder == Path("recipes")


def test_an_architecture_needs_not_be_named(read: Read) -> None:
    recipe = read(LINEAR + "  - model: {model: a, override_architecture: LlamaForCausalLM}\n")
    assert recipe.notes == ("line 4: override_architecture is not needed: names and shapes are read from the files",)


# --- shape of the file --------------------------------------------------------------------------------------


def test_one_module_is_the_whole_model(read: Read) -> None:
    text = "merge_method: linear\nmodules: {text: {models: [{model: a}, {model: b}], parameters: {weight: 2}}}\n"
    merge = read(text).merge
    assert (merge.models, merge.settings["weight"]) == (("a", "b"), Constant(2.0))


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("merge_method: linear\n", ["1:1: a merge has one of 'models', 'slices' and 'modules'\n  why: here: none\n"
          "  try: models: [{model: ./a}, {model: ./b}]"]),
        (PAIR + "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n",
         ["1:1: a merge has one of 'models', 'slices' and 'modules'\n  why: here: models and slices\n  try: keep one of them"]),
        ("merge_method: linear\nmodules: {text: {models: [{model: a}]}, vision: {models: [{model: a}]}}\n",
         ["2:10: several modules cannot be merged in different ways yet\n  why: here: text, vision\n"
          "  try: use 'models:' to merge the whole model in one way, with filters where parts differ"]),
        (PAIR + "dtpye: bfloat16\nnormalize: false\n",
         ["6:1: unknown key 'dtpye'\n  try: did you mean 'dtype'?",
          "7:1: unknown key 'normalize'\n  try: parameters: {normalize: …}"]),
        (PAIR.replace("- model: a", "- {model: a, weight: 1}"),
         ["4:16: unknown key 'weight'\n  try: parameters: {weight: …}"]),
        (PAIR + "dtype: bf16\n", ["6:8: dtype is 'bf16'\n  try: did you mean 'bfloat16'?"]),
        (PAIR + "name: [a]\n", ["6:7: name is ['a']\n  try: put it in quotes"]),
    ],
)  # fmt: skip
def test_files_that_are_refused(refuse: Refuse, text: str, messages: list[str]) -> None:
    assert refuse(text) == messages


def slices(*parts: str, top: str = "") -> str:
    return f"merge_method: linear\nparameters: {{weight: 1}}\n{top}slices:\n" + "".join(
        f"  - {part}\n" for part in parts
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (slices("sources: [{model: a, layer_range: [2, 0]}]"),
         "4:39: the layer_range [2, 0] holds no layer\n  why: it counts from zero and ends before its second number\n"
         "  try: layer_range: [0, 2]"),
        (slices("sources: [{model: a, layer_range: [1, 1]}]"),
         "4:39: the layer_range [1, 1] holds no layer\n  why: it counts from zero and ends before its second number\n"
         "  try: layer_range: [0, 16]"),
        (slices("sources: [{model: a}]"), "4:15: a source of a slice gives its layers\n  try: layer_range: [0, 16]"),
        (slices("sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]"),
         "4:5: the sources of a slice differ in length\n  why: [2, 3] layers\n  try: give 2 layers of each"),
        (slices("sources: []"), "4:5: a slice has sources\n  try: - sources: [{model: ./a, layer_range: [0, 16]}]"),
        (slices("{sources: [{model: a, layer_range: [0, 2]}], paramters: {weight: 1}}"),
         "4:50: unknown key 'paramters'\n  try: did you mean 'parameters'?"),
    ],
)  # fmt: skip
def test_slices_that_are_refused(refuse: Refuse, text: str, message: str) -> None:
    assert refuse(text) == [message]


def test_a_slice_without_layers_of_its_base(refuse: Refuse) -> None:
    text = slices("sources: [{model: a, layer_range: [0, 2]}]", top="base_model: b\n").replace("linear", "ties")
    assert refuse(text) == ["5:5: the slice gives no layers of its base 'b'\n  try: - {model: b, layer_range: [0, 2]}"]


def test_bases_of_slices(read: Read) -> None:
    source = "{{model: {0}, layer_range: [0, 2]}}"
    a, b, c = (source.format(name) for name in "abc")
    text = slices(f"{{base_model: b, sources: [{a}, {b}]}}", f"sources: [{a}, {c}]", top="base_model: c\n").replace(
        "linear", "ties"
    )
    merge = read(text).merge
    assert [(part.base, [name for name, _ in part.models]) for part in merge.stack] == [
        ("b", ["a", "b"]),
        ("c", ["a", "c"]),
    ]
    assert (merge.base, merge.models) == ("c", ())


def test_a_base_that_only_gives_the_config(read: Read) -> None:
    recipe = read(
        slices("sources: [{model: a, layer_range: [0, 2]}]", top="base_model: b\n").replace("linear", "passthrough")
    )
    assert (recipe.merge.base, recipe.donor) == ("b", "b")


def test_a_base_that_is_merged_in_slices_gives_the_config(read: Read) -> None:
    pair = "sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]"
    recipe = read(slices(pair, top="base_model: b\n"))
    assert (recipe.merge.base, recipe.output.config, recipe.donor) == (None, "b", "b")


def test_a_base_of_a_slice_that_needs_none_is_passed_over(read: Read) -> None:
    text = slices("{base_model: b, sources: [{model: a, layer_range: [0, 2]}]}").replace("linear", "passthrough")
    assert list(read(text).models) == ["a"]


def test_filters_with_the_number_of_a_layer(read: Read) -> None:
    scale = "parameters: {scale: {filter: layers.3., value: 0.5}}"
    text = slices(f"sources: [{{model: a, layer_range: [2, 4], {scale}}}]").replace("linear", "passthrough")
    note = "filters of scale with the number of a layer match the output's; mergekit's the model's"
    assert note in read(text).notes
    assert note not in read(text.replace("layers.3.", "o_proj")).notes


def test_residual_weight_is_a_note(read: Read) -> None:
    text = slices("{sources: [{model: a, layer_range: [0, 2]}], residual_weight: 0.3}")
    assert read(text).notes == ("line 4: residual_weight changes nothing, here as in mergekit",)


# --- output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "dtype"),
    [
        ("", None),
        ("dtype: bfloat16", "bfloat16"),
        ("dtype: float32\nout_dtype: float16", "float16"),
        ("dtype: torch.float32", "float32"),
    ],
)
def test_dtype(read: Read, lines: str, dtype: str | None) -> None:
    assert read(PAIR + lines + "\n").output.dtype == dtype


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tokenizer: {source: a}\ntokenizer_source: a",
         "7:19: tokenizer and tokenizer_source say the same thing twice\n  try: keep one"),
        ("tokenizer: {suorce: a}", "6:13: unknown key 'suorce'\n  try: did you mean 'source'?"),
        ("tokenizer: base", "6:12: tokenizer must be a mapping\n  try: tokenizer: {source: base}"),
        ("random_seed: -1", "6:14: random_seed is -1\n  why: it must be a whole number, zero or more\n  try: random_seed: 0"),
    ],
)  # fmt: skip
def test_outputs_that_are_refused(refuse: Refuse, lines: str, message: str) -> None:
    assert message in refuse(PAIR + lines + "\n")


def test_notes_on_the_output(read: Read) -> None:
    recipe = read(PAIR + "random_seed: 7\n")
    assert recipe.notes == (
        "line 6: random_seed becomes the recipe's seed; mergekit takes it from the command line only",
    )
    assert recipe.seed == 7


# --- several documents --------------------------------------------------------------------------------------


def test_stages(read: Read) -> None:
    text = (
        PAIR.replace("model: a", "model: blend")
        + "dtype: bfloat16\n---\nname: blend\nmerge_method: slerp\nbase_model: a\n"
        "models: [{model: a}, {model: c}]\nparameters: {t: 0.3}\nout_dtype: float32\n---\n"
    )
    recipe = read(text)
    stage = recipe.models["blend"]
    assert isinstance(stage, Merge)
    assert (stage.method, stage.models, stage.dtype) == ("slerp", ("a", "c"), "float32")
    assert (recipe.merge.models, recipe.merge.dtype, recipe.output.dtype) == (("blend", "b"), None, "bfloat16")
    assert list(recipe.models) == ["a", "c", "b", "blend"]


def test_the_last_document_is_the_merge_where_all_have_names(read: Read) -> None:
    recipe = read("name: one\n" + PAIR + "---\nname: two\n" + PAIR.replace("model: b", "model: one"))
    assert recipe.merge.models == ("a", "one")


def test_a_stage_that_nothing_needs(read: Read) -> None:
    recipe = read("name: one\n" + PAIR + "---\n" + PAIR)
    assert list(recipe.models) == ["a", "b"]
    assert recipe.notes == ("the document 'one' is left out: the last merge does not need it",)


def test_the_tokenizer_of_a_stage(read: Read) -> None:
    stage = "name: one\n" + PAIR + "tokenizer_source: b\n---\n"
    for last, source in (("  - model: one\n", "b"), ("  - model: c\ntokenizer_source: one\n", "b")):
        vocabulary = read(stage + LINEAR + last).vocabulary
        assert vocabulary is not None
        assert vocabulary.source == source
    assert read(stage + LINEAR + "  - model: c\n  - model: one\n").vocabulary is None


def test_a_tokenizer_that_nothing_takes_is_no_model(read: Read) -> None:
    stage = "name: one\n" + PAIR + "tokenizer_source: d\n---\n"
    assert list(read(stage + LINEAR + "  - model: c\n  - model: one\n").models) == ["a", "b", "c", "one"]
    assert list(read(stage + LINEAR + "  - model: one\n").models) == ["a", "b", "d", "one"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "name: x\n" + PAIR + "---\nname: x\n" + PAIR,
            ["8:7: the name 'x' stands twice\n  try: name: a word for each merge but the last"],
        ),
        (PAIR + "---\n" + PAIR, ["7:1: two documents have no name\n  try: name: a word for each merge but the last"]),
        (
            PAIR + "---\nfoo: 1\n",
            [
                "7:1: a document without 'merge_method'\n  why: each document of a mergekit file is a merge\n"
                "  try: merge_method: linear"
            ],
        ),
        (
            "name: x\n"
            + LINEAR
            + "  - model: y\n---\nname: y\n"
            + LINEAR
            + "  - model: x\n---\n"
            + LINEAR
            + "  - model: x\n",
            ["1:7: the merge 'x' needs itself\n  why: x -> y -> x\n  try: name another model"],
        ),
        (
            "name: x\n" + LINEAR + "  - model: x\n",
            ["1:7: the merge 'x' needs itself\n  why: x -> x\n  try: name another model"],
        ),
    ],
)
def test_documents_that_are_refused(refuse: Refuse, text: str, messages: list[str]) -> None:
    assert refuse(text) == messages


def test_all_problems_at_once(refuse: Refuse) -> None:
    text = "merge_method: ties\nmodels: [{model: a, parameters: {weigth: 1}}, {modle: b}]\ndtype: f32\n"
    assert [message.split(":")[0] for message in refuse(text)] == ["2", "2", "3"]
