"""Chat templates: a model's own, a named one, Jinja, or the one that most models share; and what one looks like."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Container, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.errors import CheckpointError, RecipeError, Where, did_you_mean

FILE = "chat_template.jinja"
SAMPLE = (
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "How are you?"},
)
LONGEST = 1 << 17  # characters of a template that is rendered


def named_templates() -> tuple[str, ...]:
    """The names of the templates that come with Mergery."""
    folder = resources.files("mergery.checkpoints.tokenizer") / "templates"
    return tuple(sorted(item.name.removesuffix(".jinja") for item in folder.iterdir() if item.name.endswith(".jinja")))


def named_template(name: str) -> str:
    return (resources.files("mergery.checkpoints.tokenizer") / "templates" / f"{name}.jinja").read_text(
        encoding="utf-8"
    )


def check_template(word: Any, models: Container[str]) -> None:
    """Refuse what is neither `auto`, a model, a named template nor Jinja. Raises RecipeError."""
    if not isinstance(word, str) or not word:
        raise RecipeError(f"chat_template is {word!r}", hint="auto, a model, a named template, or Jinja")
    if word == "auto" or word in models or "{" in word or word in named_templates():
        return
    raise RecipeError(
        f"unknown chat template {word!r}",
        why="it is no model, no named template, and no Jinja",
        hint=did_you_mean(word, ("auto", *named_templates())),
    )


def read_template(checkpoint: Checkpoint) -> str | None:
    """A model's own chat template; the one called default where there are several. Raises CheckpointError."""
    if FILE in checkpoint.files:
        try:
            return checkpoint.file(FILE).decode("utf-8")
        except UnicodeDecodeError as error:
            where = Where(f"{checkpoint.label}/{FILE}")
            raise CheckpointError(
                "this file is not valid UTF-8", where=where, why=error.reason, hint="save it as UTF-8"
            ) from None
    if "tokenizer_config.json" not in checkpoint.files:
        return None
    settings = parse_object(checkpoint.file("tokenizer_config.json"), f"{checkpoint.label}/tokenizer_config.json")
    template = settings.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return template if isinstance(template, str) and template.strip() else None


def choose_template(word: str, templates: Mapping[str, str | None], models: Container[str]) -> str:
    """The template that a recipe asks for. `templates` are the models' own, the donor's first. Raises RecipeError."""
    if word == "auto":
        own = [text.strip() for text in templates.values() if text]
        if not own:
            names = ", ".join(named_templates())
            raise RecipeError("chat_template is auto, but no model has a chat template", hint=f"known here: {names}")
        return Counter(own).most_common(1)[0][0]  # of equally many, the one that stands first
    if word in models:
        template = templates.get(word)
        if template is None:
            raise RecipeError(
                f"the model {word!r} has no chat template", hint=f"named ones: {', '.join(named_templates())}"
            )
        return template
    return word if "{" in word else named_template(word)


def conflict(templates: Mapping[str, str | None]) -> str | None:
    """A warning where models' templates differ."""
    own = {name: text.strip() for name, text in templates.items() if text}
    groups: dict[str, list[str]] = {}
    for name, text in own.items():
        groups.setdefault(text, []).append(name)
    if len(groups) < 2:
        return None
    parts = " and ".join(", ".join(names) for names in groups.values())
    return f"the chat templates of {parts} differ; output.chat_template says which one the output takes"


def sample(template: str, special: Mapping[str, str]) -> dict[str, str]:
    """`text`: what the template makes of a short conversation; or `error`: why it makes nothing.

    It is rendered by a process of its own, which has two seconds and little memory.
    """
    if len(template) > LONGEST:
        return {"error": f"the template has {len(template):,} characters"}
    tokens = {"bos_token": "", "eos_token": "", **special}
    job = json.dumps({"template": template, "messages": SAMPLE, "tokens": tokens})
    command = [sys.executable, "-I", str(Path(__file__).with_name("render_template.py"))]
    try:
        done = subprocess.run(command, input=job, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "it does not come to an end"}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": "it takes too much time or memory"}
