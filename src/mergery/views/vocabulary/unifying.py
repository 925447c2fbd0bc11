"""From a recipe's words about tokens to views with equal rows, a tokenizer and configs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.config import Config
from mergery.checkpoints.tokenizer.reading import SETTINGS, Tokenizer
from mergery.errors import MergeryError, PlanError
from mergery.graph.findings import Findings
from mergery.graph.view import View
from mergery.recipe import Recipe, Source, Vocabulary
from mergery.views.vocabulary.choosing import Chosen, Member, Rows, assign_rows, choose_tokens, count_rows
from mergery.views.vocabulary.comparing import Tokenizers, compare, digit_warnings, tokens_in_words
from mergery.views.vocabulary.filling import make_fill
from mergery.views.vocabulary.rebuilding import SLOW, Rebuilt, refuse_unlike
from mergery.views.vocabulary.rows import TokenTensors, token_tensors
from mergery.views.vocabulary.special import move_ids, set_rows


@dataclass(frozen=True, eq=False)
class OutputVocabulary:
    """The output's vocabulary, and what it does to models, configs and files."""

    wanted: Vocabulary
    lead: str  # the model whose tokenizer the output takes
    chosen: Chosen
    members: tuple[Member, ...]
    rows: Rows
    tensors: TokenTensors
    checkpoints: Mapping[str, Checkpoint]

    def view(self, name: str) -> View:
        """A model's view with its rows in the output's order, and its config's ids with them. Raises PlanError."""
        view = self.tensors.view(name)
        return replace(view, config=Config(self.config(view.config, name)[0])) if view.config else view

    @cached_property
    def rebuilt(self) -> Rebuilt | None:
        """The output's tokenizer; None where it is the lead's own."""
        if self.chosen.tokens == self.chosen.lead.tokens:
            return None
        return Rebuilt(self.chosen, self.members, union=self.wanted.source == "union")

    def config(
        self, config: Mapping[str, Any], donor: str, file: str = "config.json"
    ) -> tuple[dict[str, Any], list[str]]:
        """A config or generation config with the output's rows and ids, and warnings. `donor` is whose config it is."""
        result = set_rows(Config(config), self.tensors.size) if file == "config.json" else dict(config)
        member = next((each for each in self.members if each.name == donor), None)
        if member is None or donor == self.lead:
            return result, []
        by_id = {index: token for token, index in member.tokenizer.tokens.items()}

        def move(index: int) -> int | None:
            return self.chosen.tokens.get(by_id.get(index, ""))

        return move_ids(result, move, self._stated(file), f"{donor}'s {file}")

    def _stated(self, file: str) -> Mapping[str, Any]:
        checkpoint = self.checkpoints[self.lead]
        if file == "config.json":
            return checkpoint.config
        try:
            return json.loads(checkpoint.file(file)) if file in checkpoint.files else {}
        except ValueError:
            return {}

    def token_files(self) -> tuple[str, ...]:
        """The files of the lead's tokenizer that speak of tokens."""
        return tuple(name for name in (*SLOW, "tokenizer.json", *SETTINGS) if name in self.checkpoints[self.lead].files)

    def files(self) -> dict[str, bytes] | None:
        """Those files for the output; None where the lead's are right as they are."""
        if self.rebuilt is None:
            return None
        return self.rebuilt.files({name: self.checkpoints[self.lead].file(name) for name in self.token_files()})

    def digest(self) -> str:
        """Of all that it does to rows and tokens."""
        digest = hashlib.sha256(json.dumps(list(self.chosen.tokens.items())).encode())
        for array in (self.rows.giver, self.rows.row, self.rows.forced, *self.rows.own.values(), *self.rows.group_rows):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """For `mergery plan` and the card."""
        return {
            "from": self.wanted.source,
            "lead": self.lead,
            "kind": self.chosen.lead.kind,
            "tokens": len(self.chosen.tokens),
            "rows": self.tensors.size,
            "from_others": len(self.chosen.origin),
            "added": list(self.chosen.created),
            "made": len(self.rows.unknown),
        }


def merged_sources(recipe: Recipe, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The stored models that a recipe merges, in its order, base first."""
    found: dict[str, None] = {}
    for name in names or recipe.merge.names():
        model = recipe.models[name]
        found |= {name: None} if isinstance(model, Source) else dict.fromkeys(merged_sources(recipe, model.names()))
    return tuple(found)


def stored_source(recipe: Recipe, name: str) -> str:
    """A model itself or, for a stage, the model from which it takes names and config."""
    model = recipe.models[name]
    return name if isinstance(model, Source) else stored_source(recipe, model.base or model.names()[0])


def find_lead(recipe: Recipe, wanted: Vocabulary) -> str:
    """The model whose tokenizer the output takes or begins with."""
    named = wanted.source not in ("base", "union") or (wanted.source in recipe.models and wanted.source == "base")
    return stored_source(recipe, wanted.source if named else recipe.merge.base or recipe.donor)


def vocabulary_sources(recipe: Recipe, wanted: Vocabulary) -> tuple[str, ...]:
    """The stored models whose tokens or rows the output may take: those that are merged, and others that are named."""
    named = (recipe.donor, *(row.model for row in wanted.tokens.values() if row.model))
    others = [stored_source(recipe, name) for name in named]
    return tuple(dict.fromkeys((*merged_sources(recipe), *others, find_lead(recipe, wanted))))


def unify_vocabularies(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    views: Mapping[str, View],
    tokenizers: Tokenizers,
    findings: Findings,
) -> OutputVocabulary | None:
    """What the recipe's words about tokens amount to; None where nothing has to be done, or cannot be: problems are noted.

    `views` are models as they are stored; those with problems are missing.
    """
    wanted, merged = recipe.wanted_vocabulary, merged_sources(recipe)
    if wanted is not None:
        try:
            found = _read(recipe, wanted, checkpoints, tokenizers, findings)
            if found:
                return (
                    _unified(recipe, wanted, merged, found, views, findings) if found.keys() <= views.keys() else None
                )
        except MergeryError as error:
            findings.problems.append(error.at(wanted.place or recipe.merge.place))
            return None
    compare({name: checkpoints[name] for name in merged}, tokenizers, recipe.merge.place, findings)
    return None


def _read(
    recipe: Recipe,
    wanted: Vocabulary,
    checkpoints: Mapping[str, Checkpoint],
    tokenizers: Tokenizers,
    findings: Findings,
) -> dict[str, Tokenizer]:
    """Tokenizers by model; those without files have the lead's. Empty where the short form needs none."""
    found: dict[str, Tokenizer] = {}
    lead, names = find_lead(recipe, wanted), vocabulary_sources(recipe, wanted)
    short = recipe.vocabulary is None and wanted.source != "union"
    for name in names:
        try:
            tokenizer = tokenizers.get(checkpoints[name])
        except MergeryError as error:
            if not short:
                raise
            findings.warnings.append(
                f"{name}: its tokenizer cannot be read ({error.what}); vocabularies are not compared"
            )
            return {}
        if tokenizer is not None:
            found[name] = tokenizer
    if lead not in found:
        if short:
            findings.warnings.append(f"{lead} has no tokenizer to give; rows stay as they are")
            return {}
        raise PlanError(f"the model {lead!r} has no tokenizer", hint="put its tokenizer files into its folder")
    for name in names:
        if name not in found:
            findings.warnings.append(f"{name} has no tokenizer; its rows are taken to be in the order of {lead}")
            found[name] = found[lead]
    return found


def _unified(
    recipe: Recipe,
    wanted: Vocabulary,
    merged: Sequence[str],
    tokenizers: Mapping[str, Tokenizer],
    views: Mapping[str, View],
    findings: Findings,
) -> OutputVocabulary | None:
    lead = find_lead(recipe, wanted)
    views = {name: views[name] for name in tokenizers}
    counts = {
        name: max(token_tensors(view.nodes, view.architecture).values(), default=0) for name, view in views.items()
    }
    members = [Member(name, tokenizers[name], counts[name], name in merged) for name in tokenizers]
    lacking = [name for name in merged if not counts[name]]
    if lacking:
        raise PlanError(
            f"{lacking[0]!r} has no embeddings of tokens", hint="leave out what the recipe says of the vocabulary"
        )
    taken = [member for member in members if member.merged]
    chosen = choose_tokens(wanted, tokenizers[lead], counts[lead] or None, taken)
    if wanted.source == "union":
        refuse_unlike(chosen, taken)
    same = all(tokenizers[name].tokens == chosen.tokens and counts[name] == counts[lead] for name in tokenizers)
    size = count_rows(wanted, chosen, counts[lead] if lead in merged else None)
    if same and size == counts[lead] and not wanted.tokens:
        return None
    base = stored_source(recipe, wanted.base or recipe.merge.base or "") if wanted.base or recipe.merge.base else None
    rows = assign_rows(wanted, chosen, members, base, lead if lead in merged else None, size)
    checkpoints = {name: view.donor for name, view in views.items()}
    pairs = {name: (tokenizers[name], _file(checkpoints[name])) for name in tokenizers}
    donor = lead if lead not in merged and counts[lead] else None
    fill = make_fill(wanted, chosen, rows, pairs, recipe.seed, donor)
    tensors = TokenTensors(views, rows, fill, findings.numbers())
    vocabulary = OutputVocabulary(wanted, lead, chosen, tuple(members), rows, tensors, checkpoints)
    findings.warnings += _warn(vocabulary, merged)
    return vocabulary


def _file(checkpoint: Checkpoint) -> bytes | None:
    return checkpoint.file("tokenizer.json") if "tokenizer.json" in checkpoint.files else None


def _warn(vocabulary: OutputVocabulary, merged: Sequence[str]) -> list[str]:
    chosen, lines = vocabulary.chosen, []
    tokenizers = {member.name: member.tokenizer for member in vocabulary.members}
    if chosen.left_out:
        lines.append(
            f"{vocabulary.lead}: {tokens_in_words(chosen.left_out)} left out: its embeddings have no such rows"
        )
    for name in merged:
        if tokenizers[name].kind != chosen.lead.kind:
            lines.append(
                f"{name} has a {tokenizers[name].kind} tokenizer, the output a {chosen.lead.kind} one: "
                "tokens are told by the text that they stand for"
            )
            continue
        lost = [
            token for token in tokenizers[name].tokens if token not in chosen.tokens and token not in chosen.left_out
        ]
        if lost:
            lines.append(f"the output lacks {tokens_in_words(lost)} of {name}")
    by_id = {index: token for token, index in chosen.tokens.items()}
    made = [by_id[int(index)] for index in vocabulary.rows.unknown]
    if made:
        how = {"mean": "the mean of all rows", "zero": "zeros", "omp": "matching pursuit"}
        way = how.get(vocabulary.wanted.unknown, vocabulary.wanted.unknown)
        lines.append(f"no merged model has {tokens_in_words(made)}; the rows are made: {way}")
    rebuilt = vocabulary.rebuilt
    if rebuilt is not None:
        lines += [
            f"{number:,} merges of {name} are left out: their parts are no tokens of the output"
            for name, number in rebuilt.dropped.items()
        ]
        lines += [f"the tokenizer's {role} is no token of the output" for role in rebuilt.missing_roles()]
        own = [name for name in SLOW if name in vocabulary.checkpoints[vocabulary.lead].files]
        stale = [
            name
            for name in own
            if rebuilt.lead.form == "tokenizer.json" or name not in (rebuilt.lead.form, "merges.txt")
        ]
        if stale:
            lines.append(f"{', '.join(stale)} of {vocabulary.lead} left out: it does not hold the output's tokens")
    return [*lines, *digit_warnings({name: tokenizers[name] for name in merged})]
