"""Score against rank: five trained adapters of ranks 4 to 32 as one adapter, in several ways.

    python -m benchmarks.ranks [--work .real]     measure, and write the figures into docs/adapters.md
    python -m benchmarks.ranks --page             write them again, without measuring

The adapters are those of `make real`. What was measured is kept in the folder `--work`: what was stopped goes on where it was.
RobustMerge (arXiv 2502.17159) is made here from its equations: of each factor the largest fifth is kept, rows of A are scaled
back to what they had, over the tasks' mean, and the factors are added up side by side. It wants equal ranks: smaller adapters
are filled up with zeros.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from benchmarks.pages import figures, keep, table
from benchmarks.scores import Notes, score
from benchmarks.zoo.skills import SKILLS

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "adapters.md"
BLOCK = re.compile(r"(<!-- made: python -m benchmarks\.ranks -->\n\n).*?(<!-- end -->)", re.S)
ALL = sum(skill.rank for skill in SKILLS.values())
RANKS = (8, 16, ALL)
WEIGHT = 0.3  # of each adapter in a sum
SUM = {"method": "task_arithmetic", "weight": WEIGHT}
TIES = {"method": "ties", "density": 0.5}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "the exact sum": (SUM, {}, (ALL,)),
    "its best product of the rank, `--space core`": (SUM, {"space": "core"}, RANKS[:-1]),
    "the sum in the best bases for all, `--space shared`": (SUM, {"space": "shared"}, RANKS[:-1]),
    "`ties` in core space, then cut": (TIES, {"space": "core"}, RANKS),
    "`ties` in the best bases for all": (TIES, {"space": "shared"}, RANKS[:-1]),
    "the sum after `--calibrate pico`": (SUM, {"calibrate": "pico"}, RANKS),
}
ROBUST, KEPT = "RobustMerge", 0.2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".real"), help="where merges and scores are kept")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache/zoo", help="where trained models are kept")
    parser.add_argument("--page", action="store_true", help="write the page again, without measuring")
    options = parser.parse_args()
    if not options.page:
        keep("ranks", measure(options.work.resolve(), options.cache.resolve()))
    PAGE.write_text(page(figures("ranks")), encoding="utf-8")


def page(data: Mapping[str, Any]) -> str:
    """docs/adapters.md with the figures."""
    text = "\n".join(lines(data))
    return BLOCK.sub(lambda match: f"{match[1]}{text}\n\n{match[2]}", PAGE.read_text(encoding="utf-8"))


def measure(work: Path, cache: Path) -> dict[str, Any]:
    """Every way at every rank: scores, and the least share that is kept of an adapter."""
    import transformers
    from benchmarks.zoo.real import Real

    import mergery

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    (work / "ranks").mkdir(parents=True, exist_ok=True)
    notes, world = Notes(work / "ranks.json"), Real()
    folder = world.prepare(cache, 0, print).folder
    base, model = folder / "base", world.load(folder / "base")
    models = {name: {"adapters": [str(folder / name)]} for name in SKILLS}
    found: dict[str, dict[str, Any]] = {}
    for way, (merge, adapter, ranks) in WAYS.items():
        for rank in ranks:
            out = work / "ranks" / re.sub(r"\W+", "-", f"{way} {rank}")

            def find(merge: Any = merge, adapter: Any = adapter, rank: int = rank, out: Path = out) -> dict[str, Any]:
                wanted = {**adapter, **({"rank": rank} if rank < ALL else {})}
                recipe = {"models": {"base": {"adapters": []}, **models}, "output": {"adapter": wanted or True}}
                mergery.merge({**recipe, "merge": {**merge, "base": "base", "models": list(models)}}, out)
                return score(world, model, form(base, out))

            found.setdefault(way, {})[str(rank)] = notes.once(f"{way} {rank}", find)
    one = notes.once(ROBUST, lambda: score(world, model, form(base, robust(folder, work / "ranks"))))
    found["RobustMerge, which makes rank 32"] = {str(ALL): one}
    return {"ways": found}


def form(base: Path, adapter: Path) -> dict[str, Any]:
    return {"models": {"model": f"{base}+{adapter}"}, "merge": {"method": "passthrough"}}


def robust(folder: Path, place: Path) -> Path:
    """The adapter that RobustMerge makes of all.

    Of every |A_t| (r, in) and |B_t| (out, r) the largest share stays; s_t = rowsum|A_t| / rowsum|A^_t|, over its mean in t;
    A = sum A^_t, B = sum B^_t diag(s_t).
    """
    import torch
    from safetensors.torch import load_file, save_file

    rank = max(skill.rank for skill in SKILLS.values())
    parts = [load_file(folder / name / "adapter_model.safetensors") for name in SKILLS]
    made = {}
    for name in parts[0]:
        if "lora_A" not in name:
            continue
        twin, ratios, kept = name.replace("lora_A", "lora_B"), [], []
        for part in parts:
            a = torch.nn.functional.pad(part[name], (0, 0, 0, rank - part[name].shape[0]))
            b = torch.nn.functional.pad(part[twin], (0, rank - part[twin].shape[1]))
            thin = [trimmed(each, own) for each, own in ((a, part[name].numel()), (b, part[twin].numel()))]
            ratios.append(a.abs().sum(dim=1) / thin[0].abs().sum(dim=1).clamp(min=1e-12))
            kept.append(thin)
        total = torch.stack(ratios)
        scales = total / total.mean(dim=0).clamp(min=1e-12)
        made[name] = reduce(torch.add, (a for a, _ in kept)).contiguous()
        scaled = (b * s for (_, b), s in zip(kept, scales, strict=True))
        made[twin] = reduce(torch.add, scaled).contiguous()
    out = place / "robust"
    out.mkdir(exist_ok=True)
    save_file(made, out / "adapter_model.safetensors")
    said = json.loads((folder / next(iter(SKILLS)) / "adapter_config.json").read_text())
    said |= {"r": rank, "lora_alpha": 2 * rank}  # every adapter's alpha is twice its rank
    (out / "adapter_config.json").write_text(json.dumps(said))
    return out


def trimmed(matrix: Any, own: int) -> Any:
    """A matrix with its largest entries alone: a share of so many."""
    least = matrix.abs().flatten().topk(max(1, round(KEPT * own))).values[-1]
    return matrix * (matrix.abs() >= least)


def lines(data: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown: mean score, and bits of a byte of prose."""
    rows = []
    for way, by_rank in data["ways"].items():
        cells = []
        for rank in map(str, RANKS):
            one = by_rank.get(rank)
            cells.append(f"{sum(one[name] for name in SKILLS) / len(SKILLS):.0%} ({one['prose']:.2f})" if one else "")
        rows.append((way, *cells))
    return table(("way", *(f"rank {rank}" for rank in RANKS)), rows)


if __name__ == "__main__":
    main()
