"""What a plan writes besides weights that has to do with tokens: tokenizer, chat template, configs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.tokenizer.chat_templates import FILE, choose_template, conflict, read_template, sample
from mergery.checkpoints.tokenizer.reading import ROLES
from mergery.errors import MergeryError
from mergery.views.vocabulary.aligning import find_lead, merged_sources, stored_source

if TYPE_CHECKING:
    from mergery.planning.builder import Builder
    from mergery.planning.plan import Plan

GENERATION = "generation_config.json"


def choose_chat_template(builder: Builder) -> str | None:
    """The template that the recipe asks for; None leaves the tokenizer's own. Problems and conflicts are noted."""
    recipe, word = builder.recipe, builder.recipe.output.chat_template
    lead = (
        find_lead(recipe, recipe.wanted_vocabulary) if recipe.wanted_vocabulary else stored_source(recipe, recipe.donor)
    )
    named = [stored_source(recipe, word)] if word and word in recipe.models else []
    templates: dict[str, str | None] = {}
    for name in dict.fromkeys((lead, *merged_sources(recipe), *named)):
        try:
            templates[name] = read_template(builder.checkpoints[name])
        except MergeryError as error:
            builder.warnings.append(f"{name}: its chat template cannot be read ({error.what})")
    if word is None:
        differing = conflict(templates)
        builder.warnings += [differing] if differing else []
        return None
    try:
        return choose_template(named[0] if named else word, templates, named)
    except MergeryError as error:
        builder.problems.append(error.at(recipe.merge.place))
        return None


def write_generation(builder: Builder, donor: Checkpoint) -> bytes | None:
    """The generation config with the output's ids of special tokens, where they change. Ids that are lost are noted."""
    alignment, recipe = builder.alignment, builder.recipe
    if alignment is None:
        return None
    name = stored_source(recipe, recipe.donor)
    generation = None
    if donor.config is not None:
        builder.warnings += alignment.config(donor.config, name)[1]
    if GENERATION in donor.files:
        before = parse_object(donor.file(GENERATION), f"{donor.label}/{GENERATION}")
        after, warnings = alignment.config(before, name, GENERATION)
        builder.warnings += warnings
        generation = (json.dumps(after, indent=2) + "\n").encode() if after != before else None
    return generation


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
