"""Task files: what they may say, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from mergery.errors import Problems, TaskError
from mergery.evaluation import load_task

GOOD = '{"question": "q", "choices": ["x", "y"], "answer": 0}'


def test_the_fields_tell_the_kind(write):
    kinds = {
        "perplexity": {"text": "t"},
        "choice": {"question": "q", "choices": ["x", "y"], "answer": 1},
        "generation": {"prompt": "p", "pattern": "a+"},
        "classification": {"text": "t", "label": "yes"},
    }
    for kind, item in kinds.items():
        task = load_task(write([item, {**item, "category": "c", "id": "last"}], f"{kind}.jsonl"))
        assert (task.kind, task.name, len(task.items)) == (kind, kind, 2)
        assert [(own.id, own.category) for own in task.items] == [("1", ""), ("last", "c")]


def test_settings_stand_in_the_first_line(write):
    head = {
        "name": "sums", "metric": "match", "category": "subject", "ignore": ["source"], "stop": ["."],
        "max_tokens": 4, "delimiter": "", "examples": [{"prompt": "1+1=", "answer": "2"}],
    }  # fmt: skip
    task = load_task(write([{"task": head}, {"prompt": "2+2=", "answer": "4", "subject": "easy", "source": "book"}]))
    assert (task.name, task.items[0].category, task.settings.max_tokens) == ("sums", "easy", 4)
    assert task.settings.examples == ({"prompt": "1+1=", "answer": "2"},)
    assert dict(task.items[0].fields) == {"prompt": "2+2=", "answer": "4"}


def test_the_metric_to_compare_by_comes_first(write):
    task = load_task(write([{"task": {"metric": "accuracy_normalised"}}, GOOD]))
    assert [metric.name for metric in task.metrics] == ["accuracy_normalised", "accuracy"]


def test_the_hash_is_of_what_can_change_a_result(write):
    first = load_task(write([GOOD], "a.jsonl"))
    assert load_task(write([GOOD, "  "], "b.jsonl")).hash == first.hash
    assert load_task(write([{"task": {"name": "other"}}, GOOD.replace("q", "q")], "c.jsonl")).items[0].content == (
        first.items[0].content
    )
    assert load_task(write([GOOD.replace('"answer": 0', '"answer": 1')], "d.jsonl")).hash != first.hash
    assert load_task(write([{"task": {"delimiter": ""}}, GOOD], "e.jsonl")).hash != first.hash


MANY = [f"c{number}" for number in range(27)]
WRONG = [
    ([], "task.jsonl: this task has no items"),
    (["", "  "], "task.jsonl: this task has no items"),
    ([{"task": {"name": "x"}}], "task.jsonl: this task has no items"),
    ([GOOD, '{"question": "q"'], "task.jsonl:2:17: this line is not valid JSON"),
    ([GOOD, '{"question": "q",}'], "task.jsonl:2:18: this line is not valid JSON"),
    (["[1]"], "task.jsonl:1:1: this line is not valid JSON"),
    ([GOOD + " 1"], "there is more on this line"),
    (['{"text": "a", "text": "b"}'], "task.jsonl:1:15: this line is not valid JSON"),
    (['{"text": NaN}'], "NaN is no JSON number"),
    (['{"text": "\\ud800"}'], "half a character"),
    (["[" * 5000], "task.jsonl:1:1: this line is not valid JSON"),
    (['{"text": ' + "[" * 200 + "]" * 200 + "}"], "nested too deeply"),
    ([GOOD, '{"question": "q", "choices": ["x", "y"]}'], "task.jsonl:2:1: the item has no 'answer'"),
    ([GOOD, '{"choices": ["x", "y"], "answer": 0}'], "task.jsonl:2:1: the item has no 'prompt'"),
    ([GOOD, '{"question": "q", "choices": "xy", "answer": 0}'], "task.jsonl:2:30: choices is 'xy'"),
    ([GOOD, '{"question": "q", "choices": ["x"], "answer": 0}'], "a list of two or more texts"),
    ([GOOD, '{"question": "q", "choices": ["x", "x"], "answer": 0}'], "task.jsonl:2:30: two choices are the same"),
    ([GOOD, '{"question": "q", "choices": ["x", "y"], "answer": 2}'], "task.jsonl:2:52: answer 2 is out of range"),
    ([GOOD, '{"question": "q", "choices": ["x", "y"], "answer": "x"}'], "from 0 to 1"),
    ([GOOD, '{"question": "q", "choices": ["x", "y"], "answer": true}'], "answer is True"),
    ([GOOD, '{"question": 3, "choices": ["x", "y"], "answer": 1}'], "task.jsonl:2:14: question is 3"),
    ([GOOD, '{"question": "", "choices": ["x", "y"], "answer": 1}'], "it must not be empty"),
    ([GOOD, '{"question": "q", "prompt": "p", "choices": ["x", "y"], "answer": 1}'], "not both"),
    ([GOOD, GOOD.replace("answer", "anwser")], "did you mean 'answer'?"),
    ([GOOD, '{"text": "t"}'], "task.jsonl:2:1: the items are of mixed kinds"),
    (['{"txt": "t"}'], "task.jsonl:1:1: these fields belong to no kind of task"),
    (['{"txt": "t"}'], "did you mean 'text'?"),
    ([{"task": {"letters": True}}, {"question": "q", "choices": MANY, "answer": 0}], "more choices than letters"),
    ([{"task": {"letters": "yes"}}, GOOD], "task.jsonl:1:10: letters is 'yes'"),
    ([{"task": {"leters": True}}, GOOD], "unknown setting 'leters'"),
    ([{"task": {"max_tokens": 0}}, {"prompt": "p", "answer": "a"}], "max_tokens is 0"),
    ([{"task": {"max_tokens": 3}}, GOOD], "max_tokens says nothing to a choice task"),
    ([{"task": {"stop": "x"}}, {"prompt": "p", "answer": "a"}], "stop is 'x'"),
    ([{"task": {"metric": "f1"}}, GOOD], "choice tasks have no metric 'f1'"),
    ([{"task": {"kind": "quiz"}}, GOOD], "unknown kind 'quiz'"),
    ([{"task": {"kind": "generation"}}, GOOD], "a generation item has no field 'choices'"),
    ([{"task": {"examples": [{"prompt": "p", "pattern": "a"}]}}, {"prompt": "p", "answer": "a"}], "not a pattern"),
    ([{"task": {"examples": "none"}}, {"prompt": "p", "answer": "a"}], "examples must be a list of items"),
    ([{"task": 3}, GOOD], "'task' must stand alone and be an object"),
    (['{"prompt": "p"}'], "an item has an 'answer' or a 'pattern'"),
    (['{"prompt": "p", "answer": " "}'], "task.jsonl:1:27: answer is ' '"),
    (['{"prompt": "p", "pattern": "("}'], "task.jsonl:1:28: pattern is no regular expression"),
    (['{"text": "t", "label": -1}'], "task.jsonl:1:24: label is -1"),
    (['{"text": "t", "label": 1}', '{"text": "u", "label": "one"}'], "labels are all numbers or all names"),
    (['{"text": "t", "id": 1}', '{"text": "u", "id": "1"}'], "task.jsonl:2:1: the id '1' stands here again"),
    (['{"text": "t", "id": 1.5}'], "task.jsonl:1:21: id is 1.5"),
    (['{"text": "t", "category": ["x"]}'], "category is ['x']"),
]


@pytest.mark.parametrize(("lines", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_wrong_files_are_told_by_place(write, lines, says):
    path = write(lines)
    with pytest.raises((TaskError, Problems)) as caught:
        load_task(path)
    assert says in str(caught.value).replace(str(path), "task.jsonl")
    assert all(problem["try"] for problem in caught.value.plain())


def test_all_problems_are_told_at_once_but_not_thousands(write):
    with pytest.raises(Problems) as caught:
        load_task(write(['{"text": 1}'] * 3 + ['{"text": "t"}']))
    assert len(caught.value.errors) == 3
    with pytest.raises(Problems) as caught:
        load_task(write(['{"text": 1}'] * 1000))
    assert len(caught.value.errors) == 20


def test_an_array_of_items_is_told_with_what_makes_lines_of_it(tmp_path):
    path = tmp_path / "quiz.json"
    path.write_text(f"\n[{GOOD}]\n")
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert str(caught.value) == (
        f"{path}:1:1: this is no task file\n  why: it is one array of JSON\n"
        "  try: one object a line: jq -c '.[]' quiz.json > quiz.jsonl"
    )


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_bytes(b'{"text": "t"}\n{"text": "\xff"}\n')
    with pytest.raises(TaskError, match=r":2:11: this file is not valid UTF-8"):
        load_task(path)
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(tmp_path / "none.jsonl")


def test_wrong_tasks_are_told_before_a_model_is_looked_for(mergery, write, tmp_path):
    outcome = mergery("evaluate", tmp_path / "no-model", "--tasks", write(['{"text": 1}']), write(["{"], "b.jsonl"))
    assert outcome.code == 2
    assert "task.jsonl:1:10: text is 1" in outcome.err
    assert "b.jsonl:1:2: this line is not valid JSON" in outcome.err
    assert "no-model" not in outcome.err
    outcome = mergery("evaluate", tmp_path / "no-model", "--tasks", write([GOOD]))
    assert (outcome.code, "there is no such model folder" in outcome.err) == (2, True)
    outcome = mergery("evaluate", tmp_path / "no-model")
    assert (outcome.code, "there is no task" in outcome.err) == (2, True)
