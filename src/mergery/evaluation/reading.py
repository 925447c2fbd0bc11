"""Reading task files: strictly, with file:line:column, and with every problem at once.

A task is a file of JSON objects, one a line. The fields tell what kind of task it is:

    {"text": "..."}                                                        perplexity
    {"question": "...", "choices": ["...", "..."], "answer": 0}            choice
    {"prompt": "...", "answer": "..."}     {"prompt": "...", "pattern": "..."}   generation
    {"text": "...", "label": 1}                                            classification

Any item may have an `id` and a `category`. The first line may be `{"task": {...}}`, with settings for all items.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergery.checkpoints.json_files import is_text, too_deep
from mergery.errors import MergeryError, TaskError, Where, did_you_mean, raise_all
from mergery.evaluation.fields import FIELDS, Checks, is_texts, kind_of, sample, say
from mergery.evaluation.jsonlines import Line, parse_object
from mergery.evaluation.task import METRICS, Item, Settings, Task, metrics_of

MOST_PROBLEMS = 20  # shown at once
SETTINGS = ("name", "kind", "metric", "category", "ignore", "examples", "letters", "delimiter", "stop", "max_tokens",
            "block", "length")  # fmt: skip
OF_KIND = {
    "examples": ("choice", "generation"), "letters": ("choice",), "delimiter": ("choice", "generation"),
    "stop": ("generation",), "max_tokens": ("generation",), "block": ("generation",), "length": ("generation",),
}  # fmt: skip
TYPES = {str: "text", bool: "true or false"}


def load_task(source: str | Path | Task) -> Task:
    """Read a task file. Raises TaskError, or Problems with all that is wrong, each with file:line:column."""
    if isinstance(source, Task):
        return source
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "a task is a .jsonl file with one item a line"
        raise TaskError(
            "this task file cannot be read", where=Where(str(path)), why=error.strerror or "", hint=hint
        ) from None
    return _TaskReader(str(path)).read(data, path.stem)


def task_of(content: bytes, file: str) -> Task:
    """Read the content of a task file; `file` is what messages call it. Raises as `load_task` does."""
    return _TaskReader(file).read(content, Path(file).stem)


def load_tasks(sources: Iterable[str | Path | Task]) -> list[Task]:
    """Read several task files. Problems of all files are told at once."""
    tasks: list[Task] = []
    problems: list[MergeryError] = []
    for source in sources:
        try:
            tasks.append(load_task(source))
        except MergeryError as error:
            problems.append(error)
    raise_all(problems)
    return tasks


class _TaskReader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[MergeryError] = []

    def read(self, data: bytes, stem: str) -> Task:
        if re.match(rb"\s*\[\s*\{", data):
            lines = f"{stem}-lines.jsonl" if self.file.endswith(".jsonl") else f"{stem}.jsonl"
            hint = f"one object a line: jq -c '.[]' {Path(self.file).name} > {lines}"
            where, why = Where(self.file, 1, 1), "it is one array of JSON"
            raise TaskError("this is no task file", where=where, why=why, hint=hint)
        lines = [line for line in map(self.parse, self.texts(data)) if line is not None]
        header: dict[str, Any] = {}
        if lines and "task" in lines[0].values:
            header = self.header(lines.pop(0))
        if not lines and not self.errors:
            raise TaskError("this task has no items", where=Where(self.file), hint="write one JSON object a line")
        kind = header.get("kind") or self.kind(lines, header)
        settings = self.settings(header, kind)
        items = [
            item for line in lines if (item := self.item(line, kind, header, letters=settings.letters)) is not None
        ]
        self.same_ids(items)
        self.same_labels(items, kind)
        raise_all(self.errors)
        metric = str(header.get("metric", ""))
        return Task(str(header.get("name", stem)), kind, tuple(items), settings, metric, self.file)

    def fail(self, what: str, line: int, column: int | None = 1, *, hint: str, why: str = "") -> None:
        self.errors.append(TaskError(what, where=Where(self.file, line, column), why=why, hint=hint))
        if len(self.errors) >= MOST_PROBLEMS:
            raise_all(self.errors)

    # --- lines --------------------------------------------------------------------------------------------------------

    def texts(self, data: bytes) -> list[tuple[int, str]]:
        """Numbered lines. Lines of nothing but spaces hold no item."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
            where = Where(self.file, line, column)
            raise TaskError(
                "this file is not valid UTF-8", where=where, why=error.reason, hint="save it as UTF-8"
            ) from None
        return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]

    def parse(self, numbered: tuple[int, str]) -> Line | None:
        number, text = numbered
        try:
            line = parse_object(number, text)
        except json.JSONDecodeError as error:
            hint = 'such as {"text": "..."}, one object a line'
            self.fail("this line is not valid JSON", number, error.pos + 1, why=error.msg, hint=hint)
            return None
        except RecursionError:
            self.fail("this line is nested too deeply", number, hint="leave that field out")
            return None
        if too_deep(line.values) or ("\\u" in text and not is_text(json.dumps(line.values, ensure_ascii=False))):
            what = "this line is nested too deeply, or holds half a character"
            self.fail(what, number, hint="leave that field out, or write the character itself")
            return None
        return line

    # --- the header ---------------------------------------------------------------------------------------------------

    def header(self, line: Line) -> dict[str, Any]:
        header, column = line.values["task"], line.columns["task"]
        if len(line.values) > 1 or not isinstance(header, dict):
            why = "the first line may be an item, or settings for all items"
            hint = '{"task": {"name": "..."}}, and items below it'
            self.fail("'task' must stand alone and be an object", line.number, column, why=why, hint=hint)
            return {}
        for key in header:
            if key not in SETTINGS:
                self.fail(f"unknown setting {key!r}", line.number, column, hint=did_you_mean(key, SETTINGS))
        wanted = {"name": str, "kind": str, "metric": str, "category": str, "letters": bool, "delimiter": str}
        wanted["length"] = bool
        for key, kind in wanted.items():
            if key in header and not isinstance(header[key], kind):
                why, hint = f"it must be {TYPES[kind]}", f"such as {sample(key)}"
                self.fail(f"{key} is {say(header[key])}", line.number, column, why=why, hint=hint)
                header = {name: value for name, value in header.items() if name != key}
        block = header.get("block", ["a", "b"])
        if not is_texts(block) or len(block) != 2 or not all(block):
            why, hint = "it must be two texts, one that opens it and one that closes it", f"such as {sample('block')}"
            self.fail(f"block is {say(block)}", line.number, column, why=why, hint=hint)
            header = {name: value for name, value in header.items() if name != "block"}
        for key in ("stop", "ignore"):
            if not is_texts(header.get(key, ["x"])):
                why, hint = "it must be a list of texts", f"such as {sample(key)}"
                self.fail(f"{key} is {say(header[key])}", line.number, column, why=why, hint=hint)
                header = {name: value for name, value in header.items() if name != key}
        if header.get("kind", "choice") not in METRICS:
            self.fail(
                f"unknown kind {header['kind']!r}", line.number, column, hint=did_you_mean(header["kind"], METRICS)
            )
            raise_all(self.errors)
        most = header.get("max_tokens", 1)
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            why = "it must be a whole number above 0"
            self.fail(f"max_tokens is {say(most)}", line.number, column, why=why, hint='such as "max_tokens": 64')
            header = {name: value for name, value in header.items() if name != "max_tokens"}
        return {**header, "line": line.number, "column": column}

    def settings(self, header: dict[str, Any], kind: str) -> Settings:
        at = int(header.get("line", 1)), int(header.get("column", 1))
        told = Settings(block=tuple(header.get("block", ())), length=bool(header.get("length")))
        metrics = [metric.name for metric in metrics_of(kind, told)]
        if "metric" in header and header["metric"] not in metrics:
            self.fail(
                f"{kind} tasks have no metric {header['metric']!r}", *at, hint=did_you_mean(header["metric"], metrics)
            )
        for key, kinds in OF_KIND.items():
            if key in header and kind not in kinds:
                why = f"it is for {' and '.join(kinds)}"
                self.fail(f"{key} says nothing to a {kind} task", *at, why=why, hint=f"leave {key!r} out")
        chosen = {key: header[key] for key in ("letters", "delimiter", "max_tokens", "length") if key in header}
        chosen["block"] = told.block
        if "stop" in header:
            chosen["stop"] = tuple(header["stop"])
        examples = header.get("examples", [])
        if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
            hint = 'such as "examples": [{"prompt": "...", "answer": "..."}]'
            self.fail("examples must be a list of items", *at, hint=hint)
            examples = []
        solved = []
        for example in examples:
            line = Line(at[0], dict(example), dict.fromkeys(example, at[1]))
            if "pattern" in example:
                why = "it is shown to the model, solved"
                self.fail("an example needs an answer, not a pattern", *at, why=why, hint='"answer": "..."')
            item = self.item(line, kind, header, letters=bool(header.get("letters")))
            solved += [item.fields] if item is not None else []
        return Settings(tuple(solved), **chosen)

    # --- items --------------------------------------------------------------------------------------------------------

    def kind(self, lines: list[Line], header: Mapping[str, Any]) -> str:
        """The kind that the items' fields tell; all must tell the same."""
        told = {line.number: kind_of(line.values) for line in lines}
        first = next(((number, kind) for number, kind in told.items() if kind), None)
        if first is None:
            if lines:
                why = f"a kind is told by its fields: {'; '.join(', '.join(names) for names in FIELDS.values())}"
                hint = did_you_mean(next(iter(lines[0].values), ""), sum(FIELDS.values(), ()))
                self.fail("these fields belong to no kind of task", lines[0].number, why=why, hint=hint)
            raise_all(self.errors)
        assert first is not None
        for number, kind in told.items():
            if kind and kind != first[1]:
                why = f"line {first[0]} is of kind {first[1]}, this one of kind {kind}"
                self.fail("the items are of mixed kinds", number, why=why, hint="keep each kind in a file of its own")
        return first[1]

    def item(self, line: Line, kind: str, header: Mapping[str, Any], *, letters: bool) -> Item | None:
        before = len(self.errors)
        where = str(header.get("category", "category"))
        known = (*FIELDS[kind], "id", where)
        left = set(header.get("ignore", ())) - set(FIELDS[kind])
        told = kind_of(line.values)
        if told and told != kind and "kind" not in header:
            return None  # of another kind, which has been said already
        for name in line.values:
            if name not in known and name not in left:
                hint = f"{did_you_mean(name, known)}; or name it under ignore in the first line"
                self.fail(f"a {kind} item has no field {name!r}", line.number, line.columns[name], hint=hint)
        fields = {name: value for name, value in line.values.items() if name in FIELDS[kind]}
        getattr(Checks(line, fields, self.fail, letters=letters), kind)()
        return self.made(line, fields, where) if len(self.errors) == before else None

    def made(self, line: Line, fields: dict[str, Any], where: str) -> Item | None:
        name = line.values.get("id", line.number)
        category = line.values.get(where, "")
        for key, value in (("id", name), (where, category)):
            if not isinstance(value, (str, int)) or isinstance(value, bool):
                why, hint = "it must be text or a whole number", f'such as "{key}": "a1"'
                self.fail(f"{key} is {say(value)}", line.number, line.columns[key], why=why, hint=hint)
                return None
        return Item(str(name), str(category), fields, line.number)

    def same_ids(self, items: list[Item]) -> None:
        seen: dict[str, int] = {}
        for item in items:
            if item.id in seen:
                why, hint = f"line {seen[item.id]} has it too", "leave ids out, and line numbers serve"
                self.fail(f"the id {item.id!r} stands here again", item.line, why=why, hint=hint)
            seen.setdefault(item.id, item.line)

    def same_labels(self, items: list[Item], kind: str) -> None:
        if kind != "classification" or not items:
            return
        first = items[0]
        for item in items:
            if type(item.fields["label"]) is not type(first.fields["label"]):
                why = f"line {first.line} has {say(first.fields['label'])}; labels are all numbers or all names"
                hint = "write all labels as numbers"
                self.fail(f"label is {say(item.fields['label'])}", item.line, why=why, hint=hint)
