"""The output's tokenizer as files, and what its chat template makes of a short conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.tokenizer.chat_templates import FILE, read_template, sample
from mergery.checkpoints.tokenizer.reading import ROLES
from mergery.errors import MergeryError
from mergery.planning.plan import Plan


def tokenizer_files(plan: Plan, own: Sequence[str]) -> dict[str, bytes]:
    """The tokenizer's files and the chat template: the donor's `own`, unless the plan has others."""
    texts = {name: plan.tokenizer.file(name) for name in own}
    rebuilt = plan.vocabulary.files() if plan.vocabulary else None
    if rebuilt is not None and plan.vocabulary is not None:
        stale = plan.vocabulary.token_files()
        texts = {name: text for name, text in texts.items() if name not in stale} | rebuilt
    if plan.template is not None:
        texts = {
            name: text for name, text in texts.items() if not name.startswith(("chat_template", "additional_chat"))
        }
        if "tokenizer_config.json" in texts:
            settings = parse_object(texts["tokenizer_config.json"], f"{plan.tokenizer.label}/tokenizer_config.json")
            if "chat_template" in settings:
                del settings["chat_template"]
                texts["tokenizer_config.json"] = (json.dumps(settings, ensure_ascii=False, indent=2) + "\n").encode()
        texts[FILE] = plan.template.encode()
    return texts


def chat_sample(plan: Plan) -> dict[str, str] | None:
    """What the output's chat template makes of a short conversation; None where it has none."""
    template = plan.template
    special: dict[str, str] = {}
    try:
        template = template if template is not None else read_template(plan.tokenizer)
        if template is None:
            return None
        name = "tokenizer_config.json"
        settings = parse_object(plan.tokenizer.file(name), name) if name in plan.tokenizer.files else {}
        for role in ROLES:
            word = settings.get(role)
            word = word.get("content") if isinstance(word, dict) else word
            special |= {role: word} if isinstance(word, str) else {}
    except MergeryError as error:
        return {"error": error.what}
    return sample(template, special)
