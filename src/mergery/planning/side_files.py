"""Side files of the output that the recipe's models do not have as they must be: chat template and generation config."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.tokenizer.chat_templates import choose_template, conflict, read_template
from mergery.errors import MergeryError
from mergery.graph.findings import Findings
from mergery.recipe import Recipe
from mergery.views.vocabulary.unifying import OutputVocabulary, find_lead, merged_sources, stored_source

GENERATION = "generation_config.json"


def choose_chat_template(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], findings: Findings) -> str | None:
    """The template that the recipe asks for; None leaves the tokenizer's own. Problems and conflicts are noted."""
    word, wanted = recipe.output.chat_template, recipe.wanted_vocabulary
    lead = find_lead(recipe, wanted) if wanted else stored_source(recipe, recipe.donor)
    named = [stored_source(recipe, word)] if word and word in recipe.models else []
    templates: dict[str, str | None] = {}
    for name in dict.fromkeys((lead, *merged_sources(recipe), *named)):
        try:
            templates[name] = read_template(checkpoints[name])
        except MergeryError as error:
            findings.warnings.append(f"{name}: its chat template cannot be read ({error.what})")
    if word is None:
        differing = conflict(templates)
        findings.warnings += [differing] if differing else []
        return None
    try:
        return choose_template(named[0] if named else word, templates, named)
    except MergeryError as error:
        findings.problems.append(error.at(recipe.merge.place))
        return None


def write_generation(
    recipe: Recipe, donor: Checkpoint, vocabulary: OutputVocabulary | None, findings: Findings
) -> bytes | None:
    """The donor's generation config with the output's ids of special tokens, where they change. Lost ids are noted."""
    if vocabulary is None:
        return None
    name = stored_source(recipe, recipe.donor)
    if donor.config:
        findings.warnings += vocabulary.config(donor.config, name)[1]
    if GENERATION not in donor.files:
        return None
    before = parse_object(donor.file(GENERATION), f"{donor.label}/{GENERATION}")
    after, warnings = vocabulary.config(before, name, GENERATION)
    findings.warnings += warnings
    return (json.dumps(after, indent=2) + "\n").encode() if after != before else None
