"""Diagnosing: a sample of two models' weights read, compared, and judged."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergery.alignment.diagnosis.reading import Pair, Side
from mergery.alignment.diagnosis.signatures import Tokens, related, tokens
from mergery.alignment.diagnosis.verdict import Diagnosis, Seen, doors, judge
from mergery.alignment.rebasing.models import READERS, WRITERS, same_tokenizer, shared_tokens
from mergery.architecture.symmetries import symmetries_of
from mergery.calibration.opening import open_model
from mergery.errors import PlanError, Where
from mergery.planning.compatibility import config_differences
from mergery.report.inspection import meeting
from mergery.run.events import Notify, Visited, ignore

ROWS = 4  # times the width: rows of shared tokens that are looked at, at most


def diagnose(mine: Any, theirs: Any, *, notify: Notify = ignore) -> Diagnosis:
    """What two models are to each other; see `mergery.api.diagnose`. Raises MergeryError where one cannot be read."""
    with ExitStack() as stack:
        pair = Pair(*(Side(stack.enter_context(open_model(each))) for each in (mine, theirs)))
        for side in (pair.mine, pair.theirs):
            if side.view.architecture.stack is None:
                why = "no stack of layers is known in it"
                where = Where(side.view.donor.location)
                raise PlanError("this model cannot be diagnosed", where=where, why=why, hint="mergery inspect MODEL")
        facts = _facts(pair)
        names = (_name(pair.mine, mine), _name(pair.theirs, theirs))
        alike = not facts["differing"] and facts["depths"][0] == facts["depths"][1]
        rows, turn = _tokens(pair) if facts["families"][0] == facts["families"][1] else (None, None)
        seen: list[Seen] = []
        sampled = list(pair.sampled()) if alike and facts["families"][0] == facts["families"][1] else []
        for number, (layer, name) in enumerate(sampled, 1):
            seen.append(_seen(pair, layer, name, turn))
            notify(Visited(name, number, len(sampled)))
        verdict, why, exact = judge(seen, rows, facts)
        if verdict == "lineage":
            met = meeting(pair.mine.view.donor, pair.theirs.view.donor)
            facts = {**facts, "why_not": met["why_not"]}
        found = tuple(doors(verdict, facts, names, rows, exact=exact))
        return Diagnosis(names, verdict, why, exact, found, rows, tuple(seen), facts)


def _name(side: Side, given: Any) -> str:
    return given if isinstance(given, str) else str(Path(side.view.donor.location))


def _facts(pair: Pair) -> dict[str, Any]:
    both = (pair.mine, pair.theirs)
    configs = [side.view.config for side in both]
    classes = [" ".join(map(str, config.get("architectures") or [])) for config in configs]
    table = pair.embeddings()
    widths = [side.shape(table)[1] if table else None for side in both]
    dtypes = [_dtype(side) for side in both]
    differences = [[key, a, b] for key, a, b in config_differences(*configs)] if all(configs) else []
    return {
        "families": [side.family for side in both], "depths": [side.depth for side in both], "widths": widths,
        "dtypes": dtypes, "tokenizer": same_tokenizer(pair.mine.view.donor, pair.theirs.view.donor),
        "differences": differences, "decoders": all("CausalLM" in each or "LMHead" in each for each in classes),
        "symmetries": all(symmetries_of(config) is not None for config in configs),
        "rows": [side.shape(table)[0] if table else None for side in both], "why_not": [], **pair.sizes,
    }  # fmt: skip


def _dtype(side: Side) -> str:
    kinds: dict[str, int] = {}
    for node in side.view.nodes.values():
        kinds[node.dtype.torch] = kinds.get(node.dtype.torch, 0) + node.elements
    return "decoded" if side.view.donor.decoded else max(kinds, key=lambda kind: kinds[kind])


def _tokens(pair: Pair) -> tuple[Tokens | None, Tensor | None]:
    """How rows of shared tokens are related, and the map of the residual stream that they give."""
    table = pair.embeddings()
    if table is None:
        return None, None
    shapes = [side.shape(table) for side in (pair.mine, pair.theirs)]
    rows = shared_tokens(pair.mine.view.donor, pair.theirs.view.donor, shapes[0][0], shapes[1][0])
    most = ROWS * max(shape[1] for shape in shapes)
    chosen = torch.arange(min(most, len(rows[0]))) * len(rows[0]) // max(1, min(most, len(rows[0])))
    if len(chosen) < 4:
        return None, None
    sides = (pair.mine, pair.theirs)
    picked = [side.rows(table, own[chosen]) for side, own in zip(sides, rows, strict=True)]
    enough = len(chosen) >= 2 * max(shape[1] for shape in shapes)
    found, turn = tokens(*picked, search=enough)
    return found._replace(shared=len(rows[0])), turn if found.turned > 0.5 else None


def _seen(pair: Pair, layer: int, name: str, turn: Tensor | None) -> Seen:
    """One pair of matrices as [its own coordinates, the residual stream], where it stands beside that."""
    a, b = pair.mine.matrix(name), pair.theirs.matrix(name)
    roles, middle = pair.mine.roles(name), layer == pair.mine.depth // 2
    role = next((role for role in roles if role in READERS or role in WRITERS), roles[0])
    if role in WRITERS:
        a, b = a.T.contiguous(), b.T.contiguous()
    plain, expert = related(a, b, spectrum=middle), "expert" in roles
    if turn is None or a.shape[1] != turn.shape[0] or not (role in READERS or role in WRITERS):
        return Seen(name, role, layer, plain, plain, expert)
    if role in READERS:
        kind = "attention" if role.startswith("attention") else "mlp"
        gains = [side.gains(layer, kind, a.shape[1]) for side in (pair.mine, pair.theirs)]
        a, b = (matrix * gain if gain is not None else matrix for matrix, gain in zip((a, b), gains, strict=True))
    return Seen(name, role, layer, plain, related(a @ turn.float(), b, spectrum=middle), expert)
