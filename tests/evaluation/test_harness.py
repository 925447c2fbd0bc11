"""lm-eval's tasks on the same model in the same process; and our own figures against lm-eval's on the same file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import mergery as library
from mergery.errors import TaskError
from tests.evaluation.conftest import choices, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets have warnings of their own

CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
ROLLING = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
  - {{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
metadata: {{version: 1.0}}
"""


@pytest.fixture
def lm_task(tmp_path, monkeypatch):
    """Write a YAML task for lm-eval over a task file."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def make(text: str, name: str, file: Path) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.format(name=name, file=file, cache=tmp_path / "cache"))
        return path

    return make


def test_our_figures_are_lm_evals_on_the_same_file(zoo, write, lm_task, tmp_path, monkeypatch):
    items = choices(40)
    for item, extra in zip(items, random.Random(0).choices("éd", k=40), strict=True):
        item["choices"][1] += extra  # bytes and characters are not the same
    quiz, long = write(items, "quiz.jsonl"), write(texts(15), "long.jsonl")
    harness = [lm_task(CHOICE, "lm_quiz", quiz), lm_task(ROLLING, "lm_long", long)]
    found = library.evaluate(zoo / "base", [quiz, long], harness=harness, results=tmp_path / "results")
    scores = found.scores
    assert scores["quiz.accuracy"] == scores["lm_quiz.acc"]
    assert scores["quiz.accuracy_normalised"] == scores["lm_quiz.acc_bytes"]
    assert scores["quiz.accuracy"] != scores["quiz.accuracy_normalised"]
    assert scores["long.bits_per_byte"] == pytest.approx(scores["lm_long.bits_per_byte"], rel=1e-6)
    assert scores["long.byte_perplexity"] == pytest.approx(scores["lm_long.byte_perplexity"], rel=1e-6)
    ours, theirs = found.tasks[0], found.tasks[2]
    assert [own.values["accuracy"] for own in ours.items] == [other.values["acc"] for other in theirs.items]
    lengths = [len(text["text"]) for text in texts(15)]
    assert max(lengths) > 64  # some texts take more than one window
    monkeypatch.setattr("mergery.evaluation.models.Subject.load", lambda *_: pytest.fail("the model was loaded"))
    again = library.evaluate(zoo / "base", harness=harness, results=tmp_path / "results")
    assert [task.cached for task in again.tasks] == [True, True]
    assert again.tasks[0].scores == theirs.scores


def test_a_tokenizer_that_begins_every_text_itself(zoo, write, lm_task, tmp_path):
    """Choices agree with lm-eval's there too; a text's own first token is not counted, which lm-eval counts."""
    from tokenizers.processors import TemplateProcessing

    from tests.evaluation.conftest import train_tokenizer

    tokenizer = train_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    quiz, long = write(choices(20), "quiz.jsonl"), write(texts(4), "long.jsonl")
    plain = library.evaluate(zoo / "base", long).scores
    scores = library.evaluate(
        zoo / "base", [quiz, long], tokenizer=tmp_path / "tokenizer", harness=[lm_task(CHOICE, "lm_begun", quiz)]
    ).scores
    assert scores["quiz.accuracy"] == scores["lm_begun.acc"]
    assert scores["long.bits_per_byte"] == plain["long.bits_per_byte"]


def test_tasks_are_found_by_name_in_a_folder_and_compared(mergery, zoo, write, lm_task, tmp_path):
    lm_task(CHOICE, "lm_named", write(choices(12), "quiz.jsonl"))
    for model in ("a", "b"):
        outcome = mergery(
            "evaluate", zoo / model, "--harness", "lm_named", "--include", tmp_path, "--results", tmp_path / "r",
            "--quiet",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    outcome = mergery("compare", *sorted((tmp_path / "r").iterdir()), "--resamples", 100, "--json")
    assert {score["metric"] for score in json.loads(outcome.out)["scores"]} == {"acc"}


def test_a_name_that_lm_eval_does_not_know(zoo, tmp_path, lm_task, write, monkeypatch):
    from lm_eval.tasks import TaskManager

    def few(**settings: object) -> TaskManager:
        """Without the ten thousand files that come with lm-eval."""
        return TaskManager(**{**settings, "include_defaults": False})

    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)
    lm_task(CHOICE, "lm_quiz", write(choices(2)))
    with pytest.raises(TaskError, match=r"lm-eval has no task 'lm_quizz'\n  try: did you mean 'lm_quiz'"):
        library.evaluate(zoo / "a", harness=["lm_quizz"], include=tmp_path)


def test_what_is_not_on_this_machine(zoo, tmp_path, lm_task, write):
    with pytest.raises(TaskError, match="there is no such task file"):
        library.evaluate(zoo / "a", harness=[tmp_path / "none.yaml"])
    (tmp_path / "empty.yaml").write_text("group_alias: x\n")
    with pytest.raises(TaskError, match="lm-eval finds no task in this file"):
        library.evaluate(zoo / "a", harness=[tmp_path / "empty.yaml"])
    gone = lm_task(CHOICE, "lm_gone", tmp_path / "gone.jsonl")
    with pytest.raises(TaskError, match=r"lm-eval cannot load(.|\n)*nothing is downloaded"):
        library.evaluate(zoo / "a", harness=[gone])
    far = tmp_path / "far.yaml"
    far.write_text(
        gone.read_text().replace("dataset_path: json", "dataset_path: someone/something").replace("gone", "far")
    )
    with pytest.raises(TaskError, match=r"lm-eval cannot load(.|\n)*nothing is downloaded"):
        library.evaluate(zoo / "a", harness=[far])
    with pytest.raises(TaskError) as caught:
        library.evaluate(zoo / "a", harness=["lm_far"], include=tmp_path)
    assert f"`lm_eval --model dummy --tasks lm_far --limit 1 --include_path {tmp_path}`" in str(caught.value)
