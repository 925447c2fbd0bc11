"""A study: which candidates have been tried, what came of them, and which one is next. It is kept in a file as it goes.

Samplers are Optuna's; they see every range as the numbers from 0 to 1. CMA-ES begins in the middle with a spread of 1/6
(arXiv 2403.13187). Each candidate is drawn by a sampler of its own, seeded by the study's seed and the number of candidates
before it, so that a study which was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mergery.errors import RecipeError, Where
from mergery.evaluation.task import Task
from mergery.exploration.candidates import Candidate
from mergery.exploration.options import SearchOptions
from mergery.exploration.sampling.genes import decoded, encoded, middle
from mergery.exploration.sampling.proposing import OWN, propose
from mergery.recipe.space import Choice, Range, Space

FILE = "study.log"
POPULATION = 16  # of NSGA: fixed, so that a study goes on as it began with more trials


def check_optuna() -> None:
    """Say that Optuna is missing before anything is read. Raises RecipeError."""
    missing = [name for name in ("optuna", "cmaes") if find_spec(name) is None]
    if missing:
        raise RecipeError(f"a search needs {' and '.join(missing)}", hint="pip install 'mergery[search]'")


class Study:
    """An Optuna study in a folder. `question` is a hash of all that decides what its candidates are.

    goals: how many there are; tasks: those whose items are in what candidates gave, which `niches` looks at.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        options: SearchOptions,
        question: str,
        goals: int = 1,
        tasks: Sequence[Task] = (),
    ) -> None:
        """Opens the study of the folder, or begins one. Raises RecipeError where it is of another question."""
        check_optuna()
        self.space, self.options, self.goals, self.tasks = space, options, goals, tuple(tasks)
        self.numbers = [each for each in space.dimensions if isinstance(each.kind, Range)]
        name = options.sampler
        usual = "nsga" if goals > 1 else "cma" if len(self.numbers) > 1 else "tpe"
        self.sampler = usual if name == "auto" else name
        if self.sampler == "cma" and len(self.numbers) < 2:
            why = f"the recipe has {len(self.numbers) or 'no'} open number, and CMA-ES needs two"
            raise RecipeError("cma cannot search this", why=why, hint="--sampler tpe")
        if self.sampler == "quadratic" and len(self.numbers) < len(space.dimensions):
            why = "the recipe has open choices, and a function is of numbers"
            raise RecipeError("quadratic cannot search this", why=why, hint="--sampler tpe")
        with quiet_optuna() as optuna:
            backend = optuna.storages.journal.JournalFileBackend(str(folder / FILE))
            storage = optuna.storages.JournalStorage(backend)
            self.study = optuna.create_study(
                storage=storage,
                study_name="search",
                directions=["maximize"] * goals,
                load_if_exists=True,
                sampler=self._sampler(0),
            )
            known = self.study.user_attrs.get("question")
            if known is None:
                self.study.set_user_attr("question", question)
            elif known != question:
                raise RecipeError(
                    "this folder holds another search",
                    where=Where(str(folder)),
                    why="its recipe, models, tasks, sampler or seed were others",
                    hint="name another folder, or remove this one",
                )
            self.left: list[Any] = []  # candidates that were drawn and never told: whoever was at them is gone
            self.pending = 0  # candidates that are drawn and not told
            for trial in self.study.get_trials(deepcopy=False):
                if trial.state.name == "RUNNING" and len(trial.params) == len(space.dimensions):
                    self.left.append(trial)
                elif not trial.state.is_finished():
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        self.candidates: list[Candidate] = []
        for number, trial in enumerate(self._complete()):
            own = trial.user_attrs["candidate"]
            self.candidates.append(Candidate(number, **{**own, "goals": tuple(own["goals"])}))

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Plain data that belong to the study, made where they are not kept in it yet."""
        with quiet_optuna():
            if name not in self.study.user_attrs:
                self.study.set_user_attr(name, make())
            return self.study.user_attrs[name]

    def start(self) -> dict[str, Any]:
        """The first candidate: the middle of every range, and the first of every choice."""
        return {each.name: middle(each.kind) for each in self.space.dimensions}

    @property
    def _first(self) -> int:
        """The number of the first candidate of the present draw: the very first is alone, the others come some at a time."""
        width, number = self.options.width, len(self.candidates)
        return number and 1 + (number - 1) // width * width

    @property
    def best_before(self) -> Candidate | None:
        """The best candidate that was asked all items, of those that were told before the present draw."""
        before = [each for each in self.candidates[: self._first] if not each.stopped]
        return max(before, key=lambda each: each.score, default=None)

    def draw(self) -> list[tuple[Any, dict[str, Any]]]:
        """What is left of the present draw, as far as it is wanted: candidates as `ask` gives them.

        All of a draw is drawn, so that a study that is given more trials later goes on with it.
        """
        whole = self._first + self.options.width if self.candidates else 1
        drawn = [self.ask() for _ in range(whole - len(self.candidates))]
        return drawn[: self.most - len(self.candidates)]

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """The next candidate: a mark for `tell`, and its values."""
        number, dimensions = len(self.candidates) + self.pending, self.space.dimensions
        self.pending += 1
        with quiet_optuna() as optuna:
            self.study.sampler = self._sampler(number)
            if self.left:
                trial = optuna.trial.Trial(self.study, self.left.pop(0)._trial_id)
            else:
                fixed = None if number else [encoded(each.kind, self.start()[each.name]) for each in dimensions]
                fixed = next(itertools.islice(self.grid(), number, None), fixed) if self.sampler == "grid" else fixed
                if self.sampler in OWN:
                    before = self.candidates[: self._first]
                    own = propose(self.sampler, self.space, self.tasks, before, number, self._seed(number))
                    kinds = (each.kind for each in dimensions)
                    fixed = [int(g) if isinstance(k, Choice) else float(g) for k, g in zip(kinds, own, strict=True)]
                if fixed is not None:
                    self.study.enqueue_trial(dict(zip((each.name for each in dimensions), fixed, strict=True)))
                trial = self.study.ask({each.name: _distribution(each.kind, optuna) for each in dimensions})
        return trial, {each.name: decoded(each.kind, trial.params[each.name]) for each in dimensions}

    def tell(
        self,
        trial: Any,
        values: Mapping[str, Any],
        scores: Sequence[float],
        items: Mapping[str, list[float]],
        *,
        stopped: bool,
    ) -> Candidate:
        """What came of a candidate, a score for each goal; it is in the file when this returns."""
        own = {
            "values": dict(values), "score": math.fsum(scores) / len(scores), "stopped": stopped, "items": dict(items),
            "goals": tuple(scores) if self.goals > 1 else (),
        }  # fmt: skip
        with quiet_optuna():
            trial.set_user_attr("candidate", own)
            self.study.tell(trial, list(scores))
        candidate = Candidate(len(self.candidates), **own)
        self.candidates.append(candidate)
        self.pending -= 1
        return candidate

    @property
    def best(self) -> Candidate | None:
        """The best candidate that was asked all items."""
        return max((each for each in self.candidates if not each.stopped), key=lambda each: each.score, default=None)

    def centre(self) -> dict[str, Any] | None:
        """The mean of the last generation's better half, weighted as CMA-ES moves its mean; None before there is one.

        It is less lucky than the best candidate. Choices are those of the generation's best.
        """
        count = generation(len(self.numbers))
        last = sorted(self.candidates[-count:], key=lambda each: -each.score)[: count // 2]
        if len(self.candidates) < 2 * count or not self.numbers:
            return None
        weights = np.log(count / 2 + 0.5) - np.log(np.arange(1, len(last) + 1))
        weights /= weights.sum()
        centre = dict(last[0].values)
        for each in self.numbers:
            assert isinstance(each.kind, Range)
            column = np.array([candidate.values[each.name] for candidate in last], np.float64)
            value = float(np.exp(weights @ np.log(column))) if each.kind.log else float(weights @ column)
            centre[each.name] = round(value) if each.kind.whole else min(max(value, each.kind.low), each.kind.high)
        return centre

    def _complete(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]

    def _sampler(self, number: int) -> Any:
        """The sampler of one candidate."""
        import optuna

        samplers, seed = optuna.samplers, self._seed(number)
        match self.sampler:
            case "cma":
                return samplers.CmaEsSampler(
                    seed=seed, n_startup_trials=1, warn_independent_sampling=False,
                    independent_sampler=samplers.RandomSampler(seed=seed),
                )  # fmt: skip
            case "tpe":
                return samplers.TPESampler(seed=seed, multivariate=True)
            case "gp":
                return samplers.GPSampler(seed=seed, deterministic_objective=True)
            case "nsga":
                kind = samplers.NSGAIISampler if self.goals <= 3 else samplers.NSGAIIISampler
                return kind(seed=seed, population_size=POPULATION)
        return samplers.RandomSampler(seed=seed)

    def _seed(self, number: int) -> int:
        """The seed of one candidate."""
        hashed = hashlib.blake2b(f"search\0{self.options.seed}\0{number}".encode(), digest_size=4).digest()
        return int.from_bytes(hashed, "little") >> 1

    def grid(self) -> Iterator[tuple[Any, ...]]:
        """The grid's points, as Optuna keeps them: as many of each range as the trials allow, and all of each choice."""
        return itertools.product(*self._columns())

    def _columns(self) -> list[list[Any]]:
        choices = math.prod(len(each.kind.values) for each in self.space.dimensions if isinstance(each.kind, Choice))
        points = max(2, int((self.options.trials / choices) ** (1 / max(1, len(self.numbers))) + 1e-9))
        found: list[list[Any]] = []
        for each in self.space.dimensions:
            kind = each.kind
            if isinstance(kind, Choice):
                found.append(list(range(len(kind.values))))
            else:
                steps = [decoded(kind, place) for place in np.linspace(0, 1, points).tolist()]
                found.append([encoded(kind, value) for value in dict.fromkeys(steps)])
        return found

    @property
    def most(self) -> int:
        """Candidates at most: a grid ends."""
        points = math.prod(map(len, self._columns()))
        return min(self.options.trials, points) if self.sampler == "grid" else self.options.trials


def generation(numbers: int) -> int:
    """Candidates of one generation of CMA-ES in so many dimensions."""
    return 4 + int(3 * math.log(max(1, numbers)))


def _distribution(kind: Range | Choice, optuna: Any) -> Any:
    if isinstance(kind, Choice):
        return optuna.distributions.CategoricalDistribution(list(range(len(kind.values))))
    return optuna.distributions.FloatDistribution(0.0, 1.0)


@contextmanager
def quiet_optuna() -> Iterator[Any]:
    """Optuna, without its log and its remarks on what is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield optuna
    finally:
        optuna.logging.set_verbosity(level)
