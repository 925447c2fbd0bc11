"""A fused model as a folder: weights, config, tokenizer, a card that says what it was made of, and the same as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergery.alignment.fusion.members import Member
from mergery.alignment.fusion.options import FuseOptions
from mergery.calibration.opening import open_model
from mergery.checkpoints.file_kinds import NOT_COPIED, is_side_file
from mergery.recipe.document import write_yaml
from mergery.report.words import several

MARK = "fusion.json"
RULES = {
    "mince": "of each sequence, the distributions of the model that foretells it best (MinCE)",
    "avgce": "of each sequence, the distributions of all models, each weighed by exp(-loss) (AvgCE)",
}
MATCHES = {
    "spans": "tokens that begin at the same letter are matched",
    "warping": "tokens are matched by dynamic time warping on their edit distances",
}
PAPERS = (
    "FuseLLM: Wan et al. 2024 (arXiv 2401.10491)",
    "FuseChat: Wan et al. 2024 (arXiv 2408.07990)",
)


def write_model(module: Any, target: Member, folder: Path, said: Mapping[str, Any], text: str) -> None:
    """Write a trained module in the target's dtype, with the target's own small files beside it."""
    import torch

    shutil.rmtree(folder, ignore_errors=True)
    module.to("cpu").to(getattr(torch, target.dtype)).save_pretrained(folder)
    target.cutter.tokenizer.save_pretrained(folder)
    with open_model(target.source) as opened:
        for path in sorted(opened.folder.rglob("*")):
            name = path.relative_to(opened.folder).as_posix()
            if path.is_file() and is_side_file(name) and name not in NOT_COPIED:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / MARK).write_text(json.dumps(said, indent=1) + "\n")


def card(said: Mapping[str, Any]) -> str:
    """`README.md`: what was fused, on what, how, and whom to cite."""
    options: Mapping[str, Any] = said["options"]
    front = {"library_name": "transformers", "tags": ["fusion", "distillation", "mergery"]}
    teachers = ", ".join(f"`{name}`" for name in said["teachers"])
    lines = ["---", write_yaml(front).strip(), "---", "", "# A fused model", ""]
    lines += [f"`{said['target']}`, taught by {teachers}, with Mergery's `fuse`.", "", "## Lineage", ""]
    lines += ["| name | fingerprint |", "|---|---|"]
    lines += [f"| {name} | `{mark[:16]}` |" for name, mark in said["fingerprints"].items()]
    data = said["data"]
    lines += ["", f"Data: `{data['file']}`, SHA-256 `{data['sha256'][:16]}`, {several(said['sequences'], 'sequence')} "
              f"of at most {said['longest']} tokens.", ""]  # fmt: skip
    how = f"{options['text']:g} * cross-entropy of the text + {1 - options['text']:g} * that of the teachers' distributions"
    lines += [f"Loss: {how}; {said['before']:.4f} before, {said['after']:.4f} after {several(said['steps'], 'step')} "
              f"(on the first {several(said['looked_at'], 'sequence')}).", ""]  # fmt: skip
    if options["text"] < 1.0:
        lines += [f"Taught: {RULES[options['rule']]}; {MATCHES[options['match']]}.", ""]
    plain = FuseOptions().plain()
    changed = {name: value for name, value in options.items() if value != plain[name]}
    if changed:
        lines += ["## Options", "", "```yaml", write_yaml(changed).strip(), "```", ""]
    lines += ["## Citation", "", *(f"- {paper}" for paper in PAPERS), ""]
    return "\n".join(lines)
