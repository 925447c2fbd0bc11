"""Whether a model in other coordinates answers as it did: both are run on a few tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergery.checkpoints import open_checkpoint
from mergery.errors import DataError
from mergery.evaluation.loading import check_transformers, model_of, quiet
from mergery.planning.plan import make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.recipe import Output
from mergery.report.files import side_files
from mergery.run.events import ignore
from mergery.run.merging import merge_to_memory
from mergery.run.workers import Options

ROWS, TOKENS, SEED = 4, 16, 0
CLOSE = 1e-4
"""How far answers may be apart in float32, as a share of the largest; half precision rounds weights anew: its own step more."""
STEPS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


def check_answers(recipe: Recipe, folder: Path) -> float:
    """How far the logits of the aligned model are from the model's own, as a share of the largest.

    Raises DataError where that is more than rounding.
    """
    import torch

    check_transformers("checking what a model answers")
    source = recipe.models["model"]
    assert isinstance(source, Source)
    tokens: Any = None
    answers = []
    with torch.no_grad(), quiet():
        for each in (source, Source(str(folder))):
            module = _module(Recipe({"model": each}, recipe.merge, Output("float32"), folder=recipe.folder))
            if tokens is None:
                generator = torch.Generator().manual_seed(SEED)
                tokens = torch.randint(0, int(module.config.vocab_size), (ROWS, TOKENS), generator=generator)
            found = module(input_ids=tokens)
            answers.append(found.logits if hasattr(found, "logits") else found.last_hidden_state)
    with open_checkpoint(folder) as written:
        config = written.config
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    apart = float((answers[0] - answers[1]).abs().max() / answers[0].abs().max())
    most = max(CLOSE, 16 * STEPS.get(dtype, 0.0))
    if not apart <= most:
        why = f"its logits are {apart:.1e} of their largest away from the model's own, more than {most:.1e}"
        raise DataError(
            f"{str(folder)!r} does not answer as the model did", why=why, hint="--dtype float32, or report it"
        )
    return apart


def _module(recipe: Recipe) -> Any:
    """A recipe's model in memory, whether it has a tokenizer or not."""
    plan = make_plan(recipe)
    try:
        return model_of(merge_to_memory(plan, Options(), ignore), side_files(plan), "float32")
    finally:
        plan.close()
