"""Let the machine find a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.report.notebook import listening
from mergery.run.events import Notify

if TYPE_CHECKING:
    from mergery import evaluation
    from mergery.exploration.automatic.diagnosis import Recommendation
    from mergery.exploration.automatic.options import AutoOptions
    from mergery.exploration.automatic.running import AutoResult
    from mergery.exploration.flow.options import FlowOptions
    from mergery.exploration.flow.searching import FlowResult
    from mergery.exploration.options import SearchOptions
    from mergery.exploration.searching import SearchResult
    from mergery.exploration.soups.options import SoupOptions
    from mergery.exploration.soups.running import SoupResult


def search(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    tasks: Sequence[str | Path | evaluation.Task] | str | Path | evaluation.Task,
    *,
    options: SearchOptions | None = None,
    evaluation_options: evaluation.EvaluationOptions | None = None,
    tokenizer: Any = None,
    on_event: Notify | None = None,
) -> SearchResult:
    """Find values for what a recipe leaves open, and write the recipe that was found into the folder `out`.

    recipe: a YAML file or a mapping in which settings of methods are `{search: [low, high]}` or `{choose: [...]}`.
    tasks:  task files or `Task`s. Half of their items are searched with, a quarter is for choosing among the best few, and a
            quarter to report on, which no choice sees.
    options: the sampler, the number of candidates, the seed.

    A candidate is never written: one model is in memory, of which only the tensors are made again that a change touches. A
    search that was stopped goes on where it was. Raises MergeryError.
    """
    from mergery import evaluation
    from mergery.exploration.options import SearchOptions
    from mergery.exploration.searching import search

    listed = [tasks] if isinstance(tasks, (str, Path, evaluation.Task)) else list(tasks)
    asked = evaluation_options or evaluation.EvaluationOptions()
    with listening(on_event) as notify:
        return search(
            recipe,
            out,
            listed,
            options=options or SearchOptions(),
            evaluation=asked,
            tokenizer=tokenizer,
            notify=notify,
        )


def soup(
    models: Sequence[Any] | Mapping[str, Any],
    out: str | Path,
    tasks: Sequence[str | Path | evaluation.Task] | str | Path | evaluation.Task,
    *,
    options: SoupOptions | None = None,
    evaluation_options: evaluation.EvaluationOptions | None = None,
    tokenizer: Any = None,
    on_event: Notify | None = None,
) -> SoupResult:
    """Choose the weights with which models are averaged by their scores, and write the recipe into the folder `out`.

    models:  sources of one architecture, in a list or by name.
    tasks:   task files or `Task`s. Half of their items decide; a quarter is for the report, which no choice sees.
    options: the strategy: uniform, greedy (arXiv 2203.05482), or soce (arXiv 2511.13254).

    One model is in memory, and all answers are kept in `out`. Raises MergeryError.
    """
    from mergery import evaluation
    from mergery.exploration.soups.options import SoupOptions
    from mergery.exploration.soups.running import make_soup

    listed = [tasks] if isinstance(tasks, (str, Path, evaluation.Task)) else list(tasks)
    asked = evaluation_options or evaluation.EvaluationOptions()
    with listening(on_event) as notify:
        return make_soup(models, Path(out), listed, options or SoupOptions(), asked, tokenizer, notify)


def auto(
    base: Any,
    models: Sequence[Any] | Mapping[str, Any],
    out: str | Path,
    tasks: Sequence[str | Path | evaluation.Task] | str | Path | evaluation.Task,
    *,
    options: AutoOptions | None = None,
    evaluation_options: evaluation.EvaluationOptions | None = None,
    tokenizer: Any = None,
    on_event: Notify | None = None,
) -> AutoResult:
    """Decide whether and how to merge fine-tunes of a base, and write the recipe that is recommended into the folder `out`.

    models:  two sources or more, in a list or by name.
    tasks:   task files or `Task`s. Half of their items are tried on, a quarter decides, a quarter is for the report.
    options: the budget in minutes, and the seed.

    Models alone are always among what is tried, and a merge is recommended only where it beats the best of them by more than
    chance. Raises MergeryError.
    """
    from mergery import evaluation
    from mergery.exploration.automatic.options import AutoOptions
    from mergery.exploration.automatic.running import choose

    listed = [tasks] if isinstance(tasks, (str, Path, evaluation.Task)) else list(tasks)
    asked = evaluation_options or evaluation.EvaluationOptions()
    with listening(on_event) as notify:
        return choose(base, models, Path(out), listed, options or AutoOptions(), asked, tokenizer, notify)


def recommend(
    base: Any,
    models: Sequence[Any] | Mapping[str, Any],
    out: str | Path,
    *,
    on_event: Notify | None = None,
) -> Recommendation:
    """Recommend a method for fine-tunes of a base from how they meet, without tasks, and write its recipe into `out`.

    models: two sources or more, in a list or by name.

    Nothing is scored. How far behind the best such a choice is was measured on cases that it was not learnt from, and is said
    with it. Where there are tasks, `auto` knows more. Raises MergeryError.
    """
    from mergery.exploration.automatic.diagnosis import recommend

    with listening(on_event) as notify:
        return recommend(base, models, Path(out), notify)


def flow(
    models: Sequence[Any] | Mapping[str, Any],
    out: str | Path,
    tasks: Sequence[str | Path | evaluation.Task] | str | Path | evaluation.Task,
    *,
    options: FlowOptions | None = None,
    evaluation_options: evaluation.EvaluationOptions | None = None,
    tokenizer: Any = None,
    on_event: Notify | None = None,
) -> FlowResult:
    """Find a better order of layers through models of one shape (arXiv 2403.13187), and write its recipe into `out`.

    models:  sources, in a list or by name; embeddings, first layer, last layer and head are the first one's.
    tasks:   task files or `Task`s. Half of their items are searched with; a quarter is for the report.
    options: the sampler, and how long a path may be.

    The recipe is of a plain stacked model. Raises MergeryError.
    """
    from mergery import evaluation
    from mergery.exploration.flow.options import FlowOptions
    from mergery.exploration.flow.searching import find_path

    listed = [tasks] if isinstance(tasks, (str, Path, evaluation.Task)) else list(tasks)
    asked = evaluation_options or evaluation.EvaluationOptions()
    with listening(on_event) as notify:
        return find_path(models, Path(out), listed, options or FlowOptions(), asked, tokenizer, notify)
