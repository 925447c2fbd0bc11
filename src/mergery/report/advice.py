"""What the comparison of methods says of a planned merge."""

from __future__ import annotations

from collections.abc import Mapping

from mergery.planning.plan import Plan
from mergery.recipe import Source
from mergery.report.advised import BELOW, RULE, SAFE, WORLDS
from mergery.report.interference import WORDS

HELD_BACK = ("scale", "weight", "weights")  # settings by which a merge is not as it comes


def advice(plan: Plan) -> list[str]:
    """What to know of the recipe's method, where it merges several fine-tunes and nothing is set that holds it back.

    A method is spoken of that scored below the base, with nothing set, in a world of the comparison (docs/which-method.md).
    """
    merge = plan.recipe.merge
    fallen = BELOW.get(merge.method, ())
    if not fallen or merge.base is None or len(merge.models) < 2 or any(name in merge.settings for name in HELD_BACK):
        return []
    sources = [plan.recipe.models.get(name) for name in (merge.base, *merge.models)]
    paths = [str(source.path) for source in sources if isinstance(source, Source) and isinstance(source.path, str)]
    command = f"mergery inspect {' '.join(paths)} --interference" if len(paths) == len(sources) else ""
    safe = " and ".join(SAFE)
    return [
        f"{merge.method}, with nothing set, fell below the base in {len(fallen)} of {len(WORLDS)} worlds of the comparison "
        f"({', '.join(fallen)}); {safe} did not in any" + (f". How these models meet: {command}" if command else "")
    ]


def what_won(facts: Mapping[str, float]) -> str:
    """Which method did best in the comparison where task vectors meet as these do; nothing where no measure foretold it."""
    if RULE is None:
        return ""
    measure, bound, below, above = RULE
    side, name = (f"{bound:g} or more", above) if facts[measure] >= bound else (f"less than {bound:g}", below)
    return (
        f"Of {len(WORLDS)} worlds of the comparison, where the {WORDS[measure]} is {side}, {name} did best with nothing set. "
        "It is a beginning: measure it against linear."
    )
