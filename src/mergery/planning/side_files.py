"""Side files of the output that the recipe's models do not have as they must be: chat template and generation config."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.tokenizer.chat_templates import choose_template, conflict, read_template
from mergery.checkpoints.tokenizer.reading import has_tokenizer
from mergery.errors import MergeryError, listed
from mergery.graph.findings import Findings
from mergery.graph.view import View
from mergery.recipe import Recipe
from mergery.views.vocabulary.comparing import Tokenizers, tokens_in_words, tokens_without_rows
from mergery.views.vocabulary.rows import token_tensors
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
        own = [name for name, text in templates.items() if text]
        if own and not templates.get(lead) and has_tokenizer(checkpoints[lead]):
            findings.warnings.append(
                f"the output has no chat template, and {listed(own)} {'has' if len(own) == 1 else 'have'} one; "
                f"output: {{chat_template: {own[0]}}} takes it along"
            )
        elif templates.get(lead) and (differing := conflict(templates)):
            findings.warnings.append(differing)
        return None
    try:
        return choose_template(named[0] if named else word, templates, named)
    except MergeryError as error:
        findings.problems.append(error.at(recipe.merge.place))
        return None


def check_tokenizer(
    lead: str, checkpoints: Mapping[str, Checkpoint], view: View, tokenizers: Tokenizers, findings: Findings
) -> None:
    """Warn of an output without a tokenizer that a merged model has, and of tokens without rows. `lead` gives the tokenizer,
    as it is.
    """
    if not has_tokenizer(checkpoints[lead]):
        others = [name for name, checkpoint in checkpoints.items() if has_tokenizer(checkpoint)]
        if others:
            findings.warnings.append(
                f"the output has no tokenizer, because {lead} has none, and {listed(others)} "
                f"{'has' if len(others) == 1 else 'have'} one; output: {{tokenizer: {others[0]}}} takes it along"
            )
        return
    rows = max(token_tensors(view.nodes, view.architecture).values(), default=0)
    try:
        lost = tokens_without_rows(tokenizers.get(checkpoints[lead]), rows)
    except MergeryError:
        return  # said where vocabularies are compared
    if lost:
        findings.warnings.append(
            f"the tokenizer has {tokens_in_words(lost)} without {'a row' if len(lost) == 1 else 'rows'}: the embeddings have "
            f"{rows:,} rows, so that text with {'it' if len(lost) == 1 else 'them'} fails, and converters too; "
            f"output: {{tokenizer: {lead}}} leaves {'it' if len(lost) == 1 else 'them'} out"
        )


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
