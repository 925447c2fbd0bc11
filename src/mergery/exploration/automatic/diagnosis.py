"""`mergery auto --no-tasks`: a method by how the task vectors meet, with how sure that is; nothing is scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.errors import PlanError, RecipeError
from mergery.exploration.automatic.running import RECORD, recipe_of, sources_of
from mergery.exploration.folder import RECIPE, locked
from mergery.planning.plan import make_plan
from mergery.recipe.document import write_yaml
from mergery.recipe.paths import rebased
from mergery.report.advised import SAFE
from mergery.report.foretelling import Foretold, foretell
from mergery.report.interference import MATRICES, Interference, measure
from mergery.run.events import Found, Notify, ignore


@dataclass(frozen=True)
class Recommendation:
    """A method by diagnosis alone."""

    recipe: Path
    method: str
    words: tuple[str, ...]  # what is recommended, and how sure that is
    foretold: Foretold | None  # None where nothing could be measured
    interference: Interference | None
    skipped: Mapping[str, str]  # methods that were foretold to be better and do not suit these models, and why

    def __repr__(self) -> str:
        return f"<Recommendation: {self.words[0]}>"

    def plain(self) -> dict[str, Any]:
        """The recommendation as plain data."""
        return {
            "recipe": str(self.recipe), "method": self.method, "words": list(self.words),
            "behind": None if self.foretold is None else dict(self.foretold.behind),
            "outside": [] if self.foretold is None else list(self.foretold.outside),
            "interference": None if self.interference is None else self.interference.facts(),
            "skipped": dict(self.skipped),
        }  # fmt: skip


def recommend(
    base: Any, models: Sequence[Any] | Mapping[str, Any], out: Path, notify: Notify = ignore
) -> Recommendation:
    """Recommend a method from how the models meet; see `mergery.api.recommend`. Raises MergeryError."""
    sources = sources_of(base, models)
    with locked(out, "recommendation"):
        interference, why = _measured(sources)
        foretold = None if interference is None else foretell(interference.facts())
        method, skipped = _first(sources, list(foretold.behind) if foretold is not None else list(SAFE))
        told = f"{method}, with nothing set, by how the models meet; nothing was scored"
        sure = (
            foretold.words if foretold is not None else (f"nothing could be measured: {why}; {method} is a safe one",)
        )
        place = out / RECIPE
        head = "".join(f"# {line}\n" for line in ("Recommended by mergery auto --no-tasks.", told, *sure))
        place.write_text(
            head + write_yaml(rebased(recipe_of(sources, {"method": method}), Path(), out)), encoding="utf-8"
        )
        result = Recommendation(place, method, (told, *sure), foretold, interference, skipped)
        (out / RECORD).write_text(json.dumps({"mergery": 1, **result.plain()}, indent=1) + "\n", encoding="utf-8")
    notify(Found(place, told, {}))
    return result


def _measured(sources: Mapping[str, Any]) -> tuple[Interference | None, str]:
    plan = make_plan(recipe_of(sources, {"method": "iso_c"}))
    try:
        return measure(plan, MATRICES), ""
    except PlanError as error:
        return None, error.what
    finally:
        plan.close()


def _first(sources: Mapping[str, Any], methods: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The first method that the models suit, and why those before it do not. Raises RecipeError where they suit none."""
    skipped: dict[str, str] = {}
    for method in methods:
        try:
            make_plan(recipe_of(sources, {"method": method})).close()
        except (PlanError, RecipeError) as error:
            skipped[method] = error.what
        else:
            return method, skipped
    why = "; ".join(dict.fromkeys(skipped.values()))
    raise RecipeError("no method suits these models", why=why, hint="mergery plan says what is wrong with one of them")
