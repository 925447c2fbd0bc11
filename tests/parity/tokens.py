"""Models of one family whose vocabularies differ, through both programs: rows are compared token by token.

mergekit gives new tokens ids in no fixed order, so the two outputs may number them differently.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from tests.parity.compare import EXACT, loaded, stored
from tests.parity.models import VOCABULARY, generator, write_tokenizer
from tests.parity.programs import mergery_merge

if TYPE_CHECKING:
    from tests.parity.__main__ import Session

ROWS = ("model.embed_tokens.weight", "lm_head.weight")
WORDS = {"base": ("alpha",), "a": ("beta", "gamma", "delta"), "b": ("gamma", "alpha", "epsilon", "zeta")}
EXTRA = {"base": 0, "a": 5, "b": -9}  # rows more than the family's


@dataclass(frozen=True)
class TokenCase:
    """One file over one family; `text` holds `$base`, `$a`, `$b`."""

    name: str
    text: str
    family: str = "llama"


def file(method: str, tokens: str, own: str = "{weight: 0.3}|{weight: 0.6}", base: str = "") -> str:
    lines = [f"merge_method: {method}", "dtype: float32", "models:"]
    for member, parameters in zip("ab", own.split("|"), strict=True):
        lines.append(f"  - {{model: ${member}, parameters: {parameters}}}")
    return "\n".join([*lines, *([f"base_model: {base}"] if base else []), tokens]) + "\n"


SINGLE = """tokenizer:
  source: union
  pad_to_multiple_of: 32
  tokens:
    alpha: {source: {kind: model_token, model: $a, token: beta}}
    beta: {source: {kind: zero}}
    gamma: {source: $b, force: true}
    new: {source: {kind: model_token, model: $b, token_id: 11}}
    none: {source: {kind: zero}}
"""
UNION = "tokenizer_source: union"
THINNED = "{weight: 0.3, density: 0.6}|{weight: 0.6, density: 0.4}"
CASES = [
    *(TokenCase(UNION, file("linear", UNION), family) for family in ("llama", "llama_tied", "qwen2")),
    TokenCase("union, with a base", file("task_arithmetic", UNION, base="$base")),
    TokenCase("union, ties", file("ties", UNION, base="$base", own=THINNED)),
    TokenCase("union, base_model joins", file("linear", f"{UNION}\nparameters: {{weight: 0.5}}", base="$base")),
    TokenCase("union, slerp", file("slerp", f"{UNION}\nparameters: {{t: 0.4}}", base="$a", own="{}|{}")),
    TokenCase("tokenizer_source: base", file("task_arithmetic", "tokenizer_source: base", base="$base")),
    TokenCase("tokenizer_source: a model", file("linear", "tokenizer_source: $b")),
    TokenCase("tokenizer: {source: a model} that is not merged", file("linear", "tokenizer: {source: $base}")),
    TokenCase("pad_to_multiple_of", file("linear", "tokenizer: {source: union, pad_to_multiple_of: 64}")),
    TokenCase("single tokens", file("linear", SINGLE)),
    TokenCase("single tokens, with a base", file("task_arithmetic", SINGLE, base="$base")),
]


def members(session: Session, family: str) -> dict[str, Path]:
    """Members of a family with vocabularies of their own; made on first use."""
    home = session.work / "models" / f"{family}-tokens"
    plain = session.members(family, "float32")
    for name in WORDS:
        if not (home / name / "tokenizer.json").exists():
            shutil.copytree(plain[name], home / name)
            _resize(home / name, family, name)
    return {name: home / name for name in WORDS}


def _resize(folder: Path, family: str, name: str) -> None:
    count = VOCABULARY + EXTRA[name]
    weights = load_file(folder / "model.safetensors")
    for tensor in ROWS:
        if tensor in weights:
            own = weights[tensor]
            more = 0.02 * torch.randn(
                max(0, count - len(own)), own.shape[1], generator=generator(family, name, tensor, "rows")
            )
            weights[tensor] = torch.cat((own, more))[:count].contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": count}))
    write_tokenizer(folder, WORDS[name], count)


def compare_tokens(session: Session, case: TokenCase) -> tuple[list[str], str | None]:
    """The cells of the table, and what is wrong."""
    folder, home = session.fresh(), members(session, case.family)
    cells = [case.name, case.family, "", ""]
    text = case.text
    for name, path in sorted(home.items(), key=lambda item: -len(item[0])):
        text = text.replace(f"${name}", str(path))
    config = folder / "config.yml"
    config.write_text(text)
    error = session.mergekit.merge(config, folder / "mergekit") or mergery_merge(config, folder / "mergery")
    if error:
        return cells, error
    loaded(folder / "mergery")
    problem, gap, count = _distance(folder / "mergery", folder / "mergekit")
    cells[2:] = [str(count), f"{gap:.1e}"]
    if problem is None and gap > EXACT:
        problem = f"{gap:.2e} apart"
    if problem is None:
        shutil.rmtree(folder)
    return cells, problem


def _distance(mine: Path, theirs: Path) -> tuple[str | None, float, int]:
    """The largest difference of a row of the same token, relative to its tensor's magnitude; how many tokens."""
    a, b = stored(mine), stored(theirs)
    own, other = vocabulary(mine), vocabulary(theirs)
    if a.keys() != b.keys():
        return f"other tensors: {sorted(a.keys() ^ b.keys())}", 0.0, len(own)
    if own.keys() != other.keys():
        return f"other tokens: {sorted(own.keys() ^ other.keys())}", 0.0, len(own)
    order = torch.tensor([own[token] for token in other])
    place = torch.tensor(list(other.values()))
    worst = 0.0
    for name, tensor in b.items():
        if a[name].shape != tensor.shape:
            return f"{name} is {tuple(a[name].shape)}, mergekit's {tuple(tensor.shape)}", 0.0, len(own)
        pairs = [(a[name], tensor)]
        if name in ROWS:
            pairs = [(a[name][order], tensor[place]), (a[name][len(own) :], tensor[len(own) :])]
        size = tensor.abs().max().item()
        worst = max([worst, *((x - y).abs().max().item() / size for x, y in pairs if x.numel())])
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (mine, theirs)]
    return None if sizes[0] == sizes[1] else f"vocab_size {sizes[0]}, mergekit's {sizes[1]}", worst, len(own)


def vocabulary(folder: Path) -> dict[str, int]:
    data = json.loads((folder / "tokenizer.json").read_text())
    return data["model"]["vocab"] | {entry["content"]: entry["id"] for entry in data["added_tokens"]}
