"""The small files of a merged model: config, tokenizer, chat template, licence, and the model card."""

from __future__ import annotations

import json

from mergery.checkpoints.file_kinds import NOT_COPIED, is_tokenizer_file
from mergery.planning.plan import Plan
from mergery.report.card import make_card
from mergery.report.tokens import tokenizer_files


def side_files(plan: Plan) -> dict[str, bytes]:
    """Every small file's content by name; config, tokenizer and chat template come from their donors."""
    if plan.adapter is not None:
        return {**plan.adapter.files, "README.md": _card(plan)}
    texts: dict[str, bytes] = {}
    if plan.config:
        texts["config.json"] = (json.dumps(plan.config.plain(), indent=2, sort_keys=True) + "\n").encode()
    donor = plan.view.donor
    config_donor = plan.checkpoints.get(plan.recipe.output.config or "", donor)
    for name in config_donor.files:
        if not is_tokenizer_file(name) and name not in NOT_COPIED:
            texts[name] = config_donor.file(name)
    if plan.generation is not None:
        texts["generation_config.json"] = plan.generation
    own = [name for name in plan.tokenizer.files if is_tokenizer_file(name)]
    texts |= tokenizer_files(plan, own)
    texts["README.md"] = _card(plan)
    return texts


def _card(plan: Plan) -> bytes:
    """The model card in UTF-8, also where it names a file whose name is not, or was read as if it were not."""
    return make_card(plan).encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
