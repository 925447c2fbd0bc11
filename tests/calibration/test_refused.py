"""What cannot be calibrated is said before any work, in one message."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def run(mergery, model, write, tmp_path):
    def calibrate(*options, family="llama", folder=None, data=None, stats="gram"):
        data = write(2) if data is None else data
        return mergery(
            "calibrate", folder or model(family), "--data", data, "--stats", stats, *options, tmp_path / "out"
        )

    return calibrate


def test_it_works_from_the_command_line(run, tmp_path):
    outcome = run(stats="gram,activation,fisher")
    assert outcome.code == 0, outcome.err
    assert "statistics of" in outcome.err and "fewer tokens than they have inputs" in outcome.err
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["kinds"] == ["activation", "fisher", "gram"]
    again = run()
    assert again.code == 2 and "not empty" in again.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"text": "a"}\n{"text": 3}\n', ":2:10: text is 3"),
        ('{"text": "a"\n', "not valid JSON"),
        ("", "no items"),
    ],
)
def test_data_that_is_no_task(run, tmp_path, text, said):
    data = tmp_path / "bad.jsonl"
    data.write_text(text)
    outcome = run(data=data)
    assert outcome.code == 2 and said in outcome.err and "bad.jsonl" in outcome.err
    assert not list(tmp_path.glob("out*"))


def test_a_file_that_is_not_there(run, tmp_path):
    outcome = run(data=tmp_path / "none.txt")
    assert outcome.code == 2 and "cannot be read" in outcome.err


def test_plain_text_is_cut_into_rows(run, tmp_path):
    data = tmp_path / "plain.txt"
    data.write_text("ab cd " * 40)
    outcome = run("--longest", 16, data=data)
    assert outcome.code == 0, outcome.err
    (file,) = json.loads((tmp_path / "out" / "statistics.json").read_text())["data"]
    assert file["examples"] == -(-file["tokens"] // 16)


def test_a_model_that_transformers_does_not_know(run, model, tmp_path):
    folder = shutil.copytree(model("llama"), tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model", "architectures": None}))
    outcome = run(folder=folder)
    assert outcome.code == 2 and "transformers knows no model of type 'no_such_model'" in outcome.err


def test_a_model_that_lacks_weights(run, model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model("llama"), tmp_path / "torn")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    outcome = run(folder=folder)
    assert outcome.code == 2 and "'model.layers.1.mlp.up_proj.weight' would be random" in outcome.err


def test_texts_for_an_encoder_and_a_decoder(run):
    outcome = run(family="t5")
    assert outcome.code == 2 and "prompts with their answers" in outcome.err


def test_fisher_of_a_model_without_likelihood(run):
    outcome = run(family="albert", stats="fisher")
    assert outcome.code == 2 and "gives no likelihood" in outcome.err


def test_labels_that_do_not_fit(run):
    assert "exact labels are of classifiers" in run("--labels", "exact", stats="fisher").err
    assert "which has none" in run("--labels", "empirical", family="bert", stats="fisher").err


def test_a_statistic_that_is_none(run):
    outcome = run(stats="grm")
    assert outcome.code == 2 and "did you mean 'gram'" in outcome.err


def test_statistics_of_another_model_are_not_added(run, mergery, model, write, tmp_path):
    assert mergery("calibrate", model("llama", 1), "--data", write(2), tmp_path / "other").code == 0
    outcome = run("--add", tmp_path / "other")
    assert outcome.code == 2 and "of another model" in outcome.err


def test_labels_are_drawn_of_no_model_that_answers_nan(run, model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = model("llama")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] = float("nan")
    shutil.copytree(folder, tmp_path / "damaged")
    save_file(weights, tmp_path / "damaged" / "model.safetensors", {"format": "pt"})
    outcome = run(folder=tmp_path / "damaged", stats="fisher")
    assert outcome.code == 2 and "the model answers NaN" in outcome.err
